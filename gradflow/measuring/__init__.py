"""What is read of a net: at a point, off one array, at a step."""

from gradflow.measuring import hooks

__all__ = ["hooks"]
