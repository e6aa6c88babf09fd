"""The names of the array shapes that travel through gradflow, said once; the tests check them at run time."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

Pixels = UInt8[jax.Array | np.ndarray, "batch height width channel"]
Images = Float[jax.Array, "batch height width channel"]
# A unit may change all but the batch: the underscore says that the sizes need not agree within a call.
Maps = Float[jax.Array, "batch _height _width _channel"]
Labels = Int[jax.Array, "batch"]
Logits = Float[jax.Array, "batch classes"]
Scalar = Float[jax.Array, ""]


class Heads(NamedTuple):
    """What a net with auxiliary classifiers returns while training (Szegedy 2014, section 5)."""

    logits: Logits
    auxiliary: tuple[Logits, ...]
    weight: float  # of each auxiliary loss
