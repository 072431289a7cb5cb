"""The doctor's checks of the game, on a stand-in for it."""

import pickle
import sys
import threading

import pytest

from app.diagnostics import game_checks, system_checks
from app.distributed.transport import free_port
from tests.helpers.doctor import (
    complete_game,
    config_of,
    finding_of,
    isolate_home,
    listening,
    playing,
    put_window,
)
from tests.helpers.game import PACKET, Window, straight_trajectory


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    return isolate_home(tmp_path, monkeypatch)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    with complete_game(tmp_path, monkeypatch) as game:
        yield game


def test_missing_or_short_trajectory_is_reported(tmp_path, stand_in):
    finding = finding_of("reward file", playing(stand_in, reward_file=tmp_path / "none.pkl"))
    assert finding.state == "missing" and "none.pkl" in finding.message and "--record-reward" in finding.remedy
    (tmp_path / "short.pkl").write_bytes(pickle.dumps(straight_trajectory(5.0)))
    finding = finding_of("reward file", playing(stand_in, reward_file=tmp_path / "short.pkl"))
    assert finding.state == "broken" and "51 points" in finding.message


def test_hostile_reward_file_is_refused(tmp_path, stand_in):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "canary"), "w"))

    stand_in.reward_file.write_bytes(pickle.dumps(Bomb()))
    config = playing(stand_in)
    finding = finding_of("reward file", config)
    assert finding.state == "broken" and "no array of numbers" in finding.message
    assert finding_of("OpenPlanet", config).state == "ok"  # reads it, too
    assert not (tmp_path / "canary").exists()


def test_wrong_return_range_is_noted(stand_in):
    for given, state in (("[0,6]", "ok"), ("[0,30]", "note")):
        finding = finding_of("reward file", playing(stand_in, f"env.return_range={given}"))
        assert finding.state == state
    assert "env.return_range=[0,6.00]" in finding.remedy
    finding = finding_of("reward file", playing(stand_in, "env.reward.finish=10"))
    assert "scores 16.00" in finding.message


def test_missing_game_is_reported(stand_in):
    finding = finding_of("OpenPlanet", playing(stand_in, port=free_port()))
    assert finding.state == "missing" and "no program answers" in finding.message and "TMRL_GrabData" in finding.remedy


@pytest.mark.parametrize(
    "words, hang_up",
    [(b"", False), (bytes(43), True), (PACKET.pack(*[float("nan")] * 11), False), (b"SSH-2.0-OpenSSH" * 3, False)],
)
def test_other_program_is_not_taken_for_the_game(stand_in, words, hang_up):
    with listening(words, hang_up) as port:
        finding = finding_of(
            "OpenPlanet",
            playing(stand_in, "env.openplanet.timeout_s=0.3", port=port),
        )
    assert finding.state == "broken" and f":{port}" in finding.message


def test_silent_game_is_reported_in_time(stand_in):
    stand_in.plugin.silent = True
    finding = finding_of("OpenPlanet", playing(stand_in, "env.openplanet.timeout_s=0.3"))
    assert finding.state == "broken" and "no whole packet within 0.3 s" in finding.message


def test_wrong_map_is_noted(stand_in):
    stand_in.car.along = 20.0
    finding = finding_of("OpenPlanet", playing(stand_in))
    assert finding.state == "ok" and "at (20.0, 10.0, 0.0) m" in finding.message
    stand_in.reward_file.write_bytes(pickle.dumps(straight_trajectory(60.0) + 1000.0))
    finding = finding_of("OpenPlanet", playing(stand_in))
    assert finding.state == "note" and "from the recorded trajectory" in finding.message


def test_gamepad_that_cannot_be_made_is_reported(stand_in, monkeypatch):
    config = playing(stand_in)
    assert finding_of("gamepad", config).state == "ok" and len(stand_in.gamepads) == 1

    def fail():
        raise OSError("no driver")

    monkeypatch.setattr(sys.modules["vgamepad"], "VX360Gamepad", fail)
    finding = finding_of("gamepad", config)
    assert finding.state == "broken" and finding.message == "OSError: no driver" and finding.remedy
    monkeypatch.setitem(sys.modules, "vgamepad", None)
    finding = finding_of("gamepad", config)
    assert finding.state == "broken" and "docs/install.md" in finding.remedy


