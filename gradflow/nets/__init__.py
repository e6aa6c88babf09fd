"""What is trained: how a net is built by name, counted, and called as a pure function."""

from gradflow.nets.build import NETS, abstract, build, complete, first_arrays, identity, settings, takes_image
from gradflow.nets.functional import (
    apply,
    count_parameters,
    dtype_of,
    multiply_adds,
    points_of,
    split,
    structure,
    weighted_layers,
)
from gradflow.nets.layers.backward import fast_gradients

__all__ = [
    "NETS",
    "abstract",
    "apply",
    "build",
    "complete",
    "count_parameters",
    "dtype_of",
    "fast_gradients",
    "first_arrays",
    "identity",
    "multiply_adds",
    "points_of",
    "settings",
    "split",
    "structure",
    "takes_image",
    "weighted_layers",
]
