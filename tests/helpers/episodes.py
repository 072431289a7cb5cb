"""Episodes of compressed steps, made up at random, and their comparison."""

import numpy as np

from app.distributed.messages import EpisodeMessage, pack_episode
from app.replay.row_format import RowFormat


def random_episode(spec, length, seed=0):
    """Return the steps of an episode, the reset first."""
    rng = np.random.default_rng(seed)
    steps = []
    for age in range(length + 1):
        frame = rng.integers(0, 256, spec.image_shape[1:], dtype=np.uint8) if spec.image_shape else None
        obs = {"sensors": rng.standard_normal(spec.sensors, dtype=np.float32), "frame": frame}
        action = rng.uniform(-1, 1, spec.action_dim).astype(np.float32) if age else None
        steps.append((action, obs, float(np.float32(rng.normal())) if age else 0.0, age == length, False, {}))
    return steps


def episode_message(spec, length=5, **changes):
    """Return a message with a random episode."""
    fields = {
        "worker": "w", "fingerprint": "f", "number": 1, "oldest_kept": 1, "actor_version": 1, "episode_return": 1.0
    }  # fmt: skip
    return EpisodeMessage(**(fields | pack_episode(random_episode(spec, length), RowFormat.of(spec)) | changes))


def same_steps(steps, others):
    """Return whether two sequences of steps are equal, bit for bit."""
    return len(steps) == len(others) and all(
        (a[0] is b[0] is None or np.array_equal(a[0], b[0]))
        and np.array_equal(a[1]["sensors"], b[1]["sensors"])
        and np.array_equal(a[1]["frame"], b[1]["frame"])
        and np.float32(a[2]) == np.float32(b[2])
        and a[3:5] == b[3:5]
        for a, b in zip(steps, others, strict=True)
    )
