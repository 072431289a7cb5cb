"""Bounds on the lap time: closed forms, monotonicity, the reference driver, and the ratio that is reported."""

import dataclasses
import io
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from rich.console import Console

from app.config.schema_env import CarConfig, SimConfig
from app.distributed.messages import EvaluationResult, decode_message, encode_message
from app.envs.driving.car import Car, steer_lock_share
from app.envs.driving.reference_driver import ReferenceDriver
from app.envs.env_factory import make_env
from app.envs.tracks.lap_bound import centre_line_bound, flying_lap, standing_lap, terminal_speed
from app.envs.tracks.racing_line import centre_line, minimum_curvature_line
from app.envs.tracks.track import Track, make_track, offset_curve
from app.evaluation.episodes import Start, make_episode, make_starts
from app.evaluation.evaluator import LocalEvaluator
from app.evaluation.reference_lap import drive_reference_lap
from app.evaluation.results import Episode, Evaluation
from app.reporting.summary import print_evaluation, print_summary
from benchmarks import lap_bound as benchmark
from tests.helpers.make import compose
from tests.helpers.runs import ROOT

LIDAR: SimConfig = compose("env=sim_lidar").env
CAR: CarConfig = LIDAR.car
# The simulator's steps of 10 ms gain the car less than this over continuous motion; see app/envs/tracks/lap_bound.py.
TOLERANCE = 0.001


def circle(radius: float, half_width: float = 8.0) -> Track:
    angle = np.linspace(0.0, 2.0 * math.pi, 2000, endpoint=False)
    curve = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    centre = curve[::10]
    return Track(0, centre, (offset_curve(centre, half_width), offset_curve(centre, -half_width)), curve, half_width)


def fastest_on_circle(radius: float) -> float:
    """Return the speed at which the grip turns the car and compensates the drag: (v²/r)² + (d₀ + d₁v²)² = g²."""
    a = 1.0 / radius**2 + CAR.drag_air**2
    b, c = 2.0 * CAR.drag_rolling * CAR.drag_air, CAR.drag_rolling**2 - CAR.grip**2
    return math.sqrt((-b + math.sqrt(b * b - 4.0 * a * c)) / (2.0 * a))


def changed(**keys: float) -> CarConfig:
    return dataclasses.replace(CAR, **keys)


# Lines


@pytest.mark.parametrize("seed", [1])
def test_centre_line_runs_through_the_points_of_the_track(seed):
    track = make_track(LIDAR.track, seed)
    line = centre_line(track)
    gap = np.hypot(*(track.centre[:, None] - line.points[None]).transpose(2, 0, 1)).min(axis=1)
    assert gap.max() < 0.55 * line.edge_lengths.max()  # between two of its points at most
    assert line.length == pytest.approx(track.length, rel=1e-3)
    assert (line.curvature * line.edge_lengths).sum() == pytest.approx(2.0 * math.pi)
    assert np.abs(line.curvature).max() <= 1.01 / LIDAR.track.min_radius


@pytest.mark.parametrize("seed", [1, 101])
def test_minimum_curvature_line_bends_less_and_stays_on_the_road(seed):
    track = make_track(LIDAR.track, seed)
    line = minimum_curvature_line(track)
    edge = 0
    offsets = []
    for i, (x, y) in enumerate(line.points):
        edge = track.pose(i / len(line.points))[3]
        edge, along, offset = track.project(x, y, edge)
        offsets.append(abs(offset))
        assert abs(math.remainder(along / track.length - i / len(line.points), 1.0)) < 0.005
    # slightly more beside the straight edges of the polyline, which cut the smooth curve's bends
    assert max(offsets) < track.half_width + 0.25
    assert 0.9 * track.half_width < max(offsets)  # it uses the road
    bending = [(one.curvature**2 * one.edge_lengths).sum() for one in (line, centre_line(track))]
    assert bending[0] < 0.7 * bending[1]


