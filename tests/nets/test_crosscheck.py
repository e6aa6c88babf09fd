"""Our nets against torchvision's, with the same weights on the same images: logits, and every layer's gradient norms.

An implementation that shares no code with ours, in float64. It needs the extra `crosscheck`, which is large.
"""

import copy
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import nets
from gradflow.arrays import Heads
from gradflow.measuring.hooks import Recorder
from gradflow.training.step import gradients

torch: Any = pytest.importorskip("torch", reason="needs torch: pip install 'gradflow[crosscheck]'")
try:
    vision: Any = pytest.importorskip("torchvision", reason="needs torchvision: pip install 'gradflow[crosscheck]'")
except RuntimeError as error:  # a torchvision built for another torch, such as one with CUDA
    pytest.skip(f"this torchvision does not fit this torch: {error}", allow_module_level=True)

CLOSE = 1e-4  # relative; what is reached in float64 is printed
IMAGES = 2


def resnet(model: Any, depth: int) -> list[tuple]:
    """Our layer, our norm, their layer, their norm."""
    pairs, number = [("stem", "norm", model.conv1, model.bn1)], 0
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:
            number += 1
            name = f"block{number:02d}"
            layers = range(1, 3 + (depth >= 50))
            pairs += [
                (f"{name}/conv{i}", f"{name}/norm{i}", getattr(block, f"conv{i}"), getattr(block, f"bn{i}"))
                for i in layers
            ]
            if block.downsample is not None:
                pairs.append((f"{name}/projection", f"{name}/projection_norm", *block.downsample))
            if depth >= 50:  # torchvision strides in the 3x3 layer, the paper in the first one
                block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return [*pairs, ("head", None, model.fc, None)]


def vgg(model: Any) -> list[tuple]:
    convolutions = [one for one in model.features if isinstance(one, torch.nn.Conv2d)]
    norms = [one for one in model.features if isinstance(one, torch.nn.BatchNorm2d)]
    names = [
        f"{block}_{layer}" for block, count in enumerate((1, 1, 2, 2, 2), start=1) for layer in range(1, count + 1)
    ]
    pairs = [
        (f"conv{n}", f"norm{n}", *both) for n, both in zip(names, zip(convolutions, norms, strict=True), strict=True)
    ]
    dense = [one for one in model.classifier if isinstance(one, torch.nn.Linear)]
    return pairs + [(name, None, one, None) for name, one in zip(("fc6", "fc7", "head"), dense, strict=True)]


def alexnet(model: Any) -> list[tuple]:
    layers = [one for one in model.modules() if isinstance(one, (torch.nn.Conv2d, torch.nn.Linear))]
    names = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "head")
    return [(name, None, one, None) for name, one in zip(names, layers, strict=True)]


def googlenet(model: Any) -> list[tuple]:
    def basic(name: str, module: Any) -> tuple:
        return name, f"{name}_norm", module.conv, module.bn

    pairs = [basic("conv1", model.conv1), basic("conv2_reduce", model.conv2), basic("conv2", model.conv3)]
    for module in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        theirs = getattr(model, f"inception{module}")
        branches = {
            "1x1": theirs.branch1,
            "3x3_reduce": theirs.branch2[0],
            "3x3": theirs.branch2[1],
            "5x5_reduce": theirs.branch3[0],
            "5x5": theirs.branch3[1],
            "pool_projection": theirs.branch4[1],
        }
        pairs += [basic(f"inception{module}/{name}", branch) for name, branch in branches.items()]
    for number in (1, 2):
        theirs, name = getattr(model, f"aux{number}"), f"auxiliary{number}"
        pairs += [basic(f"{name}/conv", theirs.conv), (f"{name}/fc", None, theirs.fc1, None)]
        pairs.append((f"{name}/head", None, theirs.fc2, None))
    return [*pairs, ("head", None, model.fc, None)]


IMAGENET = {"family": "imagenet", "classes": 1000, "channels": 3}
RESNET = {"net": "residual", "shortcut": "B"}
NETS: dict[str, tuple[dict[str, Any], Any, dict[str, Any]]] = {
    f"resnet{depth}": ({**RESNET, "depth": depth}, functools.partial(resnet, depth=depth), {}) for depth in (18, 34, 50)
}
NETS |= {
    "vgg11_bn": ({"net": "vgg", "depth": 11, "normalisation": "batch", "dropout": 0.0, "image": 224}, vgg, {}),
    "alexnet": ({"net": "alexnet", "variant": "one_tower", "dropout": 0.0, "image": 224}, alexnet, {}),
    "googlenet": (
        {"net": "googlenet", "variant": "torchvision", "dropout": 0.0, "image": 224, "auxiliary": True},
        googlenet,
        {"aux_logits": True, "init_weights": False, "transform_input": False},
    ),
}  # fmt: skip


