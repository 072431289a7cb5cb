"""Environments: one observation contract (``spec``), and everything that fulfils it (``factory``)."""
