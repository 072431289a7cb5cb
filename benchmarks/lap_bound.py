"""Lap times: physical bounds by track, a hand-written driver in the simulator, and trained policies beside them.

    python benchmarks/lap_bound.py [--tracks 1 2] [--starts 5] [--run runs/NAME ...] [--out file.json] [-- OVERRIDE ...]

Bounds are those of `app/envs/tracks/lap_bound.py` for the car and tracks of `env=sim_lidar` with the overrides, such as
`-- env.car.grip=18`: flying laps, and laps from a standing start, on the centre line and on the line of minimum
curvature. The driver of `app/envs/driving/reference_driver.py` drives episodes. All but the flying laps are means over
`--starts` starts spread over the track, and ratios are means of ratios.

`--run` compares a trained policy's lap times with the bounds of its own environment from the same starts. They are
read from `evaluation.json` (every finished episode), which `app/evaluate.py` writes, or else from `summary.json` or
the result of the best policy (their mean). The mean is compared with the bounds of all starts of its evaluation, which
is exact if all of them finished.
"""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml
from pydantic import TypeAdapter

from app.config.schema_env import SimConfig
from app.envs.tracks.lap_bound import centre_line_bound, flying_lap, standing_lap
from app.envs.tracks.racing_line import centre_line, minimum_curvature_line
from app.envs.tracks.track import make_track
from app.evaluation.episodes import REPORT_OFFSET, SELECTION_OFFSET, make_starts
from app.evaluation.reference_lap import drive_reference_lap
from benchmarks.common import compose_config, machine, markdown, number, parser, publish

TRACKS = (1, 2, 3, 4, 5, 101, 102, 103, 104, 105)
Place = tuple[int, float]  # seed of a track, and the share of it where an episode starts


@dataclass(frozen=True)
class StandingLap:
    """Seconds of a lap from one standing start.

    Attributes:
        centre: Bound on the centre line.
        curvature: Bound on the line of minimum curvature.
        driver: Lap time of the reference driver; None if it did not finish.
    """

    centre: float
    curvature: float
    driver: float | None


@cache
def measure_standing_lap(config: SimConfig, place: Place) -> StandingLap:
    """Compute the bounds of a lap from one start, and drive it with the reference driver; cached."""
    seed, start = place
    track = make_track(config.track, seed)
    return StandingLap(
        centre=centre_line_bound(track, config.car, start),
        curvature=standing_lap(minimum_curvature_line(track), config.car, start).seconds,
        driver=drive_reference_lap(config, seed, start).lap_time,
    )


def measure_track(config: SimConfig, seed: int, starts: int) -> dict[str, Any]:
    """Return means over the starts of a track; those of the driver are over the laps that it finished."""
    track = make_track(config.track, seed)
    laps = [
        measure_standing_lap(config, (seed, start.position)) for start in make_starts([seed], starts, REPORT_OFFSET)
    ]
    return {
        "track": seed,
        "centre_flying_s": flying_lap(centre_line(track), config.car).seconds,
        "curvature_flying_s": flying_lap(minimum_curvature_line(track), config.car).seconds,
        "centre_s": _mean(lap.centre for lap in laps),
        "curvature_s": _mean(lap.curvature for lap in laps),
        "driver_s": _mean(lap.driver for lap in laps),
        "driver_laps": sum(lap.driver is not None for lap in laps),
        "starts": len(laps),
        "centre_to_curvature": _mean(lap.centre / lap.curvature for lap in laps),
        "driver_to_centre": _mean(lap.driver and lap.driver / lap.centre for lap in laps),
        "driver_to_curvature": _mean(lap.driver and lap.driver / lap.curvature for lap in laps),
    }


