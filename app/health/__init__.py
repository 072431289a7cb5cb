"""Health of a run: pure functions of its history, the metrics of every epoch as in ``metrics.jsonl``."""
