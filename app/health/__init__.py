"""How healthy a run is: pure functions of its history, the metrics of every epoch as in ``metrics.jsonl``."""