def measure_run(folder: Path) -> dict[str, Any]:
    """Compare a run's lap times with the bounds from the same starts."""
    run_config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    env = run_config["env"]
    if env["kind"] != "sim":
        sys.exit(f"--run {folder}: env={env['name']} has no bound. Use a run on env=sim or env=sim_lidar.")
    config = TypeAdapter(SimConfig).validate_python(env)
    source, laps = _read_laps(folder, config, run_config["training"]["eval_episodes"])
    measured = [(seconds, measure_standing_lap(config, place)) for seconds, place in laps]
    return {
        "run": folder.name,
        "source": source,
        "laps": len(laps),
        "lap_time_s": _mean(seconds for seconds, _ in measured),
        "to_centre": _mean(seconds / lap.centre for seconds, lap in measured),
        "to_curvature": _mean(seconds / lap.curvature for seconds, lap in measured),
        "to_driver": _mean(lap.driver and seconds / lap.driver for seconds, lap in measured),
    }


def _read_laps(folder: Path, config: SimConfig, eval_episodes: int) -> tuple[str, list[tuple[float, Place]]]:
    """Return the file that has a run's lap times, and each time with its start; none if no lap was finished."""
    if (path := folder / "evaluation.json").is_file():
        episodes = json.loads(path.read_text(encoding="utf-8"))["deterministic"]
        finished = [episode for episode in episodes if episode["lap_time"]]
        return path.name, [(episode["lap_time"], (episode["track"], episode["start"])) for episode in finished]
    for path, offset in ((folder / "summary.json", REPORT_OFFSET), (folder / "best" / "result.json", SELECTION_OFFSET)):
        result: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if seconds := result.get("lap_time_det"):
            starts = make_starts(config.eval_tracks, eval_episodes, offset)
            return path.name, [(seconds, (start.track, start.position)) for start in starts]
    return "no finished lap", []


def table_of_tracks(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the results of the tracks, and their mean, as a Markdown table."""
    seconds = ("centre_flying_s", "centre_s", "curvature_flying_s", "curvature_s", "driver_s")
    ratios = ("centre_to_curvature", "driver_to_curvature", "driver_to_centre")
    columns = (
        "track", "centre, flying", "centre, standing", "curvature, flying", "curvature, standing", "driver, standing",
        "driver's laps", "centre / curvature", "driver / curvature", "driver / centre",
    )  # fmt: skip
    mean = {key: _mean(row[key] for row in rows) for key in (*seconds, *ratios)}
    mean |= {"track": "mean", **{key: sum(row[key] for row in rows) for key in ("driver_laps", "starts")}}
    cells = [
        (
            str(row["track"]),
            *(number(row[key], "{:.2f} s") for key in seconds),
            f"{row['driver_laps']} of {row['starts']}",
            *(number(row[key], "{:.3f}") for key in ratios),
        )
        for row in [*rows, mean]
    ]
    return markdown(columns, cells)


def table_of_runs(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the results of the runs as a Markdown table."""
    columns = ("run", "read from", "lap time", "/ centre, standing", "/ curvature, standing", "/ driver")
    cells = [
        (
            row["run"],
            row["source"],
            number(row["lap_time_s"], "{:.2f} s"),
            *(number(row[key], "{:.3f}") for key in ("to_centre", "to_curvature", "to_driver")),
        )
        for row in rows
    ]
    return markdown(columns, cells, left=2)


def _mean(values: Any) -> float | None:
    """Return the mean of the values that are not None, or None without any."""
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present else None


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure every track, and compare the runs."""
    args_parser = parser(__doc__)
    args_parser.add_argument("--tracks", type=int, nargs="+", default=list(TRACKS), help="seeds of the tracks")
    args_parser.add_argument("--starts", type=int, default=5, help="number of starts on each track")
    args_parser.add_argument("--run", type=Path, nargs="+", default=[], dest="runs", help="folders of runs on the sim")
    args_parser.add_argument("overrides", nargs="*", help="after --: of the configuration")
    args = args_parser.parse_args(arguments)
    config = compose_config("env=sim_lidar", *args.overrides).env
    rows = [measure_track(config, seed, args.starts) for seed in dict.fromkeys(args.tracks)]
    runs = [measure_run(folder) for folder in args.runs]
    report = {
        "benchmark": "lap_bound",
        **machine(),
        "overrides": args.overrides,
        "results": rows,
        "runs": runs,
    }
    publish(report, [table_of_tracks(rows), *([table_of_runs(runs)] if runs else [])], args.out)
    return report


if __name__ == "__main__":
    main()
