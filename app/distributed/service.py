"""Parts that the processes of server and client share: settings, outgoing messages, and the end of dead connections."""

import socket
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from app.core.processes import exit_with_parent
from app.distributed import certificates

LOOPBACK = "127.0.0.1"
TRAINERS, WORKERS = "trainers", "workers"  # tmrl's groups
CLOSE_TIMEOUT_S = 3.0  # for the acknowledgement of the last messages
ENVELOPE_ITEMS = 16  # most items of a list or dict around a message
# A peer without power or cable is dropped after 25 s. The first three options do that on a silent connection, but do
# not apply while data is on its way: it would be sent again for a quarter of an hour. The last one (in ms) ends that.
_KEEPALIVE_OPTIONS = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 25_000))


@dataclass(frozen=True)
class ServiceSettings:
    """Settings of a service, sent to its process.

    Attributes:
        host: Address to listen at, or of the server to connect to.
        port: Port of the server.
        password: Shared by the server and its clients.
        keys: Files for TLS; None without TLS.
        local_port: Loopback port at which the parent process waits for a connection.
        parent: Process id of the parent, with which the service ends.
    """

    host: str
    port: int
    password: str = field(repr=False)
    keys: certificates.KeyFiles | None
    local_port: int
    parent: int

    @property
    def secret(self) -> bytes:
        """Password as it is sent."""
        return self.password.encode()


class Outbox:
    """Bytes that a connection sends as fast as its peer reads, so that what waits is known and can be limited.

    It is a producer of twisted, which calls the methods whose names it has chosen.
    """

    def __init__(self) -> None:
        self.waiting = 0  # bytes
        self._parts: deque[bytes] = deque()
        self._transport: Any = None
        self._paused = False

    def open(self, transport: Any) -> None:
        """Send to this transport from now on."""
        self._transport, self._paused = transport, False
        transport.registerProducer(self, True)

    def add(self, part: bytes) -> None:
        """Send, or keep until the peer has read enough."""
        self._parts.append(part)
        self.waiting += len(part)
        self._pump()

    def flush_and_close(self) -> None:
        """Send what waits, and close the connection."""
        while self._parts:
            self._transport.write(self._parts.popleft())
        self.waiting = 0
        self._transport.unregisterProducer()
        self._transport.loseConnection()

    def pauseProducing(self) -> None:  # noqa: N802 (twisted's name)
        """Stop sending, because the peer reads too slowly."""
        self._paused = True

    def resumeProducing(self) -> None:  # noqa: N802 (twisted's name)
        """Go on sending."""
        self._paused = False
        self._pump()

    def stopProducing(self) -> None:  # noqa: N802 (twisted's name)
        """Drop what waits: the connection is lost."""
        self._paused, self.waiting = True, 0
        self._parts.clear()

    def _pump(self) -> None:
        while self._parts and not self._paused:
            part = self._parts.popleft()
            self.waiting -= len(part)
            self._transport.write(part)


def drop_dead_peers(connection: socket.socket) -> None:
    """Let the system close a TCP connection when its peer does not answer for 25 s."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE_OPTIONS:
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def socket_of(transport: Any) -> socket.socket:
    """Return the socket of a twisted transport, below TLS where there is any."""
    return (transport.transport if hasattr(transport, "transport") else transport).socket


def prepare_process(settings: ServiceSettings) -> None:
    """Leave the signals of a terminal to the parent process, and end with it."""
    exit_with_parent(settings.parent)