def test_minimum_curvature_line_of_a_circle_is_its_outer_edge():
    line = minimum_curvature_line(circle(60.0))
    assert np.hypot(*line.points.T) == pytest.approx(np.full(len(line.points), 68.0), abs=0.1)


def test_margin_keeps_the_line_off_the_edge():
    line = minimum_curvature_line(circle(60.0), 3.0)
    assert np.hypot(*line.points.T) == pytest.approx(np.full(len(line.points), 65.0), abs=0.1)


# Closed forms


@pytest.mark.parametrize("radius", [40.0, 60.0, 80.0])
def test_flying_lap_of_a_circle_equals_the_closed_form(radius):
    speed = fastest_on_circle(radius)
    lap = flying_lap(centre_line(circle(radius)), CAR)
    assert lap.speed == pytest.approx(np.full(len(lap.speed), speed), rel=1e-4)
    assert lap.seconds == pytest.approx(2.0 * math.pi * radius / speed, rel=1e-4)


def test_flying_lap_of_a_wide_circle_is_at_terminal_speed():
    lap = flying_lap(centre_line(circle(2000.0)), CAR)
    speed = terminal_speed(CAR)
    assert CAR.engine * (1.0 - speed / CAR.top_speed) == pytest.approx(CAR.drag_rolling + CAR.drag_air * speed**2)
    assert lap.seconds == pytest.approx(4000.0 * math.pi / speed, rel=1e-4)


def test_standing_lap_of_a_wide_circle_equals_a_straight_run():
    """There is always grip to spare, so a straight run at full gas, integrated in tiny steps, takes as long."""
    radius, dt = 400.0, 1e-4
    along = speed = seconds = 0.0
    while along < 2.0 * math.pi * radius:
        drag = CAR.drag_rolling + CAR.drag_air * speed**2
        speed += (CAR.engine * (1.0 - speed / CAR.top_speed) - drag) * dt
        along, seconds = along + speed * dt, seconds + dt
    assert standing_lap(centre_line(circle(radius)), CAR, 0.3).seconds == pytest.approx(seconds, rel=1e-3)


def test_lap_of_a_car_that_cannot_move_is_infinite():
    assert standing_lap(centre_line(circle(60.0)), changed(engine=0.2), 0.0).seconds == math.inf


# Profiles


@pytest.mark.parametrize("seed", [2])
@pytest.mark.parametrize("kind", ["flying", "standing"])
def test_speed_profile_obeys_the_physics_of_the_car(seed, kind):
    line = centre_line(make_track(LIDAR.track, seed))
    lap = flying_lap(line, CAR) if kind == "flying" else standing_lap(line, CAR, 0.0)
    steps, v = line.edge_lengths, lap.speed
    curvature = np.abs(np.append(line.curvature, line.curvature[0]))
    assert (v**2 * curvature <= CAR.grip * 1.0001).all()
    pull = (
        (v[1:] ** 2 - v[:-1] ** 2) / (2.0 * steps) + CAR.drag_rolling + CAR.drag_air * (v[1:] ** 2 + v[:-1] ** 2) / 2.0
    )
    engine = CAR.engine * (1.0 - (v[1:] + v[:-1]) / 2.0 / CAR.top_speed)
    assert (pull <= engine + 0.1).all() and (pull >= -CAR.brake - 0.1).all()
    turning = ((v[1:] + v[:-1]) / 2.0) ** 2 * (curvature[1:] + curvature[:-1]) / 2.0
    assert np.hypot(pull, turning).max() < 1.05 * CAR.grip  # implicit: all of it at one end of a step
    assert np.quantile(np.hypot(pull, turning), 0.99) < 1.02 * CAR.grip
    if kind == "flying":
        assert v[0] == v[-1]


