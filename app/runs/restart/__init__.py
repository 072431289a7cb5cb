"""Restart: removing or archiving the files of a run or study, and never a file of anybody else."""
