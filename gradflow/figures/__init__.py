"""How it looks: from tables and numbers to figures."""

from gradflow.figures import charts, plot

__all__ = ["charts", "plot"]