def kernel(module: Any, before: tuple[int, int, int] | None) -> np.ndarray:
    """Their weights in our layout; a layer after flattening sees `before`, (channel, height, width), in our order."""
    weight = module.weight.detach().numpy()
    if weight.ndim == 4:
        return weight.transpose(2, 3, 1, 0)
    if before is not None:
        weight = weight.reshape(len(weight), *before).transpose(0, 2, 3, 1).reshape(len(weight), -1)
    return weight.T


def put(tree: Any, path: str, arrays: dict[str, np.ndarray]) -> None:
    *folders, last = path.split("/")
    for folder in folders:
        tree = tree[folder]
    assert {name: leaf.shape for name, leaf in tree[last].items()} == {name: one.shape for name, one in arrays.items()}
    tree[last] = {name: jnp.asarray(one) for name, one in arrays.items()}


def theirs_of(model: Any, pairs: list[tuple], images: np.ndarray, labels: np.ndarray) -> tuple:
    """Logits, weight gradient norms and gradient norms at the layers' responses, by our names."""
    responses = {}
    for name, _, layer, norm in pairs:

        def keep(module, inputs, output, name=name):  # fmt: skip
            output.retain_grad()
            responses[name] = output
            return output.clone()  # what follows may change it in place

        (norm or layer).register_forward_hook(keep)
    answer = model(torch.tensor(images.transpose(0, 3, 1, 2)))
    several = (answer.logits, answer.aux_logits1, answer.aux_logits2) if hasattr(answer, "aux_logits1") else (answer,)
    losses = [torch.nn.functional.cross_entropy(one, torch.tensor(labels)) for one in several]
    (losses[0] + 0.3 * sum(losses[1:])).backward()
    weights = {name: np.sqrt(sum(float((p.grad**2).sum()) for p in layer.parameters())) for name, _, layer, _ in pairs}
    return several[0].detach().numpy(), weights, {n: float(r.grad.norm()) for n, r in responses.items()}


@pytest.mark.parametrize("name", NETS)
def test_logits_and_every_gradient_norm_are_torchvisions(name, capsys):
    settings, pair, more = NETS[name]
    settings = {**IMAGENET, **settings}
    torch.manual_seed(0)
    model = getattr(vision.models, name)(weights=None, **more).double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if name == "googlenet":  # its own initialisation needs scipy and minutes
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.kaiming_normal_(parameter)
    pairs = pair(model)
    draw = np.random.default_rng(0)
    images, labels = draw.normal(size=(IMAGES, 224, 224, 3)), draw.integers(0, 1000, IMAGES)
    before = {"fc6": (512, 7, 7) if name == "vgg11_bn" else (256, 6, 6)}
    before |= {f"auxiliary{number}/fc": (128, 4, 4) for number in (1, 2)}
    with jax.enable_x64(True):
        net = nets.build(settings.pop("net"), **settings)
        graph, params, rest = nets.split(net)
        points = nets.points_of(net, (224, 224, 3))
        params = copy.copy(params)
        for ours, norm, layer, their_norm in pairs:
            arrays = {"kernel": kernel(layer, before.get(ours))}
            if layer.bias is not None:
                arrays["bias"] = layer.bias.detach().numpy()
            put(params, ours, arrays)
            if norm:
                scale, shift = (one.detach().numpy() for one in (their_norm.weight, their_norm.bias))
                put(params, norm, {"scale": scale, "bias": shift})
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == sum(p.numel() for p in model.parameters())
        params, rest = (jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree)
                        for tree in (params, rest))  # fmt: skip
        inputs = jnp.asarray(images), jnp.asarray(labels)
        both = jax.jit(lambda params, rest, *inputs: (
            _logits(graph, points, params, rest, inputs[0]), gradients(graph, points, params, rest, *inputs)[:2]
        ))  # fmt: skip
        logits, (gradient, backward) = both(params, rest, *inputs)
        mine = {
            layer: float(np.sqrt(sum(float(jnp.sum(jnp.square(a))) for a in jax.tree.leaves(arrays))))
            for layer, arrays in nets.weighted_layers(gradient).items()
        }
    wanted, weights, responses = theirs_of(model, pairs, images, labels)
    assert set(mine) == set(weights)
    worst = {
        "logits": np.max(np.abs(np.asarray(logits) - wanted)) / np.max(np.abs(wanted)),
        "weight gradients": max(abs(mine[layer] / one - 1) for layer, one in weights.items()),
        "responses' gradients": max(abs(float(backward[layer]) / one - 1) for layer, one in responses.items()),
    }
    with capsys.disabled():
        result = ", ".join(f"{what} {one:.1e}" for what, one in worst.items())
        print(f"\n{name}: {len(weights)} layers; largest relative difference: {result}")
    assert max(worst.values()) < CLOSE


def _logits(graph, points, params, rest, images):
    sinks = {point.name: jnp.zeros(()) for point in points}
    answer, _ = nets.apply(graph, params, rest, images, Recorder(sinks))
    return answer.logits if isinstance(answer, Heads) else answer
