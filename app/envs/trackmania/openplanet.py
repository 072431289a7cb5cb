"""Client of tmrl's plugin for OpenPlanet, which reconnects when the game is restarted."""

import contextlib
import math
import socket
import struct
import threading
import time
from typing import NamedTuple

from app.config.schema_env import OpenplanetConfig
from app.envs.spec import EnvError

_RETRY_S = 0.5
_RECEIVE_TIMEOUT_S = 1.0  # after which the thread checks whether it must end
_LAYOUT = struct.Struct("<11f")


class Packet(NamedTuple):
    """Data of the car that the plugin sends in every frame of the game, all of it as floats."""

    speed: float
    distance: float  # driven since the start
    x: float  # m
    y: float
    z: float
    steer: float
    gas: float
    brake: float
    finished: float  # 1 at the end of the map, else 0
    gear: float
    rpm: float


class GameConnectionLost(Exception):
    """The game has stopped sending; the message says what was expected."""


class OpenPlanetClient:
    """Receives the plugin's packets in a thread that reconnects whenever a connection ends.

    tmrl's own client never notices that a connection was closed, and keeps a core busy with it.

    Args:
        config: Address of the plugin.

    Raises:
        EnvError: If there is no answer.
    """

    def __init__(self, config: OpenplanetConfig) -> None:
        self._config, self._closed = config, False
        self._received = threading.Condition()
        self._newest: Packet | None = None  # None: already returned, or none has come
        try:
            self._connect().close()
        except OSError as error:
            raise EnvError(
                f"env.openplanet = {config.host}:{config.port}: nobody answers there ({error.strerror or error}). "
                "Start Trackmania with OpenPlanet and tmrl's plugin TMRL_GrabData, load a map, and check that python "
                "app/doctor.py env=trackmania finds it; or set another env.openplanet.port."
            ) from None
        threading.Thread(target=self._run, daemon=True).start()

    def newest_packet(self) -> Packet:
        """Wait for a packet that was not yet returned, and return the newest one; all of its values are finite.

        Raises:
            GameConnectionLost: If none came in ``timeout_s``.
        """
        config = self._config
        with self._received:
            if not self._received.wait_for(lambda: self._newest is not None, config.timeout_s):
                where = f"{config.host}:{config.port}"
                raise GameConnectionLost(f"OpenPlanet at {where} has sent nothing usable for {config.timeout_s:g} s")
            packet, self._newest = self._newest, None
        return packet

    def close(self) -> None:
        """Let the thread end."""
        self._closed = True

    def _run(self) -> None:
        while not self._closed:
            with contextlib.suppress(OSError), self._connect() as connection:
                self._receive(connection)
            if not self._closed:
                time.sleep(_RETRY_S)

    def _connect(self) -> socket.socket:
        return socket.create_connection((self._config.host, self._config.port), self._config.timeout_s)

    def _receive(self, connection: socket.socket) -> None:
        """Keep the newest packet of a connection until it ends or the client is closed."""
        connection.settimeout(_RECEIVE_TIMEOUT_S)
        buffer = b""
        while not self._closed:
            try:
                part = connection.recv(4096)
            except TimeoutError:
                continue
            if not part:
                return
            buffer += part
            complete = len(buffer) // _LAYOUT.size * _LAYOUT.size
            if complete:
                self._keep(Packet(*_LAYOUT.unpack(buffer[complete - _LAYOUT.size : complete])))
                buffer = buffer[complete:]

    def _keep(self, packet: Packet) -> None:
        """Keep a packet as the newest one; one with NaN or infinity would end in the replay, and counts as lost."""
        if all(map(math.isfinite, packet)):
            with self._received:
                self._newest = packet
                self._received.notify()


def read_packet(config: OpenplanetConfig, timeout: float) -> Packet:
    """Connect to the plugin and return one packet.

    Args:
        config: Address of the plugin.
        timeout: Longest wait for the connection and for each part of the packet, s.

    Raises:
        OSError: If there is no answer, or no whole packet comes in time.
    """
    received = b""
    with socket.create_connection((config.host, config.port), timeout) as connection:
        connection.settimeout(timeout)
        while len(received) < _LAYOUT.size:
            if not (part := connection.recv(_LAYOUT.size - len(received))):
                raise ConnectionError(f"the connection ended after {len(received)} bytes of {_LAYOUT.size}")
            received += part
    return Packet(*_LAYOUT.unpack(received))