@pytest.mark.parametrize("seed", [2])
@pytest.mark.parametrize("key", ["grip", "engine", "brake", "top_speed"])
def test_stronger_car_is_never_slower(seed, key):
    track, values = make_track(LIDAR.track, seed), [0.7, 0.85, 1.0, 1.2, 1.5]
    cars = [changed(**{key: getattr(CAR, key) * value}) for value in values]
    for lap in (
        lambda car: flying_lap(centre_line(track), car).seconds,
        lambda car: centre_line_bound(track, car, 0.2),
    ):
        seconds = [lap(car) for car in cars]
        assert seconds == sorted(seconds, reverse=True) and seconds[0] > seconds[-1]


@pytest.mark.parametrize("key", ["drag_rolling", "drag_air"])
def test_more_drag_is_never_faster(key):
    track = make_track(LIDAR.track, 2)
    bounds = [centre_line_bound(track, changed(**{key: getattr(CAR, key) * more}), 0.2) for more in (0.0, 1.0, 4.0)]
    assert bounds == sorted(bounds)


@pytest.mark.parametrize("seed", [1, 2])
def test_minimum_curvature_is_faster_than_the_centre_line(seed):
    track = make_track(LIDAR.track, seed)
    centre, curvature = centre_line(track), minimum_curvature_line(track)
    assert flying_lap(centre, CAR).seconds > 1.05 * flying_lap(curvature, CAR).seconds
    for start in (0.0, 0.4, 0.8):
        assert standing_lap(centre, CAR, start).seconds > standing_lap(curvature, CAR, start).seconds
        assert standing_lap(centre, CAR, start).seconds > flying_lap(centre, CAR).seconds


def test_bound_does_not_depend_on_the_number_of_stations(monkeypatch):
    line = centre_line(make_track(LIDAR.track, 2))
    coarse = [flying_lap(line, CAR).seconds, standing_lap(line, CAR, 0.37).seconds]
    monkeypatch.setattr("app.envs.tracks.lap_bound._STATION_SPACING", 0.125)
    assert coarse == pytest.approx([flying_lap(line, CAR).seconds, standing_lap(line, CAR, 0.37).seconds], rel=1e-3)


def test_bound_of_a_place_does_not_depend_on_where_the_line_begins():
    """All starts on a circle are alike."""
    bounds = [standing_lap(centre_line(circle(60.0)), CAR, start).seconds for start in (0.0, 0.123, 0.5, 0.999)]
    assert bounds == pytest.approx([bounds[0]] * 4, rel=1e-6)


def test_bound_is_computed_once_for_a_track_and_a_start():
    track = make_track(LIDAR.track, 4)
    centre_line_bound(track, CAR, 0.125)
    before = centre_line_bound.cache_info()
    centre_line_bound(track, CAR, 0.125)
    assert centre_line_bound.cache_info().misses == before.misses


def test_steering_lock_never_binds_on_the_default_tracks():
    """The bounds leave it out: at every speed the grip or the tightest bend limits the curvature more."""
    for speed in np.linspace(0.0, CAR.top_speed, 200):
        lock = CAR.steer_lock * steer_lock_share(speed)
        limit = min(CAR.grip / max(speed, 1e-6) ** 2, 1.0 / (LIDAR.track.min_radius - LIDAR.track.half_width))
        assert math.tan(lock) / CAR.wheelbase > limit


def test_simulated_car_is_not_faster_than_a_circle_allows():
    """With the wheels set for the circle and any gas, no speed at which the car stays on it exceeds the limit."""
    car, radius = Car(CAR), 60.0
    limit, fastest = fastest_on_circle(radius), 0.0
    for gas in np.linspace(0.0, 1.0, 41):
        car.place(0.0, 0.0, 0.0)
        car.speed = limit
        for _ in range(2000):
            before = car.heading
            wheels = -math.atan(CAR.wheelbase / radius)
            lock = CAR.steer_lock * steer_lock_share(car.speed)
            car.drive(gas, 0.0, wheels / lock, 0.01, 1)
        if car.speed * 0.01 / (car.heading - before) <= radius * 1.0001:  # it stays on the circle
            fastest = max(fastest, car.speed)
    assert 0.9 * limit < fastest <= limit * (1.0 + TOLERANCE)


