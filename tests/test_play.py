"""The game: laps by hand and by the reference driver, their records, the ghost, and what is shown."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from app.core.errors import UserError
from app.driving_game.drivers import Gamepad, HumanDriver
from app.driving_game.game import play
from app.driving_game.ghost import Ghost, GhostDriver
from app.driving_game.lap_records import LapRecords
from app.driving_game.screen import Screen
from app.envs.driving.sim_env import SimEnv
from app.evaluation.episodes import Start
from tests.helpers.driver import Driver
from tests.helpers.play import SHORT_TRACK, headless, play_config
from tests.helpers.runs import ROOT


@pytest.fixture(autouse=True)
def _no_display(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@pytest.fixture(scope="module")
def laps(tmp_path_factory):
    """Two laps of the reference driver: the folder and the episodes."""
    folder = tmp_path_factory.mktemp("laps")
    return folder, play(headless(folder, "laps=2", "start=null"))


def recorded(folder):
    return [json.loads(line) for line in (folder / "laps" / "laps.jsonl").read_text().splitlines()]


def test_laps_of_the_reference_driver_are_recorded(laps):
    folder, episodes = laps
    assert [episode.outcome for episode in episodes] == ["lap", "lap"]
    assert episodes[0].start == 0.0 != episodes[1].start
    for lap, episode in zip(recorded(folder), episodes, strict=True):
        assert dataclasses.asdict(episode).items() <= lap.items() and lap["driver"] == "reference"


def test_best_lap_is_that_of_the_same_driver_start_and_car(laps):
    folder, episodes = laps
    physics = recorded(folder)[0]["physics"]
    best = LapRecords(folder / "laps", "reference", physics).best
    assert best(1, 0.0) == episodes[0].lap_time and best(1, 0.5) is None and best(2, 0.0) is None
    assert LapRecords(folder / "laps", "human", physics).best(1, 0.0) is None
    assert LapRecords(folder / "laps", "reference", "other").best(1, 0.0) is None


def test_new_best_lap_is_announced(tmp_path, capsys):
    config = headless(tmp_path, "laps=1")
    play(config)
    lap = recorded(tmp_path)[0]
    (tmp_path / "laps" / "laps.jsonl").write_text(json.dumps(lap | {"lap_time": 61.5}) + "\n")
    play(config)
    play(config)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("lap ")]
    assert "(" not in lines[0] and lines[1].endswith("(a new best lap)") and "(the best is 0:" in lines[2]


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"driver": 1}', '{"driver": "a", "physics": "b", "track": 1, "start": 0, "lap_time": NaN}']
)
def test_damaged_record_is_refused_with_its_line(tmp_path, laps, line):
    shutil.copytree(laps[0] / "laps", tmp_path / "laps")
    with (tmp_path / "laps" / "laps.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=r"laps\.jsonl: line 3 is no lap"):
        play(headless(tmp_path, "laps=1"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("window=false",), "driver = human: needs a window"),
        (("window=false", "driver=reference"), "laps = null: would never end"),
        (("record=mine.txt",), r"record = mine\.txt: must end with \.npz"),
        (("record=README.md/x.npz", "driver=reference", "window=false", "laps=1"), r"record = .*cannot be written"),
        (("ghost=nowhere",), "ghost = nowhere: there is no run with a best policy"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(tmp_path, monkeypatch, overrides, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=message):
        play(play_config(tmp_path, *overrides))


def test_only_the_simulator_can_be_driven(tmp_path, compose):
    config = dataclasses.replace(play_config(tmp_path), env=compose("env=car_racing").env)
    with pytest.raises(UserError, match="env = car_racing: only the built-in simulator"):
        play(config)


# The person


class Keyboard:
    """Stand-in for pygame with some keys held down."""

    def __init__(self):
        self.held = set()
        names = ("UP", "DOWN", "LEFT", "RIGHT", "w", "s", "a", "d")
        for number, name in enumerate(names):
            setattr(self, f"K_{name}", number)
        self.key = types.SimpleNamespace(
            get_pressed=lambda: [names[number] in self.held for number in range(len(names))]
        )


def test_keys_turn_the_wheels_gradually_and_back():
    keyboard = Keyboard()
    driver = HumanDriver(keyboard, [], step_s=0.05)
    keyboard.held = {"UP", "RIGHT"}
    steer = [driver.act(None)[2] for _ in range(6)]
    assert steer == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0]) and driver.act(None)[0] == 1.0
    keyboard.held = {"s", "a", "d"}
    assert driver.act(None).tolist() == pytest.approx([0.0, 1.0, 0.75])
    driver.begin(None)
    keyboard.held = {"LEFT"}
    assert driver.act(None).tolist() == pytest.approx([0.0, 0.0, -0.25])


def test_lap_can_be_driven_with_keys(tmp_path):
    config = play_config(tmp_path).env
    env, keyboard = SimEnv(config, [1], 0), Keyboard()
    env.reset(options={"start": 0.0})
    person, line, wheels = HumanDriver(keyboard, [], config.step_s), Driver(env), 0.0
    terminated = truncated = False
    while not (terminated or truncated):
        pedals, _, steer = line()
        keyboard.held = {"UP"} if pedals > 0.1 else {"DOWN"} if pedals < -0.1 else set()
        keyboard.held |= {"RIGHT"} if steer > wheels + 0.1 else {"LEFT"} if steer < wheels - 0.1 else set()
        action = person.act(env)
        wheels = action[2]
        _, _, terminated, truncated, info = env.step(action)
    assert info["outcome"] == "lap"


class Pad:
    """Stand-in for a joystick of pygame."""

    def __init__(self):
        self.axes, self.buttons = [0.0] * 6, [0] * 4

    def get_axis(self, number):
        return self.axes[number]

    def get_button(self, number):
        return self.buttons[number]


def test_gamepad_has_triggers_stick_and_buttons(tmp_path):
    pad = Pad()
    controls = Gamepad(pad, play_config(tmp_path).gamepad).controls
    assert controls() == (0.0, 0.0, 0.0)  # SDL reports 0 for a trigger that was never touched
    pad.axes = [0.05, 0.0, -1.0, 0.0, 0.0, 0.5]
    assert controls() == (0.75, 0.0, 0.0)
    pad.axes = [-0.6, 0.0, -1.0, 0.0, 0.0, 0.0]
    pad.buttons = [0, 1, 0, 0]
    assert controls() == (0.5, 1.0, -0.6)
    driver = HumanDriver(Keyboard(), [Gamepad(pad, play_config(tmp_path).gamepad)], 0.05)
    assert driver.act(None)[2] == pytest.approx(-0.6)


# The window


class ScriptedPerson:
    """Drives along the track in a window, and presses keys at some of the moments at which it is asked to act."""

    def __init__(self, pygame, keys, idle=0):
        self._pygame, self._keys, self._idle, self.calls, self.waited = pygame, keys, idle, 0, 0

    def begin(self, env):
        self._driver = Driver(env)

    def act(self, env):
        self.calls += 1
        if self.calls in self._keys:
            self._pygame.event.post(self._pygame.event.Event(self._pygame.KEYDOWN, key=self._keys[self.calls]))
        if env.steps == 0 and self.waited < self._idle:
            self.waited += 1
            return np.zeros(3, np.float32)
        return self._driver()


@pytest.fixture
def person(monkeypatch):
    """Return a function that puts a scripted person in front of a window whose frames are kept, not shown."""
    frames, people = [], []

    def place(keys, idle=0):
        def make_driver(self, *_):
            import pygame

            codes = {call: getattr(pygame, f"K_{key}") for call, key in keys.items()}
            people.append(ScriptedPerson(pygame, codes, idle))
            return people[-1]

        monkeypatch.setattr(Screen, "make_driver", make_driver)
        monkeypatch.setattr("app.envs.video.window.Window.show", lambda self, frame: frames.append(frame))
        return frames, people

    return place


def test_car_waits_for_gas_and_shows_the_keys_meanwhile(tmp_path, person):
    frames, people = person({30: "q"}, idle=5)
    assert play(play_config(tmp_path)) == []
    assert people[0].waited == 5
    shown = [(frame[80:90, 100:150] != frames[0][80:90, 100:150]).any() for frame in frames]
    assert not any(shown[:6]) and all(shown[6:])  # the panel with the keys hides this part of the picture


def test_restarted_lap_leaves_nothing_behind(tmp_path, person):
    _, people = person({40: "r", 80: "ESCAPE"})
    record = tmp_path / "mine.npz"
    assert play(play_config(tmp_path, f"record={record}")) == []
    assert 80 <= people[0].calls <= 82 and not record.exists() and not (tmp_path / "laps").exists()


def test_finished_lap_of_a_person_is_recorded_and_the_next_begins(tmp_path, person, capsys):
    frames, _ = person({1: "r", 420: "q"})
    record = tmp_path / "mine.npz"
    episodes = play(play_config(tmp_path, f"record={record}"))
    assert [episode.outcome for episode in episodes] == ["lap"] * len(episodes) and episodes
    assert len(recorded(tmp_path)) == len(episodes) and record.is_file()
    assert f"training.demonstrations={record}" in capsys.readouterr().out
    assert len(frames) > sum(episode.length for episode in episodes)
    with pytest.raises(UserError, match="exists already"):
        play(play_config(tmp_path, f"record={record}"))


def test_missing_display_is_said(tmp_path, monkeypatch):
    for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if not sys.platform.startswith("linux"):
        pytest.skip("other systems have a display without these variables")
    with pytest.raises(UserError, match=r"No window can be opened \(there is no display\)"):
        play(play_config(tmp_path))


# The ghost


def test_gap_to_the_ghost_is_in_seconds():
    ghost = Ghost(np.zeros((5, 3)), np.array([0.0, 0.1, 0.2, 0.4, 0.8]), step_s=0.05)
    assert ghost.gap(3, 0.2) == pytest.approx(0.05) and ghost.gap(2, 0.3) == pytest.approx(-0.025)
    assert ghost.gap(3, 0.9) is None and ghost.gap(0, 0.0) is None


def test_ghost_drives_the_best_policy_from_the_same_start(stopped_once, compose):
    env = compose("env=sim_lidar").env
    ghost = GhostDriver(str(stopped_once), env, 1).drive(Start(1, 0.25))
    sim = SimEnv(env, [1], 0)
    sim.reset(options={"track": 1, "start": 0.25})
    assert ghost.pose(0) == (sim.car.x, sim.car.y, sim.car.heading)
    assert ghost.pose(10_000) == ghost.pose(len(ghost.poses) - 1) and (np.diff(ghost.shares) >= 0).all()
    sim.ghost = None
    alone = sim.render()
    sim.ghost = (sim.car.x + 3.0, sim.car.y, sim.car.heading)
    assert (sim.render() != alone).any()


def test_ghost_of_another_car_is_refused_with_the_difference(stopped_once, compose):
    with pytest.raises(UserError, match=r"ghost = .*\n  env\.car\.grip: 22\.0 → 10\.0\n"):
        GhostDriver(str(stopped_once), compose("env=sim_lidar", "env.car.grip=10").env, 1)


# Real keys


@pytest.mark.e2e
def test_real_keys_drive_the_car(tmp_path):
    if not all(map(shutil.which, ("Xvfb", "xdotool"))):
        pytest.skip("Xvfb or xdotool is not installed")
    display = f":{os.getpid() % 10_000 + 100}"
    env = {key: value for key, value in os.environ.items() if key not in ("SDL_VIDEODRIVER", "XDG_RUNTIME_DIR")}
    env |= {"DISPLAY": display, "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(["Xvfb", display, "-screen", "0", "800x800x24"], stderr=subprocess.DEVNULL)
    command = [sys.executable, "app/play.py", "env=sim_lidar", *SHORT_TRACK, f"laps_dir={tmp_path}", "window_size=480"]
    game = subprocess.Popen(
        [*command, f"record={tmp_path / 'mine.npz'}"], cwd=ROOT, env=env, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip

    def press(*words):
        return subprocess.run(["xdotool", *words], env=env, capture_output=True, text=True, timeout=60)

    try:
        wait_until(lambda: press("getwindowfocus").returncode == 0 and press("getwindowfocus").stdout.strip() != "1")
        press("keydown", "Up")
        wait_until(lambda: (tmp_path / "laps.jsonl").exists())  # straight ahead, the car leaves the road
        press("keyup", "Up")
        press("key", "q")
        out, _ = game.communicate(timeout=120)
    finally:
        game.kill()
        server.kill()
    assert game.returncode == 0 and out.startswith("lap 1  track 1 from 0.00: off the track after"), out
    assert "XDG_RUNTIME_DIR" not in out and "pygame" not in out


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.2)