def test_hanging_gamepad_driver_is_abandoned_in_time(stand_in, monkeypatch):
    forever = threading.Event()
    monkeypatch.setattr(sys.modules["vgamepad"], "VX360Gamepad", forever.wait)
    assert finding_of("gamepad", playing(stand_in), timeout_s=0.2).message == "no answer within 0.2 s"
    forever.set()


@pytest.mark.parametrize(
    "system, library, there, words",
    [
        ("Windows", True, True, "ViGEmBus"), ("Darwin", True, True, "no virtual gamepad"),
        ("Linux", False, True, "libevdev2"), ("Linux", True, False, "modprobe uinput"),
        ("Linux", True, True, "99-uinput.rules"),
    ],
)  # fmt: skip
def test_remedy_for_the_gamepad_suits_the_system(monkeypatch, system, library, there, words):
    def load(name):
        if not library:
            raise OSError(name)

    config = config_of("env=trackmania")
    monkeypatch.setattr(game_checks.platform, "system", lambda: system)
    monkeypatch.setattr(game_checks.ctypes, "CDLL", load)
    monkeypatch.setattr(game_checks.os.path, "exists", lambda _: there)
    monkeypatch.setattr(game_checks.os, "access", lambda *_: False)
    assert words in next(check.remedy for check in game_checks.checks(config) if check.name == "gamepad")


def test_missing_window_is_reported(stand_in, monkeypatch):
    def fail(title):
        raise AssertionError(f"Could not find a window named {title}.")  # tmrl on Windows

    class NotFound:  # tmrl on Linux
        window_id = None

        def __init__(self, title):
            pass

    for make, state in ((fail, "broken"), (NotFound, "missing")):
        put_window(monkeypatch, make)
        finding = finding_of("window", playing(stand_in))
        assert finding.state == state and "Trackmania" in finding.message and "game_window.title" in finding.remedy


def test_window_of_another_size_is_noted_and_not_resized(stand_in, monkeypatch):
    assert finding_of("window", playing(stand_in)).state == "ok"
    made = []

    def small(title):
        made.append(Window(title, stand_in.car, (640, 480)))
        made[-1].move_and_resize = None  # would move a person's window
        return made[-1]

    put_window(monkeypatch, small)
    finding = finding_of("window", playing(stand_in))
    assert finding.state == "note" and "640 × 480" in finding.message and "958 × 488" in finding.message

    class OnLinux:
        window_id = "7"

        def __init__(self, title):
            pass

    put_window(monkeypatch, OnLinux)
    assert "800 × 600" in finding_of("window", playing(stand_in)).message  # as xdotool says


def test_system_without_a_display_cannot_play(stand_in, monkeypatch):
    config = playing(stand_in)
    assert finding_of("system", config).state == "ok"
    monkeypatch.setattr(game_checks.shutil, "which", lambda _: None)
    assert "xdotool" in finding_of("system", config).remedy
    monkeypatch.delenv("DISPLAY")
    assert finding_of("system", config).state == "missing" and "DISPLAY" in finding_of("system", config).message
    for system, state in (("Windows", "ok"), ("Darwin", "broken")):
        monkeypatch.setattr(game_checks.platform, "system", lambda system=system: system)
        assert finding_of("system", config).state == state


@pytest.mark.parametrize(
    "content, state",
    [
        (None, "note"), ("", "note"), ("{", "broken"), ("[]", "broken"), ("{}", "broken"),
        ('{"__VERSION__": 3}', "broken"), ('{"__VERSION__": "0.5.9"}', "broken"), ('{"__VERSION__": "0.6.0"}', "ok"),
    ],
)  # fmt: skip
def test_damaged_tmrl_data_is_reported_and_left_alone(home, content, state):
    file = home / "TmrlData" / "config" / "config.json"
    if content is not None:
        file.parent.mkdir(parents=True)
    if content:
        file.write_text(content)
    config = config_of("env=trackmania")
    assert finding_of("TmrlData", config).state == state
    assert (home / "TmrlData").exists() == (content is not None)
    assert not content or file.read_text() == content
    if content and state == "broken":  # tmrl reads it whenever it is imported
        remedy = next(check.remedy for check in system_checks.checks(config) if check.name == "tmrl")
        assert str(file) in remedy
