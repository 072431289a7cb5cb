"""tlspyo's relay and endpoint with our serialisation, certificates on both sides, and no process left behind.

tlspyo runs its network in a process of its own: a ``Server`` or ``Client`` that ``Relay`` or ``Endpoint`` makes and
starts in their constructors. The classes here put our subclasses in their place, and see to it that a constructor
ends: tlspyo's waits for its process to connect, whether there still is one or not.
"""

import contextlib
import logging
import multiprocessing
import os
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import tlspyo
from tlspyo.client import Client, TLSClientFactory
from tlspyo.local_protocol_for_client import LocalProtocolForClientFactory
from tlspyo.local_protocol_for_server import LocalProtocolForServerFactory
from tlspyo.server import Server, ServerProtocol, ServerProtocolFactory

from app.config.schema_network import NetworkConfig
from app.errors import UserError
from app.network import certificates
from app.network.codec import HEADER, dumps, loads
from app.training.orphan import born_deaf, end_with

TRAINERS, WORKERS = "trainers", "workers"  # tmrl's groups
_LOOK_S = 0.5  # between two looks at a process that starts
_BOOT_S = 120  # that a process may take to start, on a machine that is busy
_FAREWELL_S = 3  # that the last messages may take; tlspyo counts in seconds
_AT_ONCE = 99  # a count at which tlspyo waits no longer
_READ = 1 << 20  # bytes at once
# A peer without power or cable is dropped after 25 s. The first three do that on a silent connection, but have no say
# while data is on its way: it would be sent again for a quarter of an hour. The last one (in ms) ends that.
_GIVE_UP = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 25_000))


@dataclass(frozen=True)
class _Guard:
    """What the network process needs beyond what tlspyo hands it; travels to it by tlspyo's own attributes."""

    parent: int
    bind: str
    keys: tuple[Path, Path, Path] | None


class _Hurried:
    """Ends when everything is acknowledged, or after a while: who should acknowledge it may be gone, or a stranger."""

    def close(self, counter: int) -> None:
        """Try to end; tlspyo tries again after a second, and counts."""
        super().close(counter if counter <= _FAREWELL_S else _AT_ONCE)


class _GuardedServer(_Hurried, Server):
    """The relay's network process."""

    guard: _Guard

    def run(self) -> None:
        """Serve until told to stop, or until the parent is gone."""
        from twisted.internet import reactor

        end_with(self.guard.parent)
        logging.getLogger("tlspyo").setLevel(logging.ERROR)  # it warns of every message that waits for the server
        reactor.connectTCP("127.0.0.1", self._local_com_port, LocalProtocolForServerFactory(self))
        factory, bind = _KeepAliveFactory(self), self.guard.bind
        if self.guard.keys is None:
            reactor.listenTCP(self._port, factory, interface=bind)
        else:
            authority, own = certificates.load(*self.guard.keys)
            context = own.options(authority)  # which asks clients for a certificate that this one has signed
            reactor.listenSSL(self._port, factory, context, interface=bind)
        self._reactor = reactor
        reactor.run(installSignalHandlers=False)


class _GuardedClient(_Hurried, Client):
    """An endpoint's network process."""

    guard: _Guard

    def run(self) -> None:
        """Connect, again and again, until told to stop, or until the parent is gone."""
        from twisted.internet import reactor, ssl

        end_with(self.guard.parent)
        logging.getLogger("tlspyo").setLevel(logging.ERROR)  # it warns of every message that waits for the server
        reactor.connectTCP("127.0.0.1", self._local_com_port, LocalProtocolForClientFactory(self))
        factory, address = TLSClientFactory(client=self), (self._ip_server, self._port_server)
        if self.guard.keys is None:
            reactor.connectTCP(*address, factory)
        else:
            authority, own = certificates.load(*self.guard.keys)
            trust = ssl.trustRootFromCertificates([authority])
            context = ssl.optionsForClientTLS(certificates.SERVER, trustRoot=trust, clientCertificate=own)
            reactor.connectSSL(*address, factory, context)
        self._reactor = reactor
        reactor.run(installSignalHandlers=False)


class _KeepAliveProtocol(ServerProtocol):
    def connectionMade(self) -> None:  # noqa: N802 (twisted's name)
        tcp = self.transport.transport if hasattr(self.transport, "transport") else self.transport  # beneath TLS
        _give_up_on_the_dead(tcp.socket)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 (twisted's name)
        with contextlib.suppress(Exception):  # tlspyo has hung up by then; a stranger's bytes are no traceback
            super().dataReceived(data)


class _KeepAliveFactory(ServerProtocolFactory):
    def buildProtocol(self, addr: Any) -> ServerProtocol:  # noqa: N802 (twisted's name)
        return _KeepAliveProtocol(self.server)


class _Booting:
    """A process as tlspyo uses it, with a start that lasts until it has connected, so that accept() need not wait."""

    def __init__(self, process: BaseProcess, door: socket.socket):
        self._process, self._door = process, door
        self.join, self.is_alive = process.join, process.is_alive

    def start(self) -> None:
        """Start it, and wait until somebody is at the door.

        Raises:
            UserError: it has ended before that, or lets us wait for too long.
        """
        with born_deaf():
            self._process.start()
        deadline = time.monotonic() + _BOOT_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._door, selectors.EVENT_READ)
            while not selector.select(_LOOK_S):
                if not self.is_alive():
                    raise _not_started(f"it ended with exit code {self._process.exitcode}, see above")
                if time.monotonic() > deadline:
                    raise _not_started(f"it was not ready after {_BOOT_S} s")

    def kill(self) -> None:
        """End it, however far it has come; it would not listen to less."""
        if self._process.pid is not None:
            self._process.kill()
            self.join()


