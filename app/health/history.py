"""The history of a run: one mapping of metrics for every epoch that was evaluated, the first epoch first."""

import math
from collections.abc import Mapping, Sequence

History = Sequence[Mapping[str, float | None]]  # null, as JSON spells what is not finite


def series(history: History, *names: str) -> list[tuple[float, ...]]:
    """Return the values of some metrics, a tuple for every epoch that has all of them; NaN for null."""
    return [
        tuple(math.nan if epoch[name] is None else epoch[name] for name in names)
        for epoch in history
        if all(name in epoch for name in names)
    ]


def column(history: History, name: str) -> list[float]:
    """Return the values of one metric, for every epoch that has it; NaN for null."""
    return [value for (value,) in series(history, name)]
