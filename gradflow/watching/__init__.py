"""Any model, unchanged, in a loop of its user's own: the gradient at its modules' outputs."""
