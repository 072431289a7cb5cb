"""Stand-in for Trackmania: the plugin's packets, the window's pictures and the gamepad."""

import contextlib
import pickle
import socket
import struct
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np

PACKET = struct.Struct("<11f")
RESPAWN = 0x2000  # the button B
TOP_SPEED = 50.0  # m/s
SPACING = 0.1  # m between two points of a trajectory, as tmrl records it


def straight_trajectory(metres: float) -> np.ndarray:
    """Return a trajectory ``(N, 3)`` along x."""
    x = np.arange(0.0, metres + SPACING / 2, SPACING)
    return np.stack([x, np.full_like(x, 10.0), np.zeros_like(x)], axis=1)


class Car:
    """Car that follows a trajectory, whatever the steering, at a speed that gas and brake change."""

    def __init__(self, points: np.ndarray):
        self.points, self.lock = points, threading.Lock()
        self.gas = self.brake = self.steer = 0.0
        self.respawns = 0
        self.respawn()

    def respawn(self) -> None:
        self.along = self.speed = 0.0
        self.respawns += 1

    @property
    def finished(self) -> bool:
        return self.along >= (len(self.points) - 1) * SPACING

    def move(self, seconds: float) -> None:
        with self.lock:
            self.speed = min(max(self.speed + (20.0 * self.gas - 30.0 * self.brake - 1.0) * seconds, 0.0), TOP_SPEED)
            self.along = min(self.along + self.speed * seconds, (len(self.points) - 1) * SPACING)

    def packet(self) -> bytes:
        with self.lock:
            x, y, z = self.points[min(int(self.along / SPACING), len(self.points) - 1)]
            gear = 1.0 + min(4, int(self.speed / 10))
            rpm = 1000.0 + 180.0 * self.speed
            return PACKET.pack(
                self.speed, self.along, x, y, z, self.steer, self.gas, self.brake, float(self.finished), gear, rpm
            )


class Plugin:
    """The plugin's server: sends every client the state of the car, 100 times a second."""

    def __init__(self, car: Car, port: int = 0):
        self.car, self.sent, self.silent = car, [], False
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self._clients: list[socket.socket] = []
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=loop, daemon=True) for loop in (self._accept, self._send)]
        for thread in self._threads:
            thread.start()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                self._clients.append(self._listener.accept()[0])
            except OSError:
                return

    def _send(self) -> None:
        before = time.perf_counter()
        while not self._stopped.is_set():
            time.sleep(0.01)
            now = time.perf_counter()
            self.car.move(now - before)
            before = now
            if self.silent:
                continue
            packet = self.car.packet()
            self.sent = [*self.sent[-1000:], packet]
            for client in list(self._clients):
                try:
                    client.sendall(packet)
                except OSError:
                    self._clients.remove(client)

    def stop(self) -> None:
        self._stopped.set()
        for connection in (self._listener, *self._clients):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        for thread in self._threads:
            thread.join(2)


class Window:
    """The game's window: a road with black borders 150 pixels left and right of the car, and a stripe for its speed."""

    pictures: list[np.ndarray] = []  # newest last

    def __init__(self, title: str, car: Car | None = None, size: tuple[int, int] | None = None):
        assert title == "Trackmania"
        self._car, self._size = car, size

    def move_and_resize(self, w: int, h: int) -> None:
        self._size = self._size or (w, h)

    def screenshot(self) -> np.ndarray:
        w, h = self._size
        picture = np.full((h, w, 4), 160, np.uint8)
        for border in (w // 2 - 150, w // 2 + 150):
            picture[h // 4 :, border - 3 : border + 3, :3] = 0
        picture[: h // 8, : max(1, int(w * self._car.speed / TOP_SPEED)), :3] = 255
        type(self).pictures = [*type(self).pictures[-100:], picture]
        return picture


class Gamepad:
    """Virtual Xbox controller that records what tmrl presses, and drives the car with it."""

    def __init__(self, car: Car):
        self._car, self.states, self.buttons = car, [], []
        self._now = [0.0, 0.0, 0.0]

    def right_trigger_float(self, value_float: float) -> None:
        self._now[0] = value_float

    def left_trigger_float(self, value_float: float) -> None:
        self._now[1] = value_float

    def left_joystick_float(self, x: float, y: float) -> None:
        assert y == 0.0
        self._now[2] = x

    def press_button(self, button: int) -> None:
        self.buttons.append(button)
        if button == RESPAWN:
            self._car.respawn()

    def release_button(self, button: int) -> None:
        assert button in self.buttons

    def reset(self) -> None:
        self._now = [0.0, 0.0, 0.0]

    def update(self) -> None:
        self.states.append(tuple(float(part) for part in self._now))
        self._car.gas, self._car.brake, self._car.steer = self.states[-1]


class Game:
    """Everything that a machine with the game has.

    Args:
        folder: Folder of the reward file.
        metres: Length of the map.
    """

    def __init__(self, folder: Path, metres: float = 300.0):
        self.folder, self.points = folder, straight_trajectory(metres)
        self.car = Car(self.points)
        self.plugin = Plugin(self.car)
        self.gamepads: list[Gamepad] = []
        self.reward_file = folder / "reward.pkl"
        self.reward_file.write_bytes(pickle.dumps(self.points))  # as tmrl records it

    @property
    def overrides(self) -> tuple[str, ...]:
        """Overrides of the configuration that lead to this game."""
        return (
            "env=trackmania", f"env.openplanet.port={self.plugin.port}", f"env.reward_file={self.reward_file}",
            "env.sleep_at_reset=0.15", "env.openplanet.timeout_s=1.5",
        )  # fmt: skip

    def install(self, setter) -> None:
        """Replace the gamepad's driver and the window; ``setter(target, name, value)`` is like ``setattr``."""
        import app.envs.trackmania.interface as interface

        def gamepad():
            self.gamepads.append(Gamepad(self.car))
            return self.gamepads[-1]

        sys.modules["vgamepad"] = types.SimpleNamespace(VX360Gamepad=gamepad)
        setter(interface, "WindowInterface", lambda title: Window(title, self.car))

    def stop(self) -> None:
        self.plugin.stop()
        sys.modules.pop("vgamepad", None)
