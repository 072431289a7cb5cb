"""Recorded episodes as one HTML page that needs no other file and no network."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from plotly.colors import sequential

from app.config.schema_env import TrackEnvConfig
from app.envs.tracks.lap_bound import Lap
from app.envs.tracks.track import Track
from app.reporting.number_format import UNKNOWN, lap_time, percent
from app.reporting.page import render_page
from app.viewer.lap_sectors import Corner, find_corners, lap_sectors, sector_seconds, slowest_speeds
from app.viewer.packed_data import MISSING, frame_sheets, pack_numbers, pack_shares
from app.viewer.policy_readings import PolicyReadings
from app.viewer.recorded_episode import RecordedEpisode

_TEMPLATE = Path(__file__).with_name("viewer.html.jinja")
_SCRIPT = Path(__file__).with_name("viewer.js")
_FRAME_BUDGET = 2_600_000  # bytes of all frames; base64 makes a third more of it
_LARGEST_FRAME = 64  # pixels; larger frames are shrunk
_LABEL_DISTANCE = 13.0  # m between the edge of the road and the number of a corner
_LOWEST_BIN = 0.5 / 255  # probability, as a share of the largest one, below which a bin is not drawn
_KMH = 3.6
_STANDING_SHARE = 0.2  # of a lap, in which the car gains speed from its standing start

OUTCOMES = {"lap": "lap", "off_track": "off the track", "stalled": "stalled", "timeout": "time out"}


@dataclass(frozen=True, eq=False)
class Rival:
    """Another driver on the same track, from the same start.

    Attributes:
        kind: The reference driver or another run.
        name: What the page calls it.
        episode: Its episode.
    """

    kind: Literal["reference", "other"]
    name: str
    episode: RecordedEpisode


@dataclass(frozen=True, eq=False)
class ViewedEpisode:
    """One episode of the page.

    Attributes:
        driven: The episode.
        readings: Values inside the networks.
        rivals: Other drivers.
        bound: Fastest lap along the centre line from its start; None where the physics are not known.
    """

    driven: RecordedEpisode
    readings: PolicyReadings
    rivals: tuple[Rival, ...]
    bound: Lap | None


def render_viewer(
    name: str, facts: Mapping[str, str], notes: Sequence[str], episodes: Sequence[ViewedEpisode], env: TrackEnvConfig
) -> str:
    """Return the page as HTML; everything from files is escaped.

    Args:
        name: Name of the run.
        facts: Facts about the run, by label.
        notes: Sentences that a reader must know.
        episodes: The episodes, at least one.
        env: Configuration of their environment.
    """
    data = {
        "missing": MISSING,
        "name": name,
        "colours": list(sequential.Viridis),
        "speeds": _speed_range(episodes),
        "standing_share": _STANDING_SHARE,
        "lidar": {"range": env.lidar_range, "fov": math.radians(env.lidar_fov), "beams": env.lidar_beams},
        "history": env.image_history,
        "tracks": {str(track.seed): _track(track) for track in {one.driven.track for one in episodes}},
        "episodes": [_episode(one, env) for one in episodes],
    }
    if env.images:
        sheets = frame_sheets([_film(one.driven) for one in episodes], _FRAME_BUDGET)
        for episode, sheet in zip(data["episodes"], sheets, strict=True):
            episode["frames"] = sheet
    content = {
        "name": name,
        "facts": facts,
        "notes": notes,
        "episodes": [_summary(one, name) for one in episodes],
        "rivals": [(rival.kind, rival.name) for rival in episodes[0].rivals],
        "has_bound": episodes[0].bound is not None,
        "has_film": episodes[0].readings.film is not None,
        "has_attention": episodes[0].readings.attention is not None,
        "has_bins": episodes[0].readings.bins is not None,
        "has_frames": env.images,
        "history": env.image_history,
        "data": data,
        "script": _SCRIPT.read_text(encoding="utf-8"),
    }
    return render_page(_TEMPLATE, content, {}, {})


# --- what the template shows ---


def _summary(one: ViewedEpisode, name: str) -> dict[str, Any]:
    result = one.driven.result
    time = lap_time(result.lap_time) if result.lap_time is not None else OUTCOMES[result.outcome]
    return {
        "title": f"track {result.track}, from {percent(result.start)}",
        "time": time,
        "headline": _headline(one, time),
        **_sector_table(one, name),
    }


def _headline(one: ViewedEpisode, time: str) -> str:
    """Return a sentence on the episode, and on what separates it from the other drivers and the bound."""
    result = one.driven.result
    place = f"Track {result.track}, from {percent(result.start)}"
    if result.lap_time is None:
        return f"{place}: {time} after {lap_time(one.driven.seconds[-1])} and {percent(result.lap_share)} of a lap."
    parts = [f"{place}: a lap in {time}"]
    for rival in one.rivals:
        theirs = rival.episode.result
        if theirs.lap_time is None:
            parts.append(f"{rival.name} does not finish it ({OUTCOMES[theirs.outcome]})")
        else:
            gap = result.lap_time - theirs.lap_time
            order = f"{abs(gap):.3f} s {'slower' if gap > 0 else 'faster'} than" if round(gap, 3) else "as fast as"
            parts.append(f"{order} {rival.name} ({lap_time(theirs.lap_time)})")
    if one.bound is not None:
        parts.append(f"{result.lap_time / one.bound.seconds:.3f} times the bound on the centre line")
    return ", ".join(parts) + "."


def _sector_table(one: ViewedEpisode, name: str) -> dict[str, Any]:
    """Return header and rows of the table of sectors."""
    sectors = lap_sectors(one.driven.track, one.driven.result.start)
    own = sector_seconds(one.driven, sectors)
    slowest = _KMH * slowest_speeds(one.driven, sectors)
    gaps = [own - sector_seconds(rival.episode, sectors) for rival in one.rivals]
    rows = []
    for i, sector in enumerate(sectors):
        corner = sector.corner
        rows.append(
            {
                "number": corner.number if corner else UNKNOWN,
                "text": f"{corner.text}{f', {sector.part}' if sector.part else ''}" if corner else "no corner",
                "range": f"{sector.begin:.0f}–{sector.end:.0f}",
                "time": number(own[i], 2),
                "slowest": number(slowest[i], 0),
                "gaps": [(signed(gap[i], 2), _tone(gap[i])) for gap in gaps],
            }
        )
    return {"columns": [f"to {rival.name}" for rival in one.rivals], "rows": rows}


def number(value: float, decimals: int) -> str:
    """Return a number with its decimals; "-" if it is not known."""
    return f"{value:.{decimals}f}" if math.isfinite(value) else UNKNOWN


def signed(value: float, decimals: int = 3) -> str:
    """Return a difference with its sign, such as "−0.120" and "+0.050"; "-" if it is not known."""
    if not math.isfinite(value):
        return UNKNOWN
    text = f"{abs(value):.{decimals}f}"
    return text if float(text) == 0.0 else f"{'−' if value < 0 else '+'}{text}"


def _tone(gap: float) -> str:
    """Return the class of a table cell for a gap in s."""
    return "" if not math.isfinite(gap) or abs(gap) < 0.005 else "gained" if gap < 0.0 else "lost"


# --- what the script draws ---


def _speed_range(episodes: Sequence[ViewedEpisode]) -> list[float]:
    """Return the speeds in m/s of the first and of the last colour; only the standing start may be slower."""
    driven = [one.driven for one in episodes]
    speed = np.concatenate([one.speed for one in driven])
    moving = np.concatenate([one.distance >= _STANDING_SHARE * one.track.length for one in driven])
    low, high = math.floor(speed[moving if moving.any() else ...].min()), math.ceil(speed.max())
    return [float(low), float(max(high, low + 1))]


def _track(track: Track) -> dict[str, Any]:
    return {
        "length": track.length,
        "left": pack_numbers(track.left, 0.01),
        "right": pack_numbers(track.right, 0.01),
        "corners": [_corner(track, corner) for corner in find_corners(track)],
    }


def _corner(track: Track, corner: Corner) -> dict[str, Any]:
    """Return number and place of a corner's label, on the outer side of the road."""
    x, y, heading, _ = track.pose(corner.apex / track.length)
    outwards = -math.copysign(track.half_width + _LABEL_DISTANCE, corner.turn)  # to the left of the heading
    return {
        "number": corner.number,
        "x": round(x - outwards * math.sin(heading), 1),
        "y": round(y + outwards * math.cos(heading), 1),
    }


