"""Hyperparameter search: studies that survive every stop, their trials, their results and their validation."""
