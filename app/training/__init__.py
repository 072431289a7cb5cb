"""Training: the loop, the trainer around it, and everything from the start of a run to its summary."""
