"""What the parts of a net do to one another, worked out on a net as it stands: nothing is trained."""
