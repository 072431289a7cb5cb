"""State of an episode that a video frame shows."""

from dataclasses import dataclass

import numpy as np

from app.envs.tracks.track import Track


@dataclass(frozen=True)
class RenderState:
    """State of an episode that a video frame shows.

    Attributes:
        track: The track that is driven on.
        pose: The car's x and y in m and heading in rad.
        speed: m/s.
        fast_speed: Speed in m/s that is drawn in the colour of the fastest.
        controls: Gas [0, 1], brake [0, 1] and steer [-1, 1].
        trail: ``(n, 3)`` float64: x and y in m and speed in m/s of every step so far.
        start: Share of the track where the lap begins.
        lap_share: Share of the lap that was driven, in [0, 1].
        seconds: Time since the start of the episode.
        outcome: Why the episode ended; None while it runs.
        ghost: Pose of a car that drives alongside (x and y in m, heading in rad); None without one.
    """

    track: Track
    pose: tuple[float, float, float]
    speed: float
    fast_speed: float
    controls: tuple[float, float, float]
    trail: np.ndarray
    start: float
    lap_share: float
    seconds: float
    outcome: str | None
    ghost: tuple[float, float, float] | None = None
