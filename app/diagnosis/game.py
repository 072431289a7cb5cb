"""The checks of the real game: the system, tmrl's half for it, the trajectory, the plugin, the gamepad, the window."""

import ctypes
import json
import math
import os
import platform
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

from app.config.schema import Config, TrackmaniaConfig
from app.diagnosis.finding import EVERY, PROBE_S, Check, Finding, told
from app.diagnosis.packages import INSTALL
from app.errors import UserError

_PLAYS = ("all", "worker")
_IMPORT_S = 30.0
_OLDEST = (0, 6, 0)  # version of config.json that tmrl 0.7 reads
_LARGEST = 1e6  # of what a car can send: m, m/s, turns a minute
_START = (
    "Start Trackmania with OpenPlanet and tmrl's plugin TMRL_GrabData, load a map, and look again; or name another "
    "env.openplanet.port."
)
_WINDOW = "Start Trackmania in windowed mode, not minimised, or name its window: env.game_window.title."
_NEW_DATA = "Rename that folder, let python -m tmrl --install download a new one, and put your own files back into it."


def checks(config: Config) -> list[Check]:
    """Return the checks of the game, in the order in which they are told; of another environment, where to ask."""
    if not isinstance(config.env, TrackmaniaConfig):
        return [Check("Trackmania", _unasked, (), "Ask again.")]
    recorder = "See docs/trackmania.md."
    return [
        Check("system", _system, _PLAYS, "Use Windows, or Linux with X11."),
        Check("tmrl's game half", _game_half, _PLAYS, INSTALL, _IMPORT_S),
        Check("TmrlData", _tmrl_data, EVERY, recorder),
        Check("reward file", _reward_file, _PLAYS, recorder),
        Check("OpenPlanet", _openplanet, _PLAYS, _START),
        Check("gamepad", _gamepad, _PLAYS, _mend_gamepad()),
        Check("window", _window, _PLAYS, _WINDOW),
    ]


def _unasked(config: Config) -> Finding:
    how = "To examine it: python app/doctor.py env=trackmania"
    return Finding("note", f"not examined, as env={config.env.name} needs no game", how)


def _system(_: Config) -> Finding:
    system = platform.system()
    name = f"{system} {platform.release()}"
    if system == "Windows":
        return Finding("ok", name)
    if system != "Linux":
        return Finding("broken", f"{name}: tmrl cannot drive the game there", "Use Windows, or Linux with X11.")
    if not os.environ.get("DISPLAY"):
        remedy = "Start this in the session that shows the game (X11 or XWayland), or set DISPLAY to it."
        return Finding("missing", f"{name} without a display (DISPLAY is not set)", remedy)
    if shutil.which("xdotool") is None:
        return Finding("missing", f"{name} without xdotool, which moves the window", "sudo apt install xdotool")
    return Finding("ok", f"{name}, display {os.environ['DISPLAY']}, with xdotool")


def _game_half(_: Config) -> Finding:
    from app import tmrl_game

    return Finding("ok", f"can be imported; rtgym keeps time with {tmrl_game.RTGYM_VERSION}")


def _tmrl_data(_: Config) -> Finding:
    folder = Path.home() / "TmrlData"
    config = folder / "config" / "config.json"
    if not folder.is_dir():
        found = f"{folder}: there is none. This program needs none, and tmrl's recorder of trajectories does"
        return Finding("note", found, "To record: python -m tmrl --install downloads one (docs/trackmania.md).")
    if not config.is_file():
        return Finding("note", f"{config}: is missing. This program needs none, and tmrl's recorder does", _NEW_DATA)
    try:
        version = json.loads(config.read_text(encoding="utf-8"))["__VERSION__"]
        new_enough = tuple(int(part) for part in version.split(".")[:3]) >= _OLDEST
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        words = f"{config}: cannot be used ({type(error).__name__}: {error}), and tmrl reads it whenever it is imported"
        return Finding("broken", words, _NEW_DATA)
    if not new_enough:
        return Finding("broken", f"{config}: is of version {version}, and tmrl wants 0.6.0 or newer", _NEW_DATA)
    return Finding("ok", f"{folder}: config.json of version {version}")


def _reward_file(config: Config) -> Finding:
    from app.envs.trackmania.trajectory import best_return, length_of, load_trajectory

    env = config.env
    path = Path(env.reward_file).expanduser()
    try:
        points = load_trajectory(env.reward_file)
    except UserError as error:
        return told("broken" if path.exists() else "missing", error)
    score = best_return(points) + env.reward.finish
    found = f"{path}: {len(points):,} points, {length_of(points):,.1f} m; a whole lap scores {score:.2f}"
    advice = f"env.return_range=[0,{score:.2f}]"
    if env.return_range is None:
        return Finding("ok", f"{found} ({advice} gives runs a health score)")
    if not math.isclose(env.return_range[1], score, rel_tol=0.02):
        wrong = f"{found}, and env.return_range = {list(env.return_range)}"
        return Finding("note", wrong, f"Use {advice}: the health score measures by it.")
    return Finding("ok", found)


