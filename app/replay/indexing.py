"""Index arithmetic of the replay: pure functions of ages and rewards.

The age of a row is the number of steps since the reset of its episode; the row of a reset has age 0. Rows of one
episode are adjacent, so ages alone tell which rows belong together. Everything is vectorised over the batch (B,).
"""

from collections.abc import Sequence

import numpy as np


def ages_of_rows(resets: np.ndarray, previous_age: int) -> np.ndarray:
    """Return the age of every row of a chunk of the stream.

    Args:
        resets: Whether a row begins an episode (N,), bool.
        previous_age: Age of the row before the chunk; ignored if the chunk begins with a reset.

    Returns:
        Ages (N,), int64.
    """
    rows = np.arange(len(resets))
    last_reset = np.maximum.accumulate(np.where(resets, rows, -1 - previous_age))
    return rows - last_reset


def is_complete(older_rows: np.ndarray, age: np.ndarray, lookback: int) -> np.ndarray:
    """Tell which rows are transitions whose observations can be rebuilt.

    Args:
        older_rows: Number of older rows that the ring still holds, for each row (B,), int64.
        age: Ages of the rows (B,), int64.
        lookback: Number of rows before its own that the longest history of an observation covers.

    Returns:
        Bools (B,). False for the row of a reset, and where the observation before the action needs a row that has
        been overwritten.
    """
    return (age >= 1) & (older_rows - 1 >= np.minimum(lookback, age - 1))


def before_reset(age: np.ndarray, length: int) -> np.ndarray:
    """Tell which of the ``length`` rows that end with a row lie before the reset of its episode.

    Args:
        age: Ages of the last rows (B,), int64.
        length: Number of rows, the last one included.

    Returns:
        Bools (B, length), oldest first.
    """
    return np.arange(length - 1, -1, -1) > age[:, None]


def frame_offsets(age: np.ndarray, history: int) -> np.ndarray:
    """Return the number of rows by which each frame of an image history lies before its observation.

    Args:
        age: Ages of the observations' rows (B,), int64.
        history: Number of frames.

    Returns:
        Offsets (B, history), int64, oldest first; the first frame of an episode is repeated for missing ones.
    """
    return np.minimum(np.arange(history - 1, -1, -1), age[:, None])


def same_episode(ages: np.ndarray, newer_rows: np.ndarray) -> np.ndarray:
    """Tell which of the rows that follow a row belong to its episode.

    Args:
        ages: Ages of L adjacent rows (B, L), the first one the row itself.
        newer_rows: Number of rows in the ring that are newer than the first (B,).

    Returns:
        Bools (B, L); the first column is True.
    """
    steps = np.arange(ages.shape[1])
    inside = (ages > 0) & (steps <= newer_rows[:, None])
    inside[:, 0] = True
    return np.logical_and.accumulate(inside, axis=1)


def shift_histories(adjacent: np.ndarray, steps: np.ndarray, length: int) -> np.ndarray:
    """Return the histories that end some rows later.

    Args:
        adjacent: Adjacent rows (B, L, width); the first ``length`` are the histories that are shifted.
        steps: Number of rows by which each is shifted (B,), int64, at most L - length.
        length: Number of rows of a history.

    Returns:
        Histories (B, length, width).
    """
    if (steps == 1).all():  # a slice, no copy
        return adjacent[:, 1 : length + 1]
    columns = steps[:, None] + np.arange(length)
    return np.take_along_axis(adjacent, columns[:, :, None], axis=1)


def n_step_return(rewards: np.ndarray, exists: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum the discounted rewards of at most n steps.

    Args:
        rewards: Rewards of the steps (B, n), float32.
        exists: Whether the step exists in the episode (B, n), bool: at least one True, then False only.
        gamma: Discount per step.

    Returns:
        Number of steps m (B,) int64, sum_{k<m} gamma^k r_k (B,) float32, and gamma^m (B,) float32.
    """
    powers = gamma ** np.arange(rewards.shape[1] + 1)
    steps = exists.sum(axis=1)
    total = np.where(exists, rewards, 0.0) @ powers[:-1]
    return steps, total.astype(np.float32), powers[steps].astype(np.float32)


def rewards_at_horizons(
    rewards: np.ndarray, exists: np.ndarray, horizons: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Select the rewards at some horizons.

    Args:
        rewards: Rewards of L adjacent steps (B, L), float32.
        exists: Whether the step exists in the episode (B, L), bool.
        horizons: Numbers of steps ahead; 1 is the first.

    Returns:
        Rewards (B, H) float32, 0 where the step does not exist, and a mask (B, H) float32, 1 where it does.
    """
    columns = np.asarray(horizons, dtype=np.intp) - 1
    mask = exists[:, columns]
    return np.where(mask, rewards[:, columns], np.float32(0)), mask.astype(np.float32)
