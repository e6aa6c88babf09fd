"""A step after another: the step, the loop, the optimiser, memory and the platform."""