def _openplanet(config: Config) -> Finding:
    from app.envs.trackmania.openplanet import read_once

    cfg = config.env.openplanet
    where, patience = f"{cfg.host}:{cfg.port}", min(PROBE_S, cfg.timeout_s)
    try:
        socket.create_connection((cfg.host, cfg.port), patience).close()
    except OSError as error:
        return Finding("missing", f"{where}: nobody answers ({error.strerror or error})", _START)
    try:
        packet = read_once(cfg, patience)
    except OSError as error:
        words = f"{where}: answers, and sends no whole packet within {patience:g} s ({error.strerror or error})"
        return Finding("broken", words, f"The plugin sends only while a map is played. {_START}")
    if not all(abs(number) < _LARGEST for number in packet):  # also where one is no number
        words = f"{where}: what it sends is not about a car ({', '.join(f'{number:.3g}' for number in packet)})"
        return Finding("broken", words, _START)
    speed, place = packet[0], packet[2:5]
    found = f"{where}: the car has speed {speed:.1f}, at ({', '.join(f'{one:.1f}' for one in place)}) m"
    away = _away(config.env, place)
    if away > config.env.reward.max_stray:
        remedy = "Load the map that env.reward_file was recorded on, or record this one (docs/trackmania.md)."
        return Finding("note", f"{found}, {away:,.0f} m from the recorded trajectory: another map?", remedy)
    return Finding("ok", found)


def _away(env: TrackmaniaConfig, place: tuple[float, ...]) -> float:
    """Return how far, m, a place is from the trajectory; 0 without one, which another check tells."""
    import numpy as np

    from app.envs.trackmania.trajectory import load_trajectory

    try:
        points = load_trajectory(env.reward_file)
    except UserError:
        return 0.0
    return float(np.linalg.norm(points - np.array(place), axis=1).min())


def _gamepad(_: Config) -> Finding:
    import vgamepad

    vgamepad.VX360Gamepad()  # is gone again with this line
    return Finding("ok", "a virtual Xbox 360 controller could be plugged in")


def _mend_gamepad() -> str:
    system = platform.system()
    if system == "Windows":
        return "Install the driver ViGEmBus (github.com/nefarius/ViGEmBus/releases), and start Windows again."
    if system != "Linux":
        return "Use Windows or Linux: there is no virtual gamepad for other systems."
    steps = [*_mend_library(), *_mend_device("/dev/uinput")]
    return " ".join(steps) or "See what python -c 'import vgamepad; vgamepad.VX360Gamepad()' says."


def _mend_library() -> list[str]:
    try:
        ctypes.CDLL("libevdev.so.2")
    except OSError:
        return ["The library libevdev is missing: sudo apt install libevdev2."]
    return []


def _mend_device(device: str) -> list[str]:
    if not os.path.exists(device):
        return [f"{device} is missing: sudo modprobe uinput; a container must be given it with --device {device}."]
    if not os.access(device, os.W_OK):
        return [
            f'You may not write to {device}: put the line KERNEL=="uinput", MODE="0660", GROUP="input" into '
            "/etc/udev/rules.d/99-uinput.rules, then sudo usermod -aG input $USER, and start the machine again."
        ]
    return []


def _window(config: Config) -> Finding:
    from app.envs.trackmania import interface

    wanted = config.env.game_window
    try:
        window = interface.find_window(wanted.title)
    except UserError as error:
        return told("missing", error)
    width, height = _size(window)
    found = f"{wanted.title!r} is {width} × {height} pixels"
    if (width, height) == (wanted.width, wanted.height):
        return Finding("ok", f"{found}, as env.game_window says")
    return Finding(
        "note",
        f"{found}, and env.game_window = {wanted.width} × {wanted.height}; a run will resize it",
        "Set the game to windowed mode, and the scaling of the display to 100 %, or it cannot be resized.",
    )


def _size(window: Any) -> tuple[int, int]:
    """Return width and height in pixels of a window that is left as it is."""
    number = getattr(window, "window_id", None)
    if number is None:  # on Windows tmrl's picture has the size of the window
        height, width = window.screenshot().shape[:2]
        return width, height
    command = ["xdotool", "getwindowgeometry", "--shell", number]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_S, check=True).stdout
    values = dict(line.partition("=")[::2] for line in answer.splitlines())
    return int(values["WIDTH"]), int(values["HEIGHT"])
