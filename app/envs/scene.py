"""What the simulator hands to the video's painters."""

from dataclasses import dataclass

import numpy as np

from app.envs.track import Track


@dataclass(frozen=True)
class Scene:
    """What a frame of the video shows."""

    track: Track
    pose: tuple[float, float, float]  # x and y in m, heading in rad
    speed: float  # m/s
    fast: float  # m/s, drawn in the colour of a fast car
    controls: tuple[float, float, float]  # gas [0, 1], brake [0, 1], steer [-1, 1]
    trail: np.ndarray  # (n, 3) float64: x and y in m, speed in m/s, of every step so far
    start: float  # share of the track where the lap begins
    lap_share: float  # [0, 1]
    seconds: float  # since the start
    outcome: str  # why the episode has ended, or empty
