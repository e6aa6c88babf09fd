"""What is computed on a net as it stands, beside its training: derivatives that no training step needs."""
