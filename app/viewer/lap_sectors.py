"""Corners of a track, the sectors of a lap around them, and the time that a driver needs for each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.envs.tracks.racing_line import Line, centre_line
from app.envs.tracks.track import Track
from app.viewer.recorded_episode import RecordedEpisode

_STRAIGHT_RADIUS = 150.0  # m; a wider bend costs no car any speed
_MIN_TURN = 15.0  # degrees; a bend that turns less belongs to the straights around it
_MIN_SECTOR = 1.0  # m; less than that before the first boundary, or behind the last one, is no sector


@dataclass(frozen=True)
class Corner:
    """A bend of the centre line to one side.

    Attributes:
        number: 1 for the first one of the track.
        begin: m along the centre line, in [0, length).
        end: m, behind ``begin``; beyond the length for a corner across the first point of the track.
        apex: m, where the bend is tightest; in [begin, end].
        turn: degrees; left is positive.
        radius: m, the smallest one.
    """

    number: int
    begin: float
    end: float
    apex: float
    turn: float
    radius: float

    @property
    def text(self) -> str:
        """The corner in words."""
        return f"{'left' if self.turn > 0 else 'right'} {abs(self.turn):.0f}°, radius {self.radius:.0f} m"


@dataclass(frozen=True)
class Sector:
    """Part of a lap with one corner and half of the straights around it.

    Attributes:
        corner: The corner; None for a lap without one.
        begin: m from the start of the lap.
        end: m from the start of the lap.
        part: "first part" or "last part" of a sector in which the lap begins and ends; otherwise empty.
    """

    corner: Corner | None
    begin: float
    end: float
    part: str = ""


def find_corners(track: Track) -> tuple[Corner, ...]:
    """Return the corners of a track, in driving order.

    A corner is a stretch of the centre line that bends to one side with a radius below 150 m and turns by at least 15°.
    """
    line = centre_line(track)
    bent = np.sign(line.curvature) * (np.abs(line.curvature) > 1.0 / _STRAIGHT_RADIUS)
    count = len(bent)
    changes = np.flatnonzero(bent != np.roll(bent, 1))
    if not len(changes):
        return ()
    corners = []
    for first, after in zip(changes, [*changes[1:], changes[0] + count], strict=True):
        if bent[first]:
            corners.append(_corner(line, np.arange(first, after), track.length / count, len(corners) + 1))
            if abs(corners[-1].turn) < _MIN_TURN:
                corners.pop()
    return tuple(corners)


def lap_sectors(track: Track, start: float) -> tuple[Sector, ...]:
    """Return the sectors of a lap; they meet in the middle between two corners, and at the start of the lap.

    Args:
        track: The track.
        start: Share of the track at which the lap begins, in [0, 1).
    """
    corners, length = find_corners(track), track.length
    if len(corners) < 2:
        return (Sector(corners[0] if corners else None, 0.0, length),)
    ends = [corners[-1].end - length, *(corner.end for corner in corners[:-1])]  # of the corner before
    begins = [(end + corner.begin) / 2.0 for end, corner in zip(ends, corners, strict=True)]
    # by distance from the start of the lap; the last one of the list is the one in which the lap begins
    order = sorted(((begin - start * length) % length, corner) for begin, corner in zip(begins, corners, strict=True))
    sectors = [Sector(order[-1][1], 0.0, order[0][0], "first part")]
    for (begin, corner), (end, _) in zip(order[:-1], order[1:], strict=True):
        sectors.append(Sector(corner, begin, end))
    sectors.append(Sector(order[-1][1], order[-1][0], length, "last part"))
    return tuple(sector for sector in sectors if sector.end - sector.begin >= _MIN_SECTOR)


def sector_seconds(episode: RecordedEpisode, sectors: Sequence[Sector]) -> np.ndarray:
    """Return the seconds of an episode in every sector ``(n,)``; NaN for one that it did not finish."""
    begins, ends = ([getattr(sector, side) for sector in sectors] for side in ("begin", "end"))
    return episode.seconds_at(np.array(ends)) - episode.seconds_at(np.array(begins))


def slowest_speeds(episode: RecordedEpisode, sectors: Sequence[Sector]) -> np.ndarray:
    """Return the lowest speed of an episode in every sector ``(n,)``, m/s; NaN for one that it did not finish."""
    reached = episode.distance.max()
    return np.array(
        [
            episode.speed[(episode.distance >= sector.begin) & (episode.distance <= sector.end)].min(initial=math.inf)
            if reached >= sector.end
            else math.nan
            for sector in sectors
        ]
    )


def _corner(line: Line, points: np.ndarray, spacing: float, number: int) -> Corner:
    """Return the corner along some points of the centre line, which may exceed their count; ``spacing`` in m."""
    index = points % len(line.curvature)
    bend = np.abs(line.curvature[index])
    return Corner(
        number=number,
        begin=float(points[0]) * spacing,
        end=float(points[-1]) * spacing,
        apex=float(points[bend.argmax()]) * spacing,
        turn=math.degrees(float((line.curvature[index] * line.edge_lengths[index]).sum())),
        radius=1.0 / float(bend.max()),
    )