# The reference driver


@pytest.mark.parametrize("seed", [1, 3, 102])
def test_reference_driver_laps_within_5_percent_of_the_bound_and_never_below_it(seed):
    track = make_track(LIDAR.track, seed)
    for start in (0.1, 0.35, 0.6, 0.85):
        episode = drive_reference_lap(LIDAR, seed, start)
        assert episode.outcome == "lap"
        bound = standing_lap(minimum_curvature_line(track), CAR, start).seconds
        assert 1.0 - TOLERANCE < episode.lap_time / bound < 1.05
        assert episode.lap_bound == centre_line_bound(track, CAR, start)
        assert episode.lap_time < episode.lap_bound  # it cuts the bends


def test_reference_driver_drives_alike_with_and_without_images():
    config = compose("env=sim").env
    assert drive_reference_lap(config, 1, 0.0).lap_time == drive_reference_lap(LIDAR, 1, 0.0).lap_time


def test_reference_driver_at_the_limit_does_not_beat_the_bound(monkeypatch):
    """With nearly all of the road and all of the grip, its finished laps take at most 1 % more, and never less."""
    monkeypatch.setattr("app.envs.driving.reference_driver.GRIP_SHARE", 1.0)
    monkeypatch.setattr("app.envs.driving.reference_driver.EDGE_MARGIN", 0.25)
    track, ratios = make_track(LIDAR.track, 1), []
    for start in (0.05, 0.3, 0.55, 0.8):
        episode = drive_reference_lap(LIDAR, 1, start)
        if episode.outcome == "lap":
            ratios.append(episode.lap_time / standing_lap(minimum_curvature_line(track), CAR, start).seconds)
    assert ratios and 1.0 - TOLERANCE < min(ratios) and max(ratios) < 1.01


def test_reference_driver_returns_a_valid_action():
    env = make_env(LIDAR, [2], 0)
    env.reset(options={"track": 2, "start": 0.0})
    action = ReferenceDriver(LIDAR, env.track).act(env.car)
    assert action.shape == (3,) and action.dtype == np.float32 and action[0] >= 1.0 and action[1] == 0.0


# Evaluation and reports


def lap(seconds: float, bound: float | None) -> Episode:
    return Episode(500.0, 800, 1.0, seconds, "lap", 7, 0.25, lap_bound=bound)


def test_ratio_of_an_evaluation_is_the_mean_over_finished_laps():
    crash = Episode(100.0, 200, 0.2, None, "off_track", 8, 0.5)
    metrics = Evaluation((lap(30.0, 25.0), lap(28.0, 28.0), crash), (lap(30.0, 20.0),)).metrics()
    assert metrics["lap_time_ratio_det"] == pytest.approx(1.1)
    assert metrics["lap_time_ratio_det_std"] == pytest.approx(0.1)
    assert metrics["lap_time_ratio_stoch"] == pytest.approx(1.5)


@pytest.mark.parametrize("episode", [lap(30.0, None), Episode(1.0, 2, 0.2, None, "off_track", 8, 0.5)])
def test_ratio_is_absent_without_a_bound_or_a_lap(episode):
    assert not [name for name in Evaluation((episode,), ()).metrics() if "ratio" in name]


def test_bound_is_part_of_the_episode_and_of_its_message():
    info = {"outcome": "lap", "lap_share": 1.0, "lap_time": 30.0, "lap_bound": 25.0}
    episode = make_episode(Start(1, 0.5, 0), 500.0, 600, info)
    assert episode.lap_time_ratio == pytest.approx(1.2)
    assert decode_message(encode_message(EvaluationResult("w", "f", 1, 1, True, episode))).episode == episode


