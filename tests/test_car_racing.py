"""CarRacing: its tracks and physics, and the observation, reward and episode ends of the simulator."""

import json
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.box2d import car_racing

from app.distributed.messages import EvaluationResult, decode_message, encode_message
from app.envs.driving.car_racing import CarRacingGame
from app.envs.env_factory import EnvError, make_env
from app.evaluation import evaluator as evaluation
from app.evaluation.episodes import make_starts
from app.models.actor import DrivingActor
from app.training.run import train
from tests.helpers.make import compose
from tests.helpers.runs import TINY

GAS, IDLE = (np.array(action, np.float32) for action in ([0.6, -1, 0], [-1, -1, 0]))
LIDAR = ("env=car_racing", "env.images=false")


@pytest.fixture
def opened():
    """Function that makes environments, which are closed after the test."""
    made = []

    def make(*overrides):
        config = compose("env=car_racing", *overrides).env
        made.append(make_env(config, config.train_tracks, 0))
        return made[-1]

    yield make
    for env in made:
        env.close()


def actions(count, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.uniform(-1, 1, (count, 3)).astype(np.float32)
    return rows * [1.0, 0.3, 0.3] + [0.3, -0.3, 0.0]  # more gas than brake


def drive(env, rows, start=0.0):
    """Drive until the actions or the episode end; return every step as env.step does."""
    obs, info = env.reset(options={"track": 1, "start": start})
    steps = [(obs, 0.0, False, False, info)]
    for action in rows:
        steps.append(env.step(action))
        if steps[-1][2] or steps[-1][3]:
            break
    return steps


def test_track_equals_that_of_the_game(opened):
    theirs = gymnasium.make("CarRacing-v3").unwrapped
    theirs.reset(seed=7)
    env = opened()
    env.reset(options={"track": 7, "start": 0.0})
    assert np.allclose(env.track.centre, np.array(theirs.track)[:, 2:])
    x, y, heading, _ = env.track.pose(0.0)
    assert (x, y) == pytest.approx(tuple(theirs.car.hull.position), abs=0.1)
    assert env.track.half_width == car_racing.TRACK_WIDTH
    theirs.close()


def test_physics_and_score_equal_those_of_the_game():
    """With the game's own steps, the same controls lead to the same place and score."""
    theirs = gymnasium.make("CarRacing-v3", continuous=True).unwrapped
    theirs.render_mode = "state_pixels"
    theirs.reset(seed=3)
    theirs.render = theirs._render = lambda *_: None
    _, angle, x, y = theirs.track[0]
    ours = CarRacingGame(3)
    seconds = 1.0 / car_racing.FPS
    ours.place(x, y, angle + np.pi / 2, seconds)
    total, lock = 0.0, theirs.car.wheels[0].joint.upperLimit  # at most, the game's wheels turn by this
    for step in range(60):
        gas, brake, steer = 0.8 * (step % 40 < 30), 0.3 * (step % 40 >= 30), 0.2 * np.sin(step / 5)
        ours.drive(gas, brake, steer, seconds, 1)
        total += theirs.step(np.array([lock * steer, gas, brake]))[1]
    for one, other in zip(ours.car_motion()[:2], theirs.car.hull.position, strict=True):
        assert one == pytest.approx(other, abs=1e-3)
    assert ours.car_motion()[3] == pytest.approx(np.hypot(*theirs.car.hull.linearVelocity), abs=1e-3)
    assert ours.car_motion()[3] > 5
    assert ours.reward == pytest.approx(total, abs=1e-6) and ours.reward > 5  # it visited some tiles
    ours.close()
    theirs.close()


def test_pictures_are_rendered_only_on_request(opened, monkeypatch):
    modes = []
    original = car_racing.CarRacing._render
    monkeypatch.setattr(car_racing.CarRacing, "_render", lambda self, mode: modes.append(mode) or original(self, mode))
    env = opened()
    steps = drive(env, actions(20))
    assert len(steps) > 5 and not modes
    frame = env.render()
    assert modes == ["rgb_array"]
    assert frame.shape == (480, 480, 3) and frame.dtype == np.uint8
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 10  # it is not blank


def test_picture_has_the_instruments_of_the_simulator(opened):
    env = opened()
    env.reset(options={"start": 0.0})
    for _ in range(10):
        env.step(np.array([1.0, -1.0, 0.0], np.float32))
    frame = env.render()
    shown = (frame[408:417, 350:456], frame[450:458, 158:268], frame[12:136, 344:468])  # gas, lap, map
    colours = ((88, 214, 120), (244, 246, 248), (248, 166, 32))
    for part, colour in zip(shown, colours, strict=True):
        assert (part == colour).all(-1).any()
    assert (frame[408:417, 350:456] == colours[0]).all()  # full gas


@pytest.mark.parametrize("overrides", [(), ("env.images=false",), ("env.image_size=64",)])
def test_observation_has_the_spaces_of_the_simulator(opened, overrides):
    env = opened(*overrides)
    sim = compose("env=sim", *overrides).env
    twin = make_env(sim, sim.train_tracks, 0)
    assert env.observation_space == twin.observation_space and env.action_space == twin.action_space
    for obs, *_ in drive(env, actions(30)):
        assert env.observation_space.contains(obs)
    if env.observation_spec.image_shape:
        assert 3 < len(np.unique(obs["images"]))
    assert obs["floats"][0] > 1 and 0 < obs["floats"][2] <= 12_000 and obs["floats"][3:22].min() > 0


def test_step_lasts_50_ms(opened):
    env = opened(*LIDAR)
    drive(env, [GAS] * 20)
    assert env._game.t == pytest.approx(20 * 0.05)


def test_positive_steer_turns_right(opened):
    env = opened(*LIDAR)
    headings = {}
    for steer in (-0.4, 0.4):
        env.reset(options={"track": 1, "start": 0.2})
        before = env.car_state.heading
        for _ in range(12):
            env.step(np.array([0.5, -1, steer], np.float32))
        headings[steer] = (env.car_state.heading - before + np.pi) % (2 * np.pi) - np.pi
    assert headings[0.4] < -0.02 < 0.02 < headings[-0.4]  # right is positive, and clockwise


def test_same_seed_gives_identical_episodes(opened):
    one, other = (drive(opened(), actions(60), start=0.3) for _ in range(2))
    assert len(one) == len(other) > 10
    for (a, *ends), (b, *others) in zip(one, other, strict=True):
        assert ends == others and all(np.array_equal(a[name], b[name]) for name in a)


def test_episode_is_independent_of_the_one_before(opened):
    env = opened(*LIDAR)
    first = drive(env, actions(40))
    drive(env, actions(15, seed=9), start=0.6)
    again = drive(env, actions(40))
    assert len(first) == len(again)
    assert all(np.array_equal(a[0]["floats"], b[0]["floats"]) for a, b in zip(first, again, strict=True))
    assert [step[4]["native_return"] for step in first] == [step[4]["native_return"] for step in again]


def test_restored_environment_continues_bit_equal(opened):
    env, other = opened(), opened()
    drive(env, actions(12), start=0.4)
    state = env.get_state()
    seen = other.set_state(state)
    assert all(np.array_equal(seen[name], part) for name, part in env._builder.get_state().items())
    for action in actions(10, seed=4):
        one, two = env.step(action), other.step(action)
        assert all(np.array_equal(one[0][name], two[0][name]) for name in one[0]) and one[1:] == two[1:]


def test_old_worlds_are_released(opened):
    env = opened(*LIDAR)
    for start in np.linspace(0, 0.9, 5):
        drive(env, [GAS] * 3, start=float(start))
        assert len(env._game.world.bodies) == len(env._game.road) + 5  # tiles; a hull and four wheels


def test_leaving_the_road_standing_and_the_step_limit_end_the_episode(opened):
    env = opened(*LIDAR)
    straight = drive(env, [GAS] * 300, start=0.0)[-1]
    assert straight[2] and not straight[3] and straight[4]["outcome"] == "off_track"
    standing = drive(env, [IDLE] * 300)
    assert standing[-1][4]["outcome"] == "stalled" and len(standing) - 1 == 40
    timeout = drive(opened(*LIDAR, "env.max_steps=5"), [GAS] * 9)[-1]
    assert timeout[3] and not timeout[2] and timeout[4]["outcome"] == "timeout"
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(GAS)


def test_native_return_is_reported_for_every_episode(opened):
    """The game's own score is part of every evaluated episode, also when it was sent by a worker."""
    config = compose(*TINY, *LIDAR, "env.max_steps=30")
    env = opened(*LIDAR)
    actor = DrivingActor(env.observation_space, env.action_space, config, env.observation_spec)
    evaluator = evaluation.LocalEvaluator(config.env, 0, lambda: None)
    starts = make_starts(config.env.eval_tracks, 2, 0.0)
    found = evaluator.evaluate(actor, starts, starts[:1])
    evaluator.close()
    native = [episode.native_return for episode in found.deterministic]
    assert all(score is not None and -100 <= score < 1000 for score in native)
    assert found.metrics()["native_return_det"] == pytest.approx(np.mean(native))
    assert "native_return_stoch" in found.metrics()
    sent = EvaluationResult("w", "f", 1, 1, True, found.deterministic[0])
    assert decode_message(encode_message(sent)).episode.native_return == native[0]


@pytest.mark.e2e
def test_run_on_car_racing_finishes_and_reports_its_score(tmp_path):
    small = (*TINY, *LIDAR, f"runs_dir={tmp_path}", "run_name=road", "training.epochs=1", "env.max_steps=40")
    train(compose(*small, "logger=default", "logger.progress=none", "logger.tensorboard=false"))
    summary = json.loads((tmp_path / "road" / "summary.json").read_text())
    assert summary["stop_reason"] == "finished" and "native_return_det" in summary
    assert (tmp_path / "road" / "videos" / "best.mp4").stat().st_size > 5_000


def test_missing_package_of_the_game_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "app.envs.driving.car_racing", None)  # its import fails
    with pytest.raises(
        EnvError, match=r"^env = car_racing: a package of the game cannot be imported .* or use env=sim.$"
    ):
        make_env(compose("env=car_racing").env, (1,), 0)
