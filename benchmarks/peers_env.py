"""The simulator for agents of other libraries: a Gymnasium environment with one scaled vector, and its evaluation.

Imports the simulator alone, which needs NumPy, OpenCV, Gymnasium and pydantic, but neither torch nor Hydra.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from pydantic import TypeAdapter

from app.config.schema import SimConfig
from app.envs.sim import TrackSim
from app.envs.spec import ObservationSpec


class VectorSim(gymnasium.ObservationWrapper):
    """The simulator with ``floats`` as its only observation, scaled to order 1 as app/models/inputs.py scales it.

    The history window stays in the simulator, which builds it for every agent alike, and is left out here.

    Args:
        config: The section ``env`` of a composed configuration, as plain values.
        seed: Seeds the draws of tracks and starts.
    """

    def __init__(self, config: dict[str, Any], seed: int):
        cfg = TypeAdapter(SimConfig).validate_python(config)
        sim = TrackSim(cfg, cfg.train_tracks, seed)
        super().__init__(sim)
        self._gain = floats_gain(sim.spec_)
        self.observation_space = Box(-np.inf, np.inf, self._gain.shape, np.float32)

    def observation(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """Scale the floats (F,)."""
        return observation["floats"] * self._gain


def floats_gain(spec: ObservationSpec) -> np.ndarray:
    """Return the factors (F,) that bring every sensor to order 1 and leave past actions as they are."""
    history = np.ones(spec.action_history * spec.action_dim, np.float32)
    return 1 / np.concatenate([np.array(spec.sensor_scale, np.float32), history])


def evaluate(
    act: Callable[[np.ndarray], np.ndarray], envs: Sequence[gymnasium.Env], starts: Sequence[Sequence[float]]
) -> dict[str, float]:
    """Drive every start once, all in lockstep, and return metrics under the names of ``metrics.jsonl``.

    Args:
        act: Returns actions (B, A) for observations (B, F).
        envs: One environment for every start.
        starts: Track, share of the lap and seed of every start.
    """
    observations, ends = [], [{} for _ in starts]
    for env, (track, position, seed) in zip(envs, starts, strict=True):
        observations.append(env.reset(seed=int(seed), options={"track": int(track), "start": position})[0])
    running = list(range(len(starts)))
    while running:
        actions = act(np.stack([observations[i] for i in running]))
        for i, action in zip(list(running), actions, strict=True):
            observations[i], _, terminated, truncated, ends[i] = envs[i].step(action)
            if terminated or truncated:
                running.remove(i)
    times = [end["lap_time"] for end in ends if end["outcome"] == "lap"]
    return {
        "laps_det": len(times) / len(ends),
        "lap_share_det": statistics.fmean(end["lap_share"] for end in ends),
        **({"lap_time_det": statistics.fmean(times)} if times else {}),
    }
