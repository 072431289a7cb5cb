"""Ablation study ("lab"): arms with single faults and fixes, their runs on several seeds, and the evidence."""
