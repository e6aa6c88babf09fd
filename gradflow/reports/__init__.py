"""What a person reads: reports, the live view and summaries."""
