"""What is trained: how a net is built by name, counted, and called as a pure function."""

from gradflow.nets.build import NETS, abstract, build, check, settings, usual_image
from gradflow.nets.functional import apply, count_parameters, multiply_adds, points_of, split, weighted_layers

__all__ = [
    "NETS",
    "abstract",
    "apply",
    "build",
    "check",
    "count_parameters",
    "multiply_adds",
    "points_of",
    "settings",
    "split",
    "usual_image",
    "weighted_layers",
]
