"""Validation of a search: its best trials and the default are trained on new seeds and compared."""
