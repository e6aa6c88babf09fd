"""The names of the array shapes that travel through gradflow, said once (jaxtyping; checked at run time in the tests)."""

import jax
import numpy as np
from jaxtyping import Float, Int, Num, UInt8

Images = Num[jax.Array | np.ndarray, "batch height width channel"]
Pixels = UInt8[jax.Array | np.ndarray, "batch height width channel"]
Labels = Int[jax.Array | np.ndarray, "batch"]
Logits = Float[jax.Array, "batch classes"]
Scalar = Float[jax.Array, ""]
