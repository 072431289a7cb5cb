"""Checks of the real game: the system, tmrl, the reward file, the OpenPlanet plugin, the gamepad and the window."""

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

from app.config.schema import Config
from app.config.schema_env import TrackmaniaConfig
from app.core.errors import UserError
from app.diagnostics.check import ALL_ROLES, PROBE_S, Check, Finding, finding_from_error
from app.diagnostics.system_checks import INSTALL

_GAME_ROLES = ("all", "worker")
_IMPORT_S = 30.0
_OLDEST_CONFIG = (0, 6, 0)  # oldest version of config.json that tmrl 0.7 reads
_LARGEST_NUMBER = 1e6  # beyond any number about a car: m, m/s, turns per minute
_START = (
    "Start Trackmania with OpenPlanet and tmrl's plugin TMRL_GrabData, load a map, and check again; or name another "
    "env.openplanet.port."
)
_WINDOW = "Start Trackmania in windowed mode, not minimised, or name its window: env.game_window.title."
_NEW_DATA = "Rename that folder, let python -m tmrl --install download a new one, and put your own files back into it."


def checks(config: Config) -> list[Check]:
    """Return the checks of the game, in the order of the report; for another environment, a note alone."""
    if not isinstance(config.env, TrackmaniaConfig):
        return [Check("Trackmania", _not_examined, (), "Check again.")]
    recorder = "See docs/trackmania.md."
    return [
        Check("system", _system, _GAME_ROLES, "Use Windows, or Linux with X11."),
        Check("tmrl for the game", _tmrl_game, _GAME_ROLES, INSTALL, _IMPORT_S),
        Check("TmrlData", _tmrl_data, ALL_ROLES, recorder),
        Check("reward file", _reward_file, _GAME_ROLES, recorder),
        Check("OpenPlanet", _openplanet, _GAME_ROLES, _START),
        Check("gamepad", _gamepad, _GAME_ROLES, _gamepad_remedy()),
        Check("window", _window, _GAME_ROLES, _WINDOW),
    ]


def _not_examined(config: Config) -> Finding:
    remedy = "To examine it: python app/doctor.py env=trackmania"
    return Finding("note", f"not examined, as env={config.env.name} needs no game", remedy)


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


def _tmrl_game(_: Config) -> Finding:
    from app.core import tmrl_game

    return Finding("ok", f"can be imported; rtgym keeps time with {tmrl_game.RTGYM_VERSION}")


def _tmrl_data(_: Config) -> Finding:
    folder = Path.home() / "TmrlData"
    config = folder / "config" / "config.json"
    if not folder.is_dir():
        message = f"{folder}: does not exist. This program does not need it, but tmrl's recorder of trajectories does"
        return Finding("note", message, "To record: python -m tmrl --install downloads one (docs/trackmania.md).")
    if not config.is_file():
        message = f"{config}: is missing. This program does not need it, but tmrl's recorder of trajectories does"
        return Finding("note", message, _NEW_DATA)
    try:
        version = json.loads(config.read_text(encoding="utf-8"))["__VERSION__"]
        new_enough = tuple(int(part) for part in version.split(".")[:3]) >= _OLDEST_CONFIG
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        message = f"{config}: cannot be used ({reason}), and tmrl reads it whenever it is imported"
        return Finding("broken", message, _NEW_DATA)
    if not new_enough:
        return Finding("broken", f"{config}: has version {version}, and tmrl needs 0.6.0 or newer", _NEW_DATA)
    return Finding("ok", f"{folder}: config.json has version {version}")


def _reward_file(config: Config) -> Finding:
    from app.envs.trackmania.trajectory import full_lap_return, load_trajectory, trajectory_length

    env = config.env
    path = Path(env.reward_file).expanduser()
    try:
        points = load_trajectory(env.reward_file)
    except UserError as error:
        return finding_from_error("broken" if path.exists() else "missing", error)
    score = full_lap_return(points) + env.reward.finish
    message = f"{path}: {len(points):,} points, {trajectory_length(points):,.1f} m; a whole lap scores {score:.2f}"
    setting = f"env.return_range=[0,{score:.2f}]"
    if env.return_range is None:
        return Finding("ok", f"{message} ({setting} gives runs a health score)")
    if not math.isclose(env.return_range[1], score, rel_tol=0.02):
        message += f", and env.return_range = {list(env.return_range)}"
        return Finding("note", message, f"Use {setting}: the health score measures by it.")
    return Finding("ok", message)


