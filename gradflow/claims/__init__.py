"""What the tables say: statistics, verdicts and experiments."""
