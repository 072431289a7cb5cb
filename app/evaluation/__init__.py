"""Evaluation episodes: the one function that drives them, the evaluator, and their results."""
