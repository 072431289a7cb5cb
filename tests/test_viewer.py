"""Replay viewer: what it records is what was driven, and its figures are those of the episode and the networks."""

import hashlib
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from app.config.schema_commands import ReplayViewerConfig
from app.core.errors import UserError
from app.envs.driving.sim_env import SimEnv
from app.envs.env_factory import make_spec
from app.envs.tracks.track import Track, make_track, offset_curve
from app.evaluation.episodes import Start
from app.evaluation.evaluator import LocalEvaluator
from app.evaluation.reference_lap import drive_reference_lap
from app.models.actor import DrivingActor
from app.models.distributions import squashed_entropy, squashed_gaussian
from app.runs.config_file import write_config
from app.runs.run_folder import RunFolder
from app.viewer import viewer_page
from app.viewer.lap_sectors import find_corners, lap_sectors, sector_seconds, slowest_speeds
from app.viewer.packed_data import MISSING, frame_sheets, pack_numbers, pack_shares
from app.viewer.policy_readings import load_best_model, read_policy
from app.viewer.recorded_episode import RecordedEpisode, record_policy, record_reference
from app.viewer.view_run import view_run
from app.viewer.viewer_page import Rival, ViewedEpisode, render_viewer
from tests.helpers.make import compose
from tests.helpers.packed import bytes_of, picture_of, unpack
from tests.helpers.runs import ROOT
from tests.helpers.stopped_runs import PENDULUM
from tests.helpers.viewed_runs import make_viewed_run
from tests.test_evidence_report import HOSTILE

STARTS = (0.0, 0.5)
TRACKS = (1, 2)


