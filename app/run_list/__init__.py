"""List of the runs below a folder: its table, the comparison of some runs, and pruning of what they no longer need."""
