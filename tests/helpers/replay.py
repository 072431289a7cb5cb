"""Replays and random episodes for tests of the replay."""

import numpy as np

from app.config.schema import ReplayConfig
from app.core.tmrl_api import Buffer
from app.envs.observation import ObservationBuilder
from app.envs.spec import ObservationSpec
from app.replay.buffer import ReplayMemory
from app.replay.row_format import SampleCompressor
from app.replay.storage import MemoryStorage

GAMMA = 0.9
HORIZONS = (1, 3, 5)


def replay_spec(sensors=5, action_dim=2, action_history=2, image=(4, 3, 2), window=6, shown=(0, 3, 4)):
    """Observation format of a few sensors and tiny images; ``shown`` are the sensors in the window."""
    return ObservationSpec(
        sensors,
        action_dim,
        action_history,
        image,
        window,
        tuple(shown),
        sensor_scale=(1.0,) * sensors,
        reward_scale=1.0,
    )


def make_memory(
    spec,
    capacity=500,
    batch_size=64,
    n_step=1,
    horizons=HORIZONS,
    seed=0,
    storage=None,
    slack=0,
    recent_share=0.0,
    recent_rows=1,
):
    """Empty replay; in memory unless a storage is given."""
    cfg = ReplayConfig(capacity, batch_size, recent_share, recent_rows, keep_after_trial=True)
    return ReplayMemory(spec, cfg, n_step, GAMMA, horizons, 3, "cpu", seed, storage or MemoryStorage(), slack)


def random_steps(spec, lengths, seed=0, endings=("terminated", "truncated", "cut")):
    """Return the steps (act, obs, rew, terminated, truncated, age) of random episodes, resets included.

    An episode that is "cut" is neither terminated nor truncated: a reset follows it.
    """
    rng = np.random.default_rng(seed)
    builder, steps = ObservationBuilder(spec), []

    def sense():
        frame = None if spec.image_shape is None else rng.integers(0, 256, spec.image_shape[1:], dtype=np.uint8)
        return rng.standard_normal(spec.sensors, dtype=np.float32), frame

    for length in lengths:
        ending = endings[rng.integers(len(endings))]
        steps.append((None, builder.reset(*sense()), 0.0, False, False, 0))
        for age in range(1, length + 1):
            action = rng.uniform(-1, 1, spec.action_dim).astype(np.float32)
            reward, last = float(rng.normal()), age == length
            obs = builder.append(*sense(), action, reward)
            steps.append((action, obs, reward, last and ending == "terminated", last and ending == "truncated", age))
    return steps


def append_steps(memory, spec, steps, chunks=(10_000,)):
    """Append the steps as a worker does, in buffers of the given sizes, which are repeated; return the memory."""
    compress = SampleCompressor(spec)
    done = turn = 0
    while done < len(steps):
        buffer = Buffer()
        for *step, _ in steps[done : done + chunks[turn % len(chunks)]]:
            buffer.append_sample(compress(*step, info={"outcome": "lap"}))
        done, turn = done + len(buffer), turn + 1
        memory.append(buffer)
    return memory
