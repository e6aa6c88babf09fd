"""A step after another: the step, the loop, the optimiser, checkpoints and the platform."""
