"""The simulator for agents of other libraries: its observation is one scaled vector. Also their evaluation.

Imports NumPy, OpenCV, Gymnasium and pydantic, but neither torch nor Hydra.
"""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from pydantic import TypeAdapter

from app.config.schema_env import SimConfig
from app.envs.driving.sim_env import SimEnv
from app.envs.spec import ObservationSpec
from app.evaluation.episodes import Start, run_episodes
from app.evaluation.results import Evaluation


class VectorSim(gymnasium.ObservationWrapper):
    """The simulator with ``floats`` as its only observation, scaled to order 1 as app/models/trunk.py scales it.

    The simulator builds the history window all the same, so that its steps cost every agent the same time.

    Args:
        env_config: The section ``env`` of a composed configuration, as plain values.
        seed: Seed of the draws of tracks and starts.
    """

    def __init__(self, env_config: dict[str, Any], seed: int):
        config = TypeAdapter(SimConfig).validate_python(env_config)
        sim = SimEnv(config, config.train_tracks, seed)
        super().__init__(sim)
        self._factors = scale_factors(sim.observation_spec)
        self.observation_space = Box(-np.inf, np.inf, self._factors.shape, np.float32)

    def observation(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """Return the scaled floats ``(float_dim,)`` float32."""
        return observation["floats"] * self._factors


def scale_factors(spec: ObservationSpec) -> np.ndarray:
    """Return factors ``(float_dim,)`` that bring every sensor to order 1 and leave past actions as they are."""
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
    driven = run_episodes(
        envs,
        [Start(int(track), position, int(seed)) for track, position, seed in starts],
        lambda _, observations: act(np.stack(observations)),
    )
    metrics = Evaluation(tuple(driven), ()).metrics()
    return {name: metrics[name] for name in ("laps_det", "lap_share_det", "lap_time_det") if name in metrics}
