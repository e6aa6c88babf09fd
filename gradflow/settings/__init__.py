"""What a person sets: settings, their ranges, and a Python file of their own."""
