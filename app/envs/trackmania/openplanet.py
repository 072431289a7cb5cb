"""The client of tmrl's plugin for OpenPlanet, which comes back when the game does."""

import contextlib
import socket
import struct
import time

from app.config.schema import OpenplanetConfig
from app.envs.spec import EnvError
from app.tmrl_game import TM2020OpenPlanetClient

_RETRY_S = 0.5
_SILENCE_S = 1.0  # after which the thread looks whether it should end


class GameGone(Exception):
    """The game has stopped sending; the text says what was expected."""


class OpenPlanetClient(TM2020OpenPlanetClient):
    """Tmrl's client, whose thread also survives the end of a connection.

    tmrl's own never returns from one that was closed, and keeps a core busy with it.

    Args:
        cfg: where the plugin is.

    Raises:
        EnvError: nobody answers there.
    """

    def __init__(self, cfg: OpenplanetConfig):
        self._cfg, self._closed = cfg, False
        where = f"{cfg.host}:{cfg.port}"
        try:
            socket.create_connection((cfg.host, cfg.port), cfg.timeout_s).close()
        except OSError as error:
            raise EnvError(
                f"env.openplanet = {where}: nobody answers there ({error.strerror or error}). Start Trackmania with "
                "OpenPlanet and tmrl's plugin TMRL_GrabData, load a map, and see that python app/doctor.py "
                "env=trackmania finds it; or name another env.openplanet.port."
            ) from None
        super().__init__(cfg.host, cfg.port)

    def newest(self) -> tuple[float, ...]:
        """Return the newest 11 numbers that were not yet returned; waits for them.

        Raises:
            GameGone: none came in ``timeout_s``.
        """
        try:
            return self.retrieve_data(sleep_if_empty=0.001, timeout=self._cfg.timeout_s)
        except AssertionError:
            where = f"{self._cfg.host}:{self._cfg.port}"
            raise GameGone(f"OpenPlanet at {where} has sent nothing for {self._cfg.timeout_s:g} s") from None

    def close(self) -> None:
        """Let the thread end."""
        self._closed = True

    def _TM2020OpenPlanetClient__client_thread(self) -> None:  # noqa: N802  (the name that tmrl's own has)
        while not self._closed:
            with contextlib.suppress(OSError):
                with socket.create_connection((self._cfg.host, self._cfg.port), self._cfg.timeout_s) as connection:
                    self._listen(connection)
            if not self._closed:
                time.sleep(_RETRY_S)

    def _listen(self, connection: socket.socket) -> None:
        connection.settimeout(_SILENCE_S)
        size, received = self._nb_bytes, b""
        while not self._closed:
            try:
                part = connection.recv(4096)
            except TimeoutError:
                continue
            if not part:
                return
            received += part
            whole = len(received) // size * size
            if whole:
                with self._TM2020OpenPlanetClient__lock:
                    self._TM2020OpenPlanetClient__data = received[whole - size : whole]
                received = received[whole:]


def read_once(cfg: OpenplanetConfig, timeout: float) -> tuple[float, ...]:
    """Return one packet of the plugin: 11 numbers.

    Args:
        cfg: where the plugin is.
        timeout: s.

    Raises:
        OSError: nobody answers, or nobody sends that much in time.
    """
    layout = struct.Struct("<11f")
    received = b""
    with socket.create_connection((cfg.host, cfg.port), timeout) as connection:
        connection.settimeout(timeout)
        while len(received) < layout.size:
            if not (part := connection.recv(layout.size - len(received))):
                raise ConnectionError(f"it hung up after {len(received)} bytes of {layout.size}")
            received += part
    return layout.unpack(received)