def _episode(one: ViewedEpisode, env: TrackEnvConfig) -> dict[str, Any]:
    driven, readings = one.driven, one.readings
    beams = driven.observations["floats"][:, 3 : 3 + env.lidar_beams]
    gas, brake = np.clip(driven.actions[:, :2], 0.0, 1.0).T
    sectors = lap_sectors(driven.track, driven.result.start)
    return {
        "track": str(driven.result.track),
        **_motion(driven),
        "gas": pack_numbers(gas, 1e-3),
        "brake": pack_numbers(brake, 1e-3),
        "steer": pack_numbers(np.clip(driven.actions[:, 2], -1.0, 1.0), 1e-3),
        "lidar": pack_numbers(beams, 0.1),
        "frames": None,
        "q": pack_numbers(readings.q, 0.01),
        "bins": _bins(readings),
        "entropy": pack_numbers(readings.entropy, 1e-3),
        "std": pack_numbers(readings.std, 1e-3),
        "film": None if readings.film is None else pack_numbers(readings.film, 1e-4),
        "attention": _attention(readings),
        "bound": None if one.bound is None else pack_numbers(one.bound.speed, 0.01),
        "sectors": [{"number": s.corner.number if s.corner else 0, "end": round(s.end, 1)} for s in sectors],
        "rivals": [_rival(driven, rival) for rival in one.rivals],
    }


