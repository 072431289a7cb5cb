"""Searches: faults that are tried by the hundred."""