def _openplanet(config: Config) -> Finding:
    from app.envs.trackmania.openplanet import read_packet

    openplanet = config.env.openplanet
    address, timeout_s = f"{openplanet.host}:{openplanet.port}", min(PROBE_S, openplanet.timeout_s)
    try:
        socket.create_connection((openplanet.host, openplanet.port), timeout_s).close()
    except OSError as error:
        return Finding("missing", f"{address}: no program answers ({error.strerror or error})", _START)
    try:
        packet = read_packet(openplanet, timeout_s)
    except OSError as error:
        reason = error.strerror or error
        message = f"{address}: answers, and sends no whole packet within {timeout_s:g} s ({reason})"
        return Finding("broken", message, f"The plugin sends only while a map is played. {_START}")
    if not all(abs(number) < _LARGEST_NUMBER for number in packet):  # false for NaN, too
        numbers = ", ".join(f"{number:.3g}" for number in packet)
        return Finding("broken", f"{address}: sends data that is not about a car ({numbers})", _START)
    speed, position = packet[0], packet[2:5]
    place = ", ".join(f"{coordinate:.1f}" for coordinate in position)
    message = f"{address}: the car has speed {speed:.1f}, at ({place}) m"
    distance = _distance_from_trajectory(config.env.reward_file, position)
    if distance is not None and distance > config.env.reward.max_stray:
        remedy = "Load the map that env.reward_file was recorded on, or record this one (docs/trackmania.md)."
        return Finding("note", f"{message}, {distance:,.0f} m from the recorded trajectory: another map?", remedy)
    return Finding("ok", message)


def _distance_from_trajectory(reward_file: str, position: tuple[float, ...]) -> float | None:
    """Return the distance (m) of a position from the recorded trajectory; None if there is no usable trajectory."""
    import numpy as np

    from app.envs.trackmania.trajectory import load_trajectory

    try:
        points = load_trajectory(reward_file)
    except UserError:  # the check of the reward file says so
        return None
    return float(np.linalg.norm(points - np.array(position), axis=1).min())


def _gamepad(_: Config) -> Finding:
    import vgamepad

    vgamepad.VX360Gamepad()  # removed again at the end of this statement
    return Finding("ok", "a virtual Xbox 360 controller could be plugged in")


def _gamepad_remedy() -> str:
    system = platform.system()
    if system == "Windows":
        return "Install the driver ViGEmBus (github.com/nefarius/ViGEmBus/releases), and restart Windows."
    if system != "Linux":
        return "Use Windows or Linux: there is no virtual gamepad for other systems."
    steps = [*_library_remedies(), *_device_remedies("/dev/uinput")]
    return " ".join(steps) or "See what python -c 'import vgamepad; vgamepad.VX360Gamepad()' says."


def _library_remedies() -> list[str]:
    try:
        ctypes.CDLL("libevdev.so.2")
    except OSError:
        return ["The library libevdev is missing: sudo apt install libevdev2."]
    return []


def _device_remedies(device: str) -> list[str]:
    if not os.path.exists(device):
        return [f"{device} is missing: sudo modprobe uinput; a container must be given it with --device {device}."]
    if not os.access(device, os.W_OK):
        return [
            f'You may not write to {device}: put the line KERNEL=="uinput", MODE="0660", GROUP="input" into '
            "/etc/udev/rules.d/99-uinput.rules, then sudo usermod -aG input $USER, and restart the machine."
        ]
    return []


def _window(config: Config) -> Finding:
    from app.envs.trackmania import interface

    wanted = config.env.game_window
    try:
        window = interface.find_window(wanted.title)
    except UserError as error:
        return finding_from_error("missing", error)
    width, height = _size(window)
    message = f"{wanted.title!r} is {width} × {height} pixels"
    if (width, height) == (wanted.width, wanted.height):
        return Finding("ok", f"{message}, as env.game_window says")
    return Finding(
        "note",
        f"{message}, and env.game_window = {wanted.width} × {wanted.height}; a run will resize it",
        "Set the game to windowed mode, and the scaling of the display to 100 %, or it cannot be resized.",
    )


def _size(window: Any) -> tuple[int, int]:
    """Return width and height of a window in pixels, without changing the window."""
    number = getattr(window, "window_id", None)
    if number is None:  # on Windows tmrl's screenshot has the size of the window
        height, width = window.screenshot().shape[:2]
        return width, height
    command = ["xdotool", "getwindowgeometry", "--shell", number]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_S, check=True).stdout
    values = dict(line.partition("=")[::2] for line in answer.splitlines())
    return int(values["WIDTH"]), int(values["HEIGHT"])