def _motion(episode: RecordedEpisode) -> dict[str, Any]:
    """Return the motion of a car, state by state."""
    return {
        "step_s": episode.step_s,
        "outcome": OUTCOMES[episode.result.outcome],
        "x": pack_numbers(episode.pose[:, 0], 0.01),
        "y": pack_numbers(episode.pose[:, 1], 0.01),
        "heading": pack_numbers(episode.pose[:, 2], 1e-3),
        "speed": pack_numbers(episode.speed, 0.01),
        "distance": pack_numbers(episode.distance, 0.01),
    }


def _rival(driven: RecordedEpisode, rival: Rival) -> dict[str, Any]:
    """Return a rival's motion, and how many seconds later than it the car is at the place of every state."""
    gap = driven.seconds - rival.episode.seconds_at(driven.distance)
    return {"kind": rival.kind, "name": rival.name, "gap": pack_numbers(gap, 1e-3), **_motion(rival.episode)}


def _bins(readings: PolicyReadings) -> dict[str, Any] | None:
    """Return the distributions of Q, each as shares of its largest probability, without bins that none of them has."""
    if readings.bins is None:
        return None
    shares = readings.bins / readings.bins.max(axis=1, keepdims=True)
    used = np.flatnonzero((shares >= _LOWEST_BIN).any(axis=0))
    first, last = used[0], used[-1]
    return {
        "count": int(last - first + 1),
        "low": round(float(readings.bin_edges[first]), 3),
        "high": round(float(readings.bin_edges[last + 1]), 3),
        "data": pack_shares(shares[:, first : last + 1]),
    }


def _attention(readings: PolicyReadings) -> dict[str, Any] | None:
    if readings.attention is None:
        return None
    return {"window": readings.attention.shape[1], "data": pack_shares(readings.attention)}


def _film(episode: RecordedEpisode) -> np.ndarray:
    """Return the newest frame of every state ``(T + 1, H, W)`` uint8; the older ones are those of earlier states."""
    frames = episode.observations["images"][:, -1]
    if frames.shape[1] <= _LARGEST_FRAME:
        return frames
    size = (_LARGEST_FRAME, _LARGEST_FRAME)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])