class _Guarded:
    """What our relay and our endpoint share: a constructor that ends, and leaves nothing behind where it fails."""

    def __init__(self, guard: _Guard, **arguments: Any) -> None:
        self._guard, self._booting = guard, None
        self._stop_lock, self._stopped = threading.Lock(), True  # nothing to stop until tlspyo says so
        try:
            with _spawning():
                super().__init__(**arguments, header_size=HEADER, serializer=dumps, deserializer=loads)
        except BaseException as error:
            if self._booting is not None:
                self._booting.kill()
            if isinstance(error, OSError):  # no such port any more, no memory for a process, or it hung up at once
                raise _not_started(error.strerror or str(error)) from None
            raise

    @property
    def _p(self) -> _Booting:
        return self._booting

    @_p.setter
    def _p(self, made: BaseProcess) -> None:
        """Tlspyo assigns its process, starts it, and waits for it at a socket."""
        self._booting = _Booting(made, self._local_com_srv)


class GuardedRelay(_Guarded, tlspyo.Relay):
    """A relay whose process serves as we want it."""

    @property
    def _server(self) -> _GuardedServer:
        return self._guarded

    @_server.setter
    def _server(self, made: Server) -> None:
        """Tlspyo assigns what it has made and starts it at once."""
        made.__class__, made.guard = _GuardedServer, self._guard
        self._guarded = made

    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._p.is_alive()


class GuardedEndpoint(_Guarded, tlspyo.Endpoint):
    """An endpoint whose process connects as we want it."""

    @property
    def _client(self) -> _GuardedClient:
        return self._guarded

    @_client.setter
    def _client(self, made: Client) -> None:
        """Tlspyo assigns what it has made and starts it at once."""
        made.__class__, made.guard = _GuardedClient, self._guard
        self._guarded = made


def make_relay(cfg: NetworkConfig) -> GuardedRelay:
    """Open the server's port for one trainer and some workers.

    Raises:
        UserError: the port is taken, the address is not this machine's, a key is missing or of no use, or the network
            process does not start.
    """
    keys = certificates.usable_files_of(Path(cfg.keys_dir), certificates.SERVER) if cfg.tls else None
    _try(cfg.bind, cfg.port)
    groups = {
        TRAINERS: {"max_count": 1, "max_consumables": None},
        WORKERS: {"max_count": cfg.max_workers, "max_consumables": None},
    }
    return GuardedRelay(
        _Guard(os.getpid(), cfg.bind, keys),
        port=cfg.port,
        password=cfg.password,
        accepted_groups=groups,
        local_com_port=free_port(),
        security=None,  # ours is in the guard
    )


def make_endpoint(cfg: NetworkConfig, group: str) -> GuardedEndpoint:
    """Join a group of the server; the connection is made, and made again, in the background.

    Raises:
        UserError: a key is missing or of no use, or the network process does not start.
    """
    keys = certificates.usable_files_of(Path(cfg.keys_dir), certificates.CLIENT) if cfg.tls else None
    return GuardedEndpoint(
        _Guard(os.getpid(), "", keys),
        ip_server=cfg.host,
        port=cfg.port,
        password=cfg.password,
        groups=group,
        local_com_port=free_port(),
        security=None,  # ours is in the guard
        max_buf_len=_READ,
        deserializer_mode="synchronous",  # what is wrong with a message is told where it is read
        recon_initial_delay=0.5,
        recon_max_delay=5.0,
    )


def free_port() -> int:
    """Return a port of the loopback interface that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _try(bind: str, port: int) -> None:
    """Raise what a person can mend before tlspyo starts a process that would only die."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind, port))
        except OSError as error:
            raise UserError(
                f"network.bind = {bind}, network.port = {port}: cannot listen there ({error.strerror}). Stop what has "
                "the port, or use another network.port everywhere; network.bind is an address of this machine."
            ) from None


def _not_started(why: str) -> UserError:
    return UserError(f"The network process could not start: {why}. Try again; python app/doctor.py looks for reasons.")


def _give_up_on_the_dead(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _GIVE_UP:
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


@contextlib.contextmanager
def _spawning() -> Iterator[None]:
    """Let tlspyo spawn its process: a fork would share this one's locks, open files and threads of torch."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)
