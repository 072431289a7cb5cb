"""The index mathematics of the replay: pure functions of ages and rewards.

A row's age is the number of steps since its episode's reset; a reset row has age 0. Rows of one episode are
adjacent, so "the same episode" is a statement about ages alone. Everything is vectorised over the batch (B,).
"""

from collections.abc import Sequence

import numpy as np


def ages_of(resets: np.ndarray, age_before: int) -> np.ndarray:
    """Return the age of every row of a chunk of the stream.

    Args:
        resets: (N,) bool, which rows begin an episode.
        age_before: Age of the row before the chunk; of no effect if the chunk begins with a reset.

    Returns:
        (N,) int64 ages.
    """
    rows = np.arange(len(resets))
    last_reset = np.maximum.accumulate(np.where(resets, rows, -1 - age_before))
    return rows - last_reset


def is_complete(position: np.ndarray, age: np.ndarray, reach: int) -> np.ndarray:
    """Tell which rows are transitions whose observations can be rebuilt.

    Args:
        position: (B,) int64, how many older rows the ring still holds.
        age: (B,) int64 ages of the rows.
        reach: How many rows before its own the longest history of an observation reaches in mid-episode.

    Returns:
        (B,) bool. False for a reset row, and where the observation that the action was taken in needs a row
        that the ring has overwritten.
    """
    return (age >= 1) & (position - 1 >= np.minimum(reach, age - 1))


def before_episode(age: np.ndarray, depth: int) -> np.ndarray:
    """Tell which of the ``depth`` rows that end with a row lie before the reset of its episode.

    Args:
        age: (B,) int64 ages of the last rows.
        depth: Number of rows, the last one included.

    Returns:
        (B, depth) bool, oldest first.
    """
    return np.arange(depth - 1, -1, -1) > age[:, None]


def frame_steps(age: np.ndarray, history: int) -> np.ndarray:
    """Return how many rows back each frame of an image history lies.

    Args:
        age: (B,) int64 ages of the observations' rows.
        history: Number of frames.

    Returns:
        (B, history) int64, oldest first; the first frame of an episode stands in for the ones before it.
    """
    return np.minimum(np.arange(history - 1, -1, -1), age[:, None])


def same_episode(ages: np.ndarray, newer_rows: np.ndarray) -> np.ndarray:
    """Tell which of the rows that follow a row belong to its episode.

    Args:
        ages: (B, L) ages of L adjacent rows, the first the row itself.
        newer_rows: (B,) how many rows the ring holds that are newer than the first.

    Returns:
        (B, L) bool; the first column is True.
    """
    steps = np.arange(ages.shape[1])
    inside = (ages > 0) & (steps <= newer_rows[:, None])
    inside[:, 0] = True
    return np.logical_and.accumulate(inside, axis=1)


def shifted(stretch: np.ndarray, steps: np.ndarray, depth: int) -> np.ndarray:
    """Return the histories that end some rows later.

    Args:
        stretch: (B, L, width) adjacent rows, of which the first ``depth`` are the histories before.
        steps: (B,) int64, how many rows later; at most L - depth.
        depth: Number of rows of a history.

    Returns:
        (B, depth, width).
    """
    if (steps == 1).all():  # a slice, no copy
        return stretch[:, 1 : depth + 1]
    columns = steps[:, None] + np.arange(depth)
    return np.take_along_axis(stretch, columns[:, :, None], axis=1)


def discounted_sum(rewards: np.ndarray, alive: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum the rewards of at most n steps.

    Args:
        rewards: (B, n) float32, the rewards of the steps.
        alive: (B, n) bool, which steps exist in the episode: a run of True, at least one.
        gamma: Discount per step.

    Returns:
        The number of steps m (B,) int64, sum_{k<m} gamma^k r_k (B,) float32, and gamma^m (B,) float32.
    """
    powers = gamma ** np.arange(rewards.shape[1] + 1)
    steps = alive.sum(axis=1)
    total = np.where(alive, rewards, 0.0) @ powers[:-1]
    return steps, total.astype(np.float32), powers[steps].astype(np.float32)


def future(rewards: np.ndarray, alive: np.ndarray, horizons: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Pick the rewards at some horizons.

    Args:
        rewards: (B, L) float32, the rewards of L adjacent steps.
        alive: (B, L) bool, which of them exist in the episode.
        horizons: Steps ahead; 1 is the first.

    Returns:
        (B, H) float32 rewards, 0 where the step does not exist, and (B, H) float32 1 where it does.
    """
    columns = np.asarray(horizons, dtype=np.intp) - 1
    mask = alive[:, columns]
    return np.where(mask, rewards[:, columns], np.float32(0)), mask.astype(np.float32)
