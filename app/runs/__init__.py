"""The run folder: its owner, the files this program made in it, and what it may be continued with."""
