"""Full laps over the epochs of a run: when the first one came, and how well the lap was held since."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FULL_LAP = 0.95  # mean lap share from which the lap counts as driven

Curve = NDArray[np.float64]  # lap share after each epoch, (epochs,); NaN where it is not known


def first_full_lap(lap_shares: Sequence[float] | Curve) -> int | None:
    """Return the first epoch with a full lap, counted from 1; None if there is none."""
    full = np.flatnonzero(np.asarray(lap_shares) >= FULL_LAP)
    return int(full[0]) + 1 if len(full) else None


def held_share(lap_shares: Sequence[float] | Curve) -> float:
    """Return the share of the epochs since the first full lap, itself included, that have one; 0 without any."""
    held, since = held_epochs(lap_shares)
    return held / since if since else 0.0


def held_epochs(lap_shares: Sequence[float] | Curve) -> tuple[int, int]:
    """Return the epochs with a full lap since the first one, and all epochs since then; itself included in both."""
    since = _since_full_lap(lap_shares)
    return int(np.sum(since >= FULL_LAP)), len(since)


def worst_since_full_lap(lap_shares: Sequence[float] | Curve) -> float:
    """Return the lowest lap share since the first full lap; 0 if there was none."""
    since = _since_full_lap(lap_shares)
    return float(since.min()) if len(since) else 0.0


def _since_full_lap(lap_shares: Sequence[float] | Curve) -> Curve:
    """Return the known lap shares from the first full lap on."""
    first = first_full_lap(lap_shares)
    values = np.asarray(lap_shares, dtype=float)[len(lap_shares) if first is None else first - 1 :]
    return values[~np.isnan(values)]
