"""Laps that were driven: one line of JSON for each, and the best of them."""

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.core.atomic_files import append_line, make_folder, strict_json
from app.core.errors import UserError
from app.core.json_data import parse_json
from app.evaluation.results import Episode

FILE_NAME = "laps.jsonl"


class LapRecords:
    """The file ``laps.jsonl`` of a folder.

    Args:
        folder: The folder; it is made with the first lap.
        driver: Name of who drives.
        physics: Digest of the settings that lap times depend on; only laps with the same one are compared.

    Attributes:
        path: The file.

    Raises:
        UserError: The file cannot be read, or has a line that is no lap.
    """

    def __init__(self, folder: Path, driver: str, physics: str) -> None:
        self.path, self._identity = folder / FILE_NAME, {"driver": driver, "physics": physics}
        self._laps = _read(self.path)

    def add(self, episode: Episode) -> None:
        """Append an episode, finished or not.

        Raises:
            UserError: The file cannot be written.
        """
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        lap = {"time": now, **self._identity, **asdict(episode)}
        try:
            make_folder(self.path.parent)
            append_line(self.path, strict_json(lap))
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}). Set another laps_dir.") from None
        self._laps.append(lap)

    def best(self, track: int, start: float) -> float | None:
        """Return the best lap time in seconds of this driver from a start; None if there is no finished lap.

        Args:
            track: Seed of the track.
            start: Share of the track at which the lap begins.
        """
        wanted = {**self._identity, "track": track, "start": start}
        times = [
            lap["lap_time"]
            for lap in self._laps
            if lap["lap_time"] is not None and all(lap[key] == value for key, value in wanted.items())
        ]
        return min(times, default=None)


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Set another laps_dir, or move it away.") from None
    laps = []
    for number, line in enumerate(lines, start=1):
        try:
            lap = parse_json(line)
            _require_lap(lap)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}: line {number} is no lap ({error}). Remove the line, or set another laps_dir."
            ) from None
        laps.append(lap)
    return laps


def _require_lap(lap: Any) -> None:
    """Raise ValueError unless a value has what ``best`` reads."""
    kinds = {"driver": str, "physics": str, "track": int, "start": (int, float)}
    if not isinstance(lap, dict) or not all(isinstance(lap.get(key), kind) for key, kind in kinds.items()):
        raise ValueError(f"it must have {', '.join(kinds)}")
    seconds = lap.get("lap_time")
    if seconds is not None and not (isinstance(seconds, (int, float)) and math.isfinite(seconds)):
        raise ValueError("its lap_time is no number")
