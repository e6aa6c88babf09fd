"""The four-layer net on which Krizhevsky et al. 2012 (NIPS) try their ideas on CIFAR-10 before ImageNet.

| layer | kernel / stride / padding | maps | output for 32 pixels |
|---|---|---|---|
| conv1, max pool | 5x5 / 1 / 2, 3x3 / 2 | 32 | 16x16 |
| conv2, average pool | 5x5 / 1 / 2, 3x3 / 2 | 32 | 8x8 |
| conv3, average pool | 5x5 / 1 / 2, 3x3 / 2 | 64 | 4x4 |
| head | fully connected | | classes |

The paper says "four-layer convolutional network" and no more: figure 1 compares ReLU and tanh on it without any
regularisation, section 3.3 local response normalisation. Kernels, maps and pools are those of its author's published
cuda-convnet (layers-18pct); the constants of the normalisation are the paper's for ImageNet.
"""

from typing import Literal

import jax
from flax import nnx

from gradflow.arrays import Images, Logits
from gradflow.errors import BadInput, at_least, share
from gradflow.measuring.hooks import Hook, no_hook
from gradflow.nets.layers.atoms import Activation, Atoms, Dropout, Padding, check_image_size
from gradflow.nets.layers.normalisations import Normalisation, local_response_normalisation
from gradflow.nets.layers.pooling import average_pool, max_pool
from gradflow.nets.layers.streams import streams

DEPTH = 4
MAPS = (1, 1, 2)  # of each convolution, in units of the width
POOLS = (max_pool, average_pool, average_pool)
POOLINGS = {"overlapping": 3, "plain": 2}  # the side of the windows, which lie 2 apart
LEAST = 8  # pixels a side: three pools, each of which halves


class Net(nnx.Module):
    """Three times convolution, activation, pool; then the classifier. Raises `BadInput` for images of another size."""

    def __init__(self, classes, channels, image, width, lrn, pooling, dropout, atoms, rngs, side):
        self.image, self.lrn, self.window, self.activation = image, lrn, POOLINGS[pooling], atoms.activation
        for layer, maps in enumerate(MAPS, start=1):
            setattr(self, f"conv{layer}", atoms.convolution(channels, maps * width, 5, bias=0.0, rngs=rngs))
            setattr(self, f"norm{layer}", atoms.normalisation(maps * width, rngs=rngs))
            channels = maps * width
        self.dropout = Dropout(dropout, rngs=side)
        self.head = atoms.linear((image // 8) ** 2 * channels, classes, rngs=rngs)

    def __call__(self, images: Images, hook: Hook = no_hook) -> Logits:
        """Logits; `hook(name, x)` is called at every point of the spine."""
        check_image_size(self.image, images)
        x = images
        for layer, pool in enumerate(POOLS, start=1):
            convolution, norm = getattr(self, f"conv{layer}"), getattr(self, f"norm{layer}")
            x = self.activation(hook(f"conv{layer}", norm(convolution(x))))
            # Windows that overlap reach over the edge, so that maps get half as wide either way.
            x = pool(x, self.window, 2, partial=self.window == 3)
            if self.lrn and layer < 3:
                x = local_response_normalisation(x)
        return hook("head", self.head(self.dropout(x.reshape(len(x), -1))))


def cnn(
    *,
    classes: int,
    channels: int,
    depth: int = DEPTH,
    seed: int | jax.Array | None = 0,
    image: int = 32,
    width: int = 32,
    lrn: bool = False,
    dropout: float = 0.0,
    pooling: Literal["overlapping", "plain"] = "overlapping",
    normalisation: Normalisation = "none",
    activation: Activation = "relu",
    initialisation: str = "he",
    padding: Padding = "zero",
    dtype=None,
) -> Net:
    """The net; as in figure 1 there is no regularisation unless asked for. Raises `BadInput` for what is not legal.

    Args:
        classes: Of the classifier.
        channels: Of the images.
        depth: Weighted layers: 4.
        seed: Of the weights.
        image: The side of the images in pixels, at least 8.
        width: Maps of the first layer; others are in proportion.
        lrn: Local response normalisation after the first two pools (section 3.3).
        dropout: The share of its inputs that the classifier does not see in training.
        pooling: Windows of 3x3 that overlap, or of 2x2 that do not; both lie 2 apart.
        normalisation: Between convolution and activation.
        activation: Of all layers but the last.
        initialisation: Of the weights: he, glorot, lecun, orthogonal or delta_orthogonal, each with an optional gain as
            in he(0.5); or normal(0.01) with its standard deviation.
        padding: What lies beyond the edge of a map: zeros, or with circular the opposite edge, so that no window sees a
            border.
        dtype: Of the convolutions; None is that of the parameters, float32.
    """
    if depth != DEPTH:
        raise BadInput(f"net 'cnn' has no depth {depth}: it has {DEPTH} weighted layers")
    at_least("image", image, LEAST)
    at_least("width", width, 1)
    share("dropout", dropout)
    atoms = Atoms(normalisation, activation, initialisation, dtype, padding)
    rngs, side = streams(seed)
    return Net(classes, channels, image, width, lrn, pooling, dropout, atoms=atoms, rngs=rngs, side=side)