def configure(run: Path, **values) -> ReplayViewerConfig:
    """The configuration of the command for a run."""
    defaults = {"run": str(run), "tracks": None, "starts": STARTS, "against": None, "out": None, "threads": 1}
    return ReplayViewerConfig(**(defaults | values))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Folder of two runs: one with images, one without, on the same tracks."""
    folder = tmp_path_factory.mktemp("viewed")
    make_viewed_run(folder / "images", "env=sim", "env.image_size=24")
    make_viewed_run(folder / "lidar", seed=1)
    return folder


@pytest.fixture(scope="module")
def page(runs) -> str:
    """The page about the run with images, against the other one, on two tracks from two starts."""
    view_run(configure(runs / "images", tracks=TRACKS, against=str(runs / "lidar")))
    return (runs / "images" / "viewer.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def data(page) -> dict:
    """What the script of the page draws."""
    return data_of(page)


@pytest.fixture(scope="module")
def driven(runs) -> tuple[RecordedEpisode, ...]:
    """The episodes of the page, driven once more."""
    return drive(RunFolder(runs / "images"), [Start(track, start, 0) for track in TRACKS for start in STARTS])


@pytest.fixture(scope="module")
def reference() -> RecordedEpisode:
    """A whole lap of the reference driver."""
    return record_reference(compose("env=sim_lidar").env, Start(2, 0.3))


def data_of(page: str) -> dict:
    (line,) = re.findall(r"^const page = (.*);$", page, re.MULTILINE)
    return json.loads(line)


def drive(run: RunFolder, starts) -> tuple[RecordedEpisode, ...]:
    config = run.best_config()
    return record_policy(load_actor(run), config.env, starts, config.seed)


def load_actor(run: RunFolder) -> DrivingActor:
    config = run.best_config()
    spec = make_spec(config.env)
    actor = DrivingActor(spec.observation_space(), spec.action_space(), config, spec)
    run.load_best(actor)
    return actor


class Elements(HTMLParser):
    """Texts of the elements of a page by tag, and all that a reader sees."""

    def __init__(self, page: str):
        super().__init__()
        self.texts, self.text, self._open = [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "link", "input"):
            self._open.append(tag)
            self.texts.append([tag, dict(attrs), ""])

    def handle_endtag(self, tag):
        self._open.pop()

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("script", "style"):
            self.text += data
            self.texts[-1][2] += data

    def of(self, tag: str, **attributes: str) -> list[str]:
        wanted = attributes.items()
        return [text for name, attrs, text in self.texts if name == tag and wanted <= attrs.items()]


# --- recording -------------------------------------------------------------------------------------------


def test_recorded_episodes_are_those_of_an_evaluation(runs, driven):
    run = RunFolder(runs / "images")
    config = run.best_config()
    evaluator = LocalEvaluator(config.env, config.seed)
    starts = [Start(track, start, 0) for track in TRACKS for start in STARTS]
    evaluation = evaluator.evaluate(load_actor(run), starts, ())
    evaluator.close()
    assert [repr(one.result) for one in driven] == [repr(episode) for episode in evaluation.deterministic]


def test_recorded_states_are_those_of_the_simulator(runs, driven):
    config = RunFolder(runs / "images").best_config()
    one = driven[2]
    env = SimEnv(config.env, [2], seed=9)
    observation, info = env.reset(options={"track": 2, "start": 0.0})
    for step in range(len(one.actions) + 1):
        assert (env.car.x, env.car.y, env.car.heading) == tuple(one.pose[step])
        assert (env.car.speed, info["lap_share"] * env.track.length) == (one.speed[step], one.distance[step])
        assert all(np.array_equal(observation[part], one.observations[part][step]) for part in observation)
        if step < len(one.actions):
            observation, _, terminated, truncated, info = env.step(one.actions[step])
    assert terminated or truncated
    assert one.distance.max() > 10.0  # it drives


def test_recorded_reference_lap_is_the_lap_of_the_reference_driver(reference):
    assert reference.result == drive_reference_lap(compose("env=sim_lidar").env, 2, 0.3)
    assert reference.seconds[-1] == reference.result.lap_time
    assert reference.distance[-1] == reference.track.length


def test_time_at_a_distance_is_interpolated_and_unknown_beyond_the_furthest(reference):
    episode = replace(reference, step_s=0.1, speed=np.zeros(5), distance=np.array([0.0, 0.0, 2.0, 1.0, 4.0]))
    found = episode.seconds_at(np.array([0.0, 1.0, 2.0, 3.0, 4.0, 4.1]))
    np.testing.assert_allclose(found[:5], [0.0, 0.15, 0.2, 0.35, 0.4])
    assert math.isnan(found[5])


# --- networks --------------------------------------------------------------------------------------------


def test_readings_are_those_of_the_networks_for_every_single_state(runs, driven):
    run, one = RunFolder(runs / "images"), driven[0]
    model = load_best_model(run, run.best_config())
    readings = read_policy(model, one)
    steps = len(one.actions)
    for step in (0, steps // 2, steps - 1):
        obs = {part: torch.from_numpy(values[step : step + 1]) for part, values in one.observations.items()}
        features = model.forward_features(obs)
        action, _, log_std = model.actor_from_features(features.features, features.film_params, deterministic=True)
        np.testing.assert_allclose(action[0].numpy(), one.actions[step], atol=1e-5)
        q = model.q_from_features(features.features, features.film_params, action)
        assert readings.q[step] == pytest.approx(float(q.mean()), abs=1e-3)
        assert readings.film[step] == pytest.approx(float(features.film_params[0, :, 0].abs().mean()), rel=1e-4)
    assert readings.attention.shape == (steps, 16) and readings.std.shape == (steps, 3)
    np.testing.assert_allclose(readings.attention.sum(1), 1.0, atol=1e-5)
    centres = (readings.bin_edges[1:] + readings.bin_edges[:-1]) / 2
    np.testing.assert_allclose(readings.bins @ centres, readings.q, atol=1e-3)


def test_attention_weighs_what_the_context_is_pooled_from(runs, driven):
    run = RunFolder(runs / "images")
    trunk = load_best_model(run, run.best_config()).trunk
    obs = {part: torch.from_numpy(values[40:48]) for part, values in driven[0].observations.items()}
    features = trunk(obs)
    weights = trunk.attention(obs, features.features)
    context = trunk.context
    values = context.key_value(context._hidden(trunk.inputs.window(obs))).chunk(2, -1)[1]
    torch.testing.assert_close(context.norm((weights @ values).sum(1)), features.context)


def test_entropy_of_a_squashed_gaussian_is_that_of_its_samples():
    mean, log_std = torch.tensor([[0.0, 1.5], [-2.0, 0.3]]), torch.tensor([[0.0, -1.0], [-3.0, 0.4]])
    torch.manual_seed(0)
    many = [part.repeat_interleave(40_000, 0) for part in (mean, log_std)]
    _, log_prob = squashed_gaussian(*many, torch.randn(80_000, 2))
    torch.testing.assert_close(squashed_entropy(mean, log_std), -log_prob.view(2, -1).mean(1), atol=0.02, rtol=0)


@pytest.mark.parametrize("model", ["model=mlp", "model=shared_backbone"])
def test_model_without_film_and_context_has_a_page_without_them(tmp_path, model):
    make_viewed_run(tmp_path / "run", model)
    view_run(configure(tmp_path / "run", starts=(0.1,)))
    page = (tmp_path / "run" / "viewer.html").read_text(encoding="utf-8")
    (episode,) = data_of(page)["episodes"]
    assert episode["film"] is episode["attention"] is episode["frames"] is None
    assert (episode["bins"] is None) == (model == "model=mlp")  # whose value is a scalar
    assert "FiLM" not in Elements(page).text and 'id="frames"' not in page


# --- corners and sectors ---------------------------------------------------------------------------------


def stadium(radius: float, straight: float) -> Track:
    """A track of two straights and two half circles to the left, which begins in the middle of a straight."""
    turn = np.linspace(-math.pi / 2, math.pi / 2, 400)
    half = np.stack([straight / 2 + radius * np.cos(turn), radius * np.sin(turn)], axis=1)
    along = np.linspace(0.0, straight / 2, 100, endpoint=False)
    first = np.stack([along, np.full(100, -radius)], axis=1)
    second = np.stack([straight / 2 - 2 * along, np.full(100, radius)], axis=1)
    last = np.stack([along - straight / 2, np.full(100, -radius)], axis=1)
    curve = np.concatenate([first, half, second[1:], -half, last[1:]])
    borders = offset_curve(curve, 4.0), offset_curve(curve, -4.0)
    return Track(0, curve, borders, curve, 4.0)


def test_corners_of_a_stadium_are_its_half_circles():
    track = stadium(40.0, 200.0)
    one, two = find_corners(track)
    assert (one.number, two.number) == (1, 2)
    arc = math.pi * 40.0
    assert one.begin == pytest.approx(100.0, abs=2.5) and one.end == pytest.approx(100.0 + arc, abs=2.5)
    assert two.begin == pytest.approx(300.0 + arc, abs=2.5)
    assert one.turn == pytest.approx(180.0, abs=2.0) and one.radius == pytest.approx(40.0, rel=0.1)
    assert one.text.startswith("left 180°, radius ")


def test_circle_that_is_too_wide_for_a_corner_has_one_sector():
    angle = np.linspace(0.0, 2.0 * math.pi, 300, endpoint=False)
    curve = 400.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    track = Track(0, curve, (offset_curve(curve, 4.0), offset_curve(curve, -4.0)), curve, 4.0)
    assert find_corners(track) == ()
    (sector,) = lap_sectors(track, 0.3)
    assert (sector.corner, sector.begin, sector.end) == (None, 0.0, track.length)


@pytest.mark.parametrize("seed", [1, 2, 3, 101, 102])
@pytest.mark.parametrize("start", [0.0, 0.05, 0.33, 0.5, 0.95])
def test_sectors_cover_a_lap_from_any_start_and_hold_a_corner_each(seed, start):
    track = make_track(compose("env=sim_lidar").env.track, seed)
    corners, sectors = find_corners(track), lap_sectors(track, start)
    assert [corner.number for corner in corners] == list(range(1, len(corners) + 1))
    assert all(0.0 <= corner.begin <= corner.apex <= corner.end for corner in corners)
    assert sectors[0].begin == pytest.approx(0.0, abs=1.0) and sectors[-1].end == pytest.approx(track.length, abs=1.0)
    assert all(one.end == two.begin for one, two in zip(sectors[:-1], sectors[1:], strict=True))
    assert {sector.corner for sector in sectors} == set(corners)
    for sector in sectors:
        if not sector.part:  # the corner lies in its sector
            apex = (sector.corner.apex - start * track.length) % track.length
            assert sector.begin < apex < sector.end


def test_times_of_the_sectors_add_up_to_the_lap(reference):
    sectors = lap_sectors(reference.track, 0.3)
    seconds, slowest = sector_seconds(reference, sectors), slowest_speeds(reference, sectors)
    assert seconds.sum() == pytest.approx(reference.result.lap_time)
    assert (seconds > 0.0).all() and slowest[0] == 0.0 and (slowest[1:] > 5.0).all()


def test_sector_that_was_not_finished_has_no_time(reference):
    half = replace(reference, speed=reference.speed[:250], distance=reference.distance[:250])
    sectors = lap_sectors(half.track, 0.3)
    finished = np.array([sector.end <= half.distance.max() for sector in sectors])
    assert finished.any() and not finished.all()
    assert np.array_equal(np.isnan(sector_seconds(half, sectors)), ~finished)
    assert np.array_equal(np.isnan(slowest_speeds(half, sectors)), ~finished)


# --- packed data -----------------------------------------------------------------------------------------


def test_packed_numbers_keep_their_digits_and_what_is_missing():
    values = np.array([0.0, -1.234, 99.876, math.nan])
    np.testing.assert_allclose(unpack(pack_numbers(values, 0.01)), values, atol=0.005001)
    large = np.array([-4e6, 1.0, 4e6])
    np.testing.assert_allclose(unpack(pack_numbers(large, 0.01)), large, atol=4e6 / 2**15)
    assert unpack(pack_numbers([], 1.0)).size == 0
    np.testing.assert_allclose(bytes_of(pack_shares([0.0, 0.5, 1.0, 2.0])) / 255, [0.0, 0.5, 1.0, 1.0], atol=0.002)


def test_frames_are_lossless_within_the_budget_and_smaller_without():
    rng = np.random.default_rng(0)
    films = [rng.integers(0, 256, (count, 16, 16), np.uint8) for count in (1, 33, 70)]
    for film, sheet in zip(films, frame_sheets(films, 10**6), strict=True):
        picture = picture_of(sheet)
        for i, frame in enumerate(film):
            row, column = divmod(i, sheet["columns"])
            assert np.array_equal(picture[16 * row : 16 * row + 16, 16 * column : 16 * column + 16], frame)
    large, small = (sum(len(one["source"]) for one in frame_sheets(films, budget)) for budget in (10**6, 1))
    assert small < 0.7 * large


# --- figures of the page ---------------------------------------------------------------------------------


def test_numbers_on_the_page_are_those_of_the_driven_episodes(runs, data, driven):
    run = RunFolder(runs / "images")
    model = load_best_model(run, run.best_config())
    assert data["missing"] == MISSING and len(data["episodes"]) == len(driven) == 4
    for shown, one in zip(data["episodes"], driven, strict=True):
        readings = read_policy(model, one)
        for name, values, error in (
            ("x", one.pose[:, 0], 0.006),
            ("y", one.pose[:, 1], 0.006),
            ("heading", one.pose[:, 2], 6e-4),
            ("speed", one.speed, 0.006),
            ("distance", one.distance, 0.006),
            ("gas", np.clip(one.actions[:, 0], 0, 1), 6e-4),
            ("brake", np.clip(one.actions[:, 1], 0, 1), 6e-4),
            ("steer", one.actions[:, 2], 6e-4),
            ("lidar", one.observations["floats"][:, 3:22].ravel(), 0.06),
            ("q", readings.q, 0.006),
            ("entropy", readings.entropy, 6e-4),
            ("std", readings.std.ravel(), 6e-4),
            ("film", readings.film, 6e-5),
        ):
            np.testing.assert_allclose(unpack(shown[name]), values, atol=error, err_msg=name)
        attention = bytes_of(shown["attention"]["data"]).reshape(-1, shown["attention"]["window"])
        np.testing.assert_allclose(attention / 255, readings.attention, atol=0.002)
        assert shown["step_s"] == 0.05


def test_distribution_of_q_on_the_page_is_that_of_the_heads(runs, data, driven):
    run = RunFolder(runs / "images")
    readings = read_policy(load_best_model(run, run.best_config()), driven[1])
    shown = data["episodes"][1]["bins"]
    shares = bytes_of(shown["data"]).reshape(-1, shown["count"]) / 255
    first = int(np.abs(readings.bin_edges - shown["low"]).argmin())
    expected = readings.bins / readings.bins.max(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, expected[:, first : first + shown["count"]], atol=0.002)
    assert shown["high"] == pytest.approx(readings.bin_edges[first + shown["count"]], abs=1e-3)


def test_frames_on_the_page_are_those_that_the_networks_see(data, driven):
    for shown, one in zip(data["episodes"], driven, strict=True):
        picture, size, columns = picture_of(shown["frames"]), shown["frames"]["size"], shown["frames"]["columns"]
        for step in (0, 2, 30, len(one.actions)):
            for place in range(4):
                row, column = divmod(max(0, step - 3 + place), columns)
                frame = picture[size * row : size * (row + 1), size * column : size * (column + 1)]
                assert np.array_equal(frame, one.observations["images"][step, place])


def test_ghosts_on_the_page_are_the_reference_driver_and_the_other_run(runs, data, driven):
    starts = [Start(track, start, 0) for track in TRACKS for start in STARTS]
    others = drive(RunFolder(runs / "lidar"), starts)
    env = RunFolder(runs / "images").best_config().env
    for shown, one, other, start in zip(data["episodes"], driven, others, starts, strict=True):
        reference = record_reference(env, start)
        assert [(rival["kind"], rival["name"]) for rival in shown["rivals"]] == [
            ("reference", "the reference driver"),
            ("other", "lidar"),
        ]
        for rival, episode in zip(shown["rivals"], (reference, other), strict=True):
            np.testing.assert_allclose(unpack(rival["x"]), episode.pose[:, 0], atol=0.006)
            np.testing.assert_allclose(unpack(rival["speed"]), episode.speed, atol=0.006)
            gap = one.seconds - episode.seconds_at(one.distance)
            np.testing.assert_allclose(unpack(rival["gap"]), gap, atol=6e-4)
            assert np.isfinite(gap).any()


def test_reference_driver_is_ahead_of_a_driver_that_starts_slowly(data):
    gap = unpack(data["episodes"][0]["rivals"][0]["gap"])
    assert gap[0] == 0.0 and np.nanmax(gap) > 0.1


def test_table_of_sectors_has_the_times_of_the_episode(tmp_path, reference, runs):
    run = RunFolder(runs / "lidar")
    config = run.best_config()
    slower = record_reference(replace(config.env, max_steps=1000), Start(2, 0.3))
    slower = replace(slower, step_s=0.06, result=replace(slower.result, lap_time=slower.result.lap_time * 1.2))
    readings = read_policy(load_best_model(run, config), slower)
    viewed = ViewedEpisode(slower, readings, (Rival("reference", "the reference driver", reference),), None)
    elements = Elements(render_viewer("mine", {}, [], [viewed], config.env))
    cells = [cell.strip() for cell in elements.of("td")]
    sectors = lap_sectors(slower.track, 0.3)
    own, theirs = sector_seconds(slower, sectors), sector_seconds(reference, sectors)
    rows = [cells[i : i + 6] for i in range(0, len(cells), 6)]
    assert [row[2] for row in rows] == [f"{value:.2f}" for value in own]
    assert [row[3] for row in rows] == [f"+{value:.2f}" for value in own - theirs]
    assert [row[0] for row in rows] == [str(sector.corner.number) for sector in sectors]
    (headline,) = elements.of("p", **{"class": "headline"})
    lap, gap = reference.result.lap_time, 0.2 * reference.result.lap_time
    assert f"{gap:.3f} s slower than the reference driver (0:{lap:06.3f})" in headline


def test_headline_of_an_episode_that_is_no_lap_says_how_it_ended(page, driven):
    headlines = Elements(page).of("p", **{"class": "headline"})
    assert len(headlines) == 4
    for headline, one in zip(headlines, driven, strict=True):
        ended = {"off_track": "off the track", "timeout": "time out"}[one.result.outcome]
        assert headline.startswith(f"Track {one.result.track}, from {one.result.start:.0%}".replace("%", " %"))
        assert f": {ended} after 0:{one.seconds[-1]:06.3f} and " in headline


def test_bound_on_the_page_is_that_of_the_start(data, reference):
    bound = unpack(data["episodes"][0]["bound"])
    assert bound[0] == 0.0 and bound.max() > 30.0
    assert reference.result.lap_bound is not None


def test_page_with_images_stays_small_and_asks_for_nothing(page):
    assert len(page) < 1_000_000
    assert "plotly" not in page.lower()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy


def test_ten_laps_with_images_stay_below_five_megabytes(runs):
    run = RunFolder(runs / "lidar")
    env = replace(run.best_config().env, images=True, image_size=64, max_steps=1000)
    lap = record_reference(env, Start(1, 0.05))
    viewed = ViewedEpisode(lap, read_policy(load_best_model(run, run.best_config()), lap), (), None)
    numbers = len(json.dumps(viewer_page._episode(viewed, env))) + 2 * len(json.dumps(viewer_page._motion(lap)))
    film = np.resize(lap.observations["images"][:, -1], (701, 64, 64))
    (sheet,) = frame_sheets([film], viewer_page._FRAME_BUDGET // 10)
    assert len(sheet["source"]) < 4 / 3 * viewer_page._FRAME_BUDGET / 10 + 100
    assert 10 * (numbers * 701 / len(lap.speed) + len(sheet["source"])) < 4_800_000


# --- the command -----------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_command_writes_the_same_page_again_and_nothing_else(tmp_path, runs, capsys):
    run = make_viewed_run(tmp_path / "run")
    before, pages = contents(run.path), []
    for _ in range(2):
        assert view_run(configure(run.path)) == run.viewer
        text = run.viewer.read_text(encoding="utf-8")
        (nonce,) = set(re.findall(r'nonce="([^"]+)"', text))
        pages.append(text.replace(nonce, "nonce"))
    assert pages[0] == pages[1]
    after = contents(run.path)
    assert after.pop("viewer.html") and after == before
    out = capsys.readouterr().out
    assert f"page  {run.viewer} (" in out and "track 1, from 50 %" in out


def test_default_starts_are_those_of_the_summary(tmp_path):
    run = make_viewed_run(tmp_path / "run", "training.eval_episodes=4")
    view_run(configure(run.path, starts=None))
    buttons = Elements(run.viewer.read_text(encoding="utf-8")).text
    for percent in ("12 %", "38 %", "62 %", "88 %"):
        assert f"track 1, from {percent}" in buttons


def test_restart_moves_the_page_with_the_records_of_its_run(tmp_path):
    run = make_viewed_run(tmp_path / "run")
    run.viewer.write_text("page")
    moved = run.move_records_to_history()
    assert not run.viewer.exists() and (moved / "viewer.html").read_text() == "page"


def test_hostile_run_name_is_escaped(tmp_path):
    name = HOSTILE.replace("/", "")
    make_viewed_run(tmp_path / "other" / name)
    view_run(configure(tmp_path / "other" / name, starts=(0.1,), against=str(tmp_path / "other" / name)))
    page = (tmp_path / "other" / name / "viewer.html").read_text(encoding="utf-8")
    assert name not in page and name in Elements(page).text
    assert data_of(page)["name"] == name


def test_car_racing_has_a_page_without_a_reference_driver(tmp_path):
    run = make_viewed_run(tmp_path / "run", "env=car_racing", "env.max_steps=30")
    view_run(configure(run.path, starts=(0.2,)))
    (episode,) = data_of(run.viewer.read_text(encoding="utf-8"))["episodes"]
    assert episode["rivals"] == [] and episode["bound"] is None and episode["frames"] is not None
    assert unpack(episode["speed"]).max() > 5.0


def test_other_car_is_named(tmp_path, runs):
    run = make_viewed_run(tmp_path / "run", "env.car.grip=18")
    view_run(configure(runs / "lidar", starts=(0.1,), against=str(run.path), out=str(tmp_path / "page.html")))
    assert "run drives another car (env.car differs)" in Elements((tmp_path / "page.html").read_text()).text


def test_other_run_of_the_same_name_is_told_apart_by_its_folder(tmp_path, runs):
    run = make_viewed_run(tmp_path / "lidar")
    view_run(configure(runs / "lidar", starts=(0.1,), against=str(run.path), out=str(tmp_path / "page.html")))
    elements = Elements((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert f"s to {run.path}" in elements.text and "Laps of lidar" in elements.text


# --- wrong input -----------------------------------------------------------------------------------------


def refusal(cfg: ReplayViewerConfig) -> str:
    with pytest.raises(UserError) as error:
        view_run(cfg)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_folder_without_a_run_or_a_best_policy_is_refused_in_one_sentence(tmp_path, runs):
    assert "run = " in (text := refusal(configure(tmp_path))) and "holds no run" in text
    run = make_viewed_run(tmp_path / "run")
    run.best_actor.unlink()
    assert "holds a run without a best policy yet" in refusal(configure(run.path))
    text = refusal(configure(runs / "lidar", against=str(run.path)))
    assert text.startswith(f"against = {run.path}: holds a run without a best policy yet")


def test_damaged_networks_are_refused_in_one_sentence(tmp_path):
    run = make_viewed_run(tmp_path / "run")
    whole = run.best_model.read_bytes()
    run.best_model.write_bytes(whole[:1000])
    assert "model.safetensors: cannot be loaded" in refusal(configure(run.path))
    run.best_model.write_bytes(run.best_actor.read_bytes())
    assert "model.safetensors: holds other networks" in refusal(configure(run.path))


def test_task_without_a_track_is_refused_in_one_sentence(tmp_path):
    run = RunFolder(tmp_path / "run")
    write_config(run.config, compose(*PENDULUM))
    run.best_actor.parent.mkdir()
    run.best_actor.touch()
    assert "env=Pendulum-v1 has no simulated car on a track" in refusal(configure(run.path))


def test_run_on_other_tracks_is_refused_in_one_sentence(tmp_path, runs):
    run = make_viewed_run(tmp_path / "run", "env.track.length=800")
    text = refusal(configure(runs / "lidar", against=str(run.path)))
    assert text.startswith(f"against = {run.path}: drives on other tracks than lidar")


def test_more_episodes_than_the_page_holds_are_refused_in_one_sentence(runs):
    text = refusal(configure(runs / "lidar", tracks=(1, 2, 3), starts=(0.0, 0.2, 0.4, 0.6)))
    assert text.startswith("tracks = [1, 2, 3], starts = [0.0, 0.2, 0.4, 0.6]: these are 12 episodes")
    assert "starts = null: these are 11" in refusal(configure(runs / "lidar", tracks=tuple(range(11)), starts=None))


def test_page_that_cannot_be_written_is_one_sentence(tmp_path, runs):
    (tmp_path / "file").write_text("")
    text = refusal(configure(runs / "lidar", starts=(0.1,), out=str(tmp_path / "file" / "page.html")))
    assert "page.html: cannot be written" in text
    text = refusal(configure(runs / "lidar", out=str(tmp_path)))  # before anything is driven
    assert text.endswith(f"is a folder. Name a file in it: out={tmp_path / 'viewer.html'}.")


@pytest.mark.e2e
def test_command_answers_mistakes_in_a_sentence(tmp_path):
    run = make_viewed_run(tmp_path / "run")

    def command(*words):
        return subprocess.run(
            [sys.executable, "app/replay_viewer.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=200
        )

    done = command(f"run={run.path}", "tracks=[2]", "starts=[0.25]", f"out={tmp_path}/page.html")
    assert done.returncode == 0 and "track 2, from 25 %" in done.stdout, done.stderr
    assert (tmp_path / "page.html").is_file() and not run.viewer.exists()
    for words, sentence in (
        ((f"run={tmp_path}/none",), "holds no run"),
        ((f"run={run.path}", "start=[0]"), "start: there is no such key. Did you mean starts"),
        ((f"run={run.path}", "starts=[1.0]"), "starts"),
        ((f"run={run.path}", "tracks=[-1]"), "tracks"),
        ((f"run={run.path}", "tracks=[]"), "tracks"),
    ):
        failed = command(*words)
        assert failed.returncode == 1 and sentence in failed.stderr and "Traceback" not in failed.stderr, failed.stderr
