"""What a lap can take: bounds by track, a hand-written driver in the real environment, and policies beside them.

    python benchmarks/lap_bound.py [--tracks 1 2] [--starts 5] [--run runs/NAME ...] [--out file.json] [-- OVERRIDE ...]

Bounds are those of `app/envs/lap_bound.py` for the car and tracks of `env=sim_lidar` with the overrides, such as
`-- env.car.grip=18`: a flying lap of the centre line, and laps from a standing start on the centre line and on the
line of minimum curvature. The driver of `app/envs/reference_driver.py` drives episodes. All but the flying lap are
means over `--starts` starts spread over the lap, and ratios are means of ratios.

`--run` compares a trained policy's lap time with what its own environment allows from the same starts: every
finished episode of `evaluation.json`, which `app/evaluate.py` writes, or else the mean lap time in `summary.json`, or
of the best policy so far. For a mean, the bounds are means over all starts of that evaluation, exact if all finished.
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
from hydra import compose, initialize_config_dir
from pydantic import TypeAdapter

from app.config.load import load
from app.config.schema import SimConfig
from app.envs.lap_bound import centre_line_bound, flying_lap, standing_lap
from app.envs.racing_line import centre_line, minimum_curvature_line
from app.envs.reference_driver import drive_lap
from app.envs.track import make_track
from app.training.conclusion import REPORT
from app.training.evaluation import make_starts
from app.training.trainer import SELECT
from benchmarks.common import ROOT, machine, markdown, number, parser, publish

TRACKS = (1, 2, 3, 4, 5, 101, 102, 103, 104, 105)
Place = tuple[int, float]  # seed of a track, and the share of it where an episode starts


@dataclass(frozen=True)
class Standing:
    """Seconds of a lap from one standing start."""

    centre: float  # bound on the centre line
    curvature: float  # on the line of minimum curvature
    driver: float | None  # what the reference driver took; None: it did not finish


@cache
def standing(cfg: SimConfig, place: Place) -> Standing:
    """Return the bounds from a start, and drive it."""
    seed, start = place
    track = make_track(cfg.track, seed)
    curvature = standing_lap(minimum_curvature_line(track), cfg.car, start).seconds
    return Standing(centre_line_bound(track, cfg.car, start), curvature, drive_lap(cfg, seed, start).get("lap_time"))


def row_of_track(cfg: SimConfig, seed: int, starts: int) -> dict[str, Any]:
    """Sum up a track: means over the starts, of the driver over those where it finished."""
    track = make_track(cfg.track, seed)
    laps = [standing(cfg, (seed, start.position)) for start in make_starts([seed], starts, REPORT)]
    return {
        "track": seed,
        "centre_flying_s": flying_lap(centre_line(track), cfg.car).seconds,
        "curvature_flying_s": flying_lap(minimum_curvature_line(track), cfg.car).seconds,
        "centre_s": _mean(lap.centre for lap in laps),
        "curvature_s": _mean(lap.curvature for lap in laps),
        "driver_s": _mean(lap.driver for lap in laps),
        "driver_laps": sum(lap.driver is not None for lap in laps),
        "starts": len(laps),
        "centre_to_curvature": _mean(lap.centre / lap.curvature for lap in laps),
        "driver_to_centre": _mean(lap.driver and lap.driver / lap.centre for lap in laps),
        "driver_to_curvature": _mean(lap.driver and lap.driver / lap.curvature for lap in laps),
    }


def row_of_run(folder: Path) -> dict[str, Any]:
    """Compare a run's lap time with the bounds from the same starts."""
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    if config["env"]["kind"] != "sim":
        sys.exit(f"--run {folder}: env={config['env']['name']} has no bound. Name a run on env=sim or env=sim_lidar.")
    cfg = TypeAdapter(SimConfig).validate_python(config["env"])
    source, laps = _laps_of_run(folder, cfg, config["training"]["eval_episodes"])
    known = [(seconds, standing(cfg, place)) for seconds, place in laps]
    return {
        "run": folder.name,
        "source": source,
        "laps": len(laps),
        "lap_time_s": _mean(seconds for seconds, _ in known),
        "to_centre": _mean(seconds / lap.centre for seconds, lap in known),
        "to_curvature": _mean(seconds / lap.curvature for seconds, lap in known),
        "to_driver": _mean(lap.driver and seconds / lap.driver for seconds, lap in known),
    }


def _laps_of_run(folder: Path, cfg: SimConfig, episodes: int) -> tuple[str, list[tuple[float, Place]]]:
    """Return where a run's lap times stand, and each with its start; none if the policy finished no lap."""
    if (path := folder / "evaluation.json").is_file():
        driven = json.loads(path.read_text(encoding="utf-8"))["deterministic"]
        return path.name, [(one["lap_time"], (one["track"], one["start"])) for one in driven if one["lap_time"]]
    for path, offset in ((folder / "summary.json", REPORT), (folder / "best" / "result.json", SELECT)):
        result: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if seconds := result.get("lap_time_det"):
            starts = make_starts(cfg.eval_tracks, episodes, offset)
            return path.name, [(seconds, (start.track, start.position)) for start in starts]
    return "no finished lap", []


def table_of_tracks(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the tracks and their mean as Markdown."""
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
    """Return the runs as Markdown."""
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
    """Return the mean of the values that are not None; None without any."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure every track, and compare the runs."""
    args_parser = parser(__doc__)
    args_parser.add_argument("--tracks", type=int, nargs="+", default=list(TRACKS), help="seeds")
    args_parser.add_argument("--starts", type=int, default=5, help="spread over each track")
    args_parser.add_argument("--run", type=Path, nargs="+", default=[], dest="runs", help="folders of runs on the sim")
    args_parser.add_argument("overrides", nargs="*", help="after --: of the configuration")
    args = args_parser.parse_args(arguments)
    with initialize_config_dir(str(ROOT / "conf")):
        cfg = load(compose("config", ["env=sim_lidar", *args.overrides])).env
    rows = [row_of_track(cfg, seed, args.starts) for seed in dict.fromkeys(args.tracks)]
    runs = [row_of_run(folder) for folder in args.runs]
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