def test_evaluator_reports_the_ratio_of_every_lap():
    evaluator = LocalEvaluator(LIDAR, 0, lambda: None)
    drivers: dict[int, ReferenceDriver] = {}

    class Scripted:
        device = "cpu"

        def actions(self, observations: dict[str, torch.Tensor], deterministic: bool) -> torch.Tensor:
            running = [(i, env) for i, env in enumerate(evaluator._envs) if env._running]
            for i, env in running:
                if i not in drivers:  # making one takes longer than driving with it
                    drivers[i] = ReferenceDriver(LIDAR, env.track)
            return torch.from_numpy(np.stack([drivers[i].act(env.car) for i, env in running]))

    found = evaluator.evaluate(Scripted(), make_starts([1, 3], 2, 0.5), ())
    evaluator.close()
    bounds = [centre_line_bound(make_track(LIDAR.track, seed), CAR, start) for seed, start in ((1, 0.25), (3, 0.75))]
    assert [episode.lap_bound for episode in found.deterministic] == bounds
    ratios = [episode.lap_time / bound for episode, bound in zip(found.deterministic, bounds, strict=True)]
    assert found.metrics()["lap_time_ratio_det"] == pytest.approx(np.mean(ratios))
    assert 0.8 < min(ratios) and max(ratios) < 1.0


def test_summary_shows_the_ratio_beside_the_lap_time():
    metrics = Evaluation((lap(28.0, 25.0),), ()).metrics()
    assert "0:28.000 · 1.12 × the centre-line bound" in printed(metrics)
    assert "bound" not in printed(Evaluation((lap(28.0, None),), ()).metrics())


def printed(metrics: dict) -> str:
    console = Console(file=io.StringIO(), width=100)
    print_summary(console, {**metrics, "run_name": "one", "paths": {}})
    return console.file.getvalue()


def test_evaluation_table_has_the_ratio_where_there_is_a_bound():
    for bound, shown in ((25.0, True), (None, False)):
        console = Console(file=io.StringIO(), width=80)
        print_evaluation(console, Evaluation((lap(28.0, bound), lap(30.0, bound)), ()), "one")
        lines = console.file.getvalue().splitlines()
        assert max(map(len, lines)) <= 80 and ("× bound" in lines[1] or "× bound" in lines[2]) is shown
        assert ("1.12" in console.file.getvalue()) is shown


def test_car_racing_has_no_bound():
    env = make_env(compose("env=car_racing").env, [1], 0)
    env.reset()
    assert set(env._lap_info()) == {"lap_time"}
    env.close()


# The benchmark


def test_benchmark_compares_a_run_with_its_bounds(tmp_path, capsys):
    run = tmp_path / "one"
    (run / "best").mkdir(parents=True)
    (run / "config.yaml").write_text(json.dumps({"env": dataclasses.asdict(LIDAR), "training": {"eval_episodes": 2}}))
    (run / "best" / "result.json").write_text(json.dumps({"lap_time_det": 30.0}))
    report = benchmark.main(["--tracks", "1", "--starts", "1", "--run", str(run)])
    (track,), (row,) = report["results"], report["runs"]
    assert track["driver_laps"] == 1 and 1.0 - TOLERANCE < track["driver_to_curvature"] < 1.05
    bounds = [centre_line_bound(make_track(LIDAR.track, 1), CAR, start) for start in (0.0, 0.5)]
    assert row["source"] == "result.json"
    assert row["to_centre"] == pytest.approx(np.mean([30.0 / bound for bound in bounds]))
    episodes = [{"track": 1, "start": 0.5, "lap_time": 40.0}, {"track": 1, "start": 0.0, "lap_time": None}]
    (run / "evaluation.json").write_text(json.dumps({"deterministic": episodes}))
    row = benchmark.measure_run(run)
    assert (row["source"], row["laps"]) == ("evaluation.json", 1)
    assert row["to_centre"] == pytest.approx(40.0 / bounds[1])


def test_reference_driver_and_summary_import_no_torch():
    code = "import sys, app.evaluation.reference_lap, app.reporting.summary; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_reporting_does_not_import_envs():
    code = "import sys, app.reporting.summary as _; sys.exit(any(name.startswith('app.envs') for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
