"""Studies: the folder of a search, its owner, and what it may be continued with."""
