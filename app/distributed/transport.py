"""Server and client of the network as processes of their own, controlled over a loopback connection.

They take the place of tlspyo's ``Relay`` and ``Endpoint``, which wait for ever for a process that does not start,
deserialise with pickle, authenticate one side only, and keep whatever a peer sends or does not read.
"""

import contextlib
import multiprocessing
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

from app.config.schema import NetworkConfig
from app.core.errors import UserError
from app.core.processes import block_signals_in_children
from app.distributed import certificates
from app.distributed.client_service import ClientService
from app.distributed.server_service import ServerService
from app.distributed.service import LOOPBACK, ServiceSettings
from app.distributed.wire_format import FrameReader, dumps, frame, loads

_POLL_INTERVAL_S = 0.5
_START_TIMEOUT_S = 120  # a busy machine may take long to start a process
_STOP_TIMEOUT_S = 15.0  # until a process that was told to stop is killed
_READ_SIZE = 1 << 20  # bytes
_MAX_UNREAD = 64_000_000  # bytes of received messages, from which on no more are read from the network process


class _Inbox:
    """Messages that a thread has received and this program has not taken yet."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._messages: list[bytes] = []
        self._size, self._closed = 0, False

    def put(self, message: bytes) -> None:
        """Add a message, as soon as there is room; a closed inbox drops it."""
        with self._changed:
            self._changed.wait_for(lambda: self._size < _MAX_UNREAD or self._closed)
            if not self._closed:
                self._messages.append(message)
                self._size += len(message)

    def take_all(self) -> list[bytes]:
        """Return and remove all messages, oldest first."""
        with self._changed:
            messages, self._messages, self._size = self._messages, [], 0
            self._changed.notify_all()
        return messages

    def close(self) -> None:
        """Drop what is added from now on, so that the thread that adds it never waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class NetworkProcess:
    """Process that runs a service, and the loopback connection to it, whose messages a thread receives.

    Args:
        make_service: Returns the service for a local port, to which its process connects.

    Raises:
        UserError: The process does not start, or does not connect in time.
    """

    def __init__(self, make_service: Callable[[int], ServerService | ClientService]) -> None:
        self._stop_lock, self._stopped = threading.Lock(), True  # nothing to stop before the start
        try:
            with socket.create_server((LOOPBACK, 0)) as listener:
                service = make_service(listener.getsockname()[1])
                self._process = multiprocessing.get_context("spawn").Process(target=service.run)
                self._connection = _start(self._process, listener)
        except OSError as error:  # no port, or no memory for a process
            raise _not_started(error.strerror or str(error)) from None
        self._inbox = _Inbox()
        arguments = (self._connection, self._inbox)  # not self, which could never be deleted then
        self._reader = threading.Thread(target=_read_messages, args=arguments, daemon=True)
        self._reader.start()
        self._stopped = False

    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return self._process.is_alive()

    def receive_all(self) -> list[bytes]:
        """Return all messages received since the last call, oldest first."""
        return self._inbox.take_all()

    def stop(self) -> None:
        """Tell the process to stop, and wait until it has ended; it sends what is left first."""
        try:
            with self._stop_lock:
                if not self._stopped:
                    self._shut_down()
                    self._stopped = True
        except KeyboardInterrupt:
            self.stop()
            raise

    def __del__(self) -> None:
        """Stop the process."""
        self.stop()

    def _shut_down(self) -> None:
        self._inbox.close()
        with contextlib.suppress(OSError):  # the process has ended already
            self._connection.sendall(_local_frame("STOP"))
        self._process.join(_STOP_TIMEOUT_S)
        self._process.kill()  # no effect on one that has ended
        self._process.join()
        self._connection.close()
        self._reader.join()


class Relay(NetworkProcess):
    """Server of the network; it receives lines for the log: who has connected, and who was refused."""


class Endpoint(NetworkProcess):
    """Member of a group of the server."""

    def produce(self, message: bytes, group: str) -> None:
        """Send a message to the trainer, which receives it when it asks for it with ``notify``."""
        self._send("OBJ", {group: 1}, message)

    def broadcast(self, message: bytes, group: str) -> None:
        """Send a message to all members of the group; later members receive the last one when they join."""
        self._send("OBJ", {group: -1}, message)

    def notify(self, groups: Mapping[str, int]) -> None:
        """Ask for messages that were produced for a group: as many as may be sent at once, with -1."""
        self._send("NTF", dict(groups), b"")

    def _send(self, command: str, destination: Mapping[str, int], body: bytes) -> None:
        try:
            self._connection.sendall(_local_frame(command, destination, body))
        except OSError:
            self._process.join(_POLL_INTERVAL_S)
            raise UserError(
                f"The network process of this program has ended (exit code {self._process.exitcode}), so nothing can "
                "be sent any more. Give the same command again."
            ) from None


def make_relay(network: NetworkConfig) -> Relay:
    """Open the port of the server, for one trainer and some workers.

    Raises:
        UserError: The port is taken, the address is not of this machine, a key is missing or unusable, or the network
            process does not start.
    """
    make_settings = _settings_factory(network, network.bind, certificates.SERVER)
    _check_port(network)
    backlog = network.backlog_mb * 1_000_000
    return Relay(lambda local_port: ServerService(make_settings(local_port), network.max_workers, backlog))


def make_endpoint(network: NetworkConfig, group: str) -> Endpoint:
    """Join a group of the server; the connection is made, and made again, in the background.

    Raises:
        UserError: A key is missing or unusable, or the network process does not start.
    """
    make_settings = _settings_factory(network, network.host, certificates.CLIENT)
    return Endpoint(lambda local_port: ClientService(make_settings(local_port), group))


def free_port() -> int:
    """Return a port of the loopback interface that is free at the moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def _settings_factory(network: NetworkConfig, host: str, side: str) -> Callable[[int], ServiceSettings]:
    """Return a function that completes the settings of a service with its local port."""
    keys = certificates.checked_key_files(Path(network.keys_dir), side) if network.tls else None
    return lambda local_port: ServiceSettings(
        host=host,
        port=network.port,
        password=network.password,
        keys=keys,
        local_port=local_port,
        parent=os.getpid(),
    )


def _start(process: BaseProcess, listener: socket.socket) -> socket.socket:
    """Start a process, and return the connection that it makes to the listener.

    Raises:
        UserError: It ends first, or does not connect in time; it is killed then.
    """
    try:
        with block_signals_in_children():
            process.start()
        deadline = time.monotonic() + _START_TIMEOUT_S
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while not selector.select(_POLL_INTERVAL_S):
                if not process.is_alive():
                    raise _not_started(f"it ended with exit code {process.exitcode}, see above")
                if time.monotonic() > deadline:
                    raise _not_started(f"it was not ready after {_START_TIMEOUT_S} s")
        return listener.accept()[0]
    except BaseException:
        if process.pid is not None:
            process.kill()  # it ignores the signals that a process may ignore
            process.join()
        raise


def _read_messages(connection: socket.socket, inbox: _Inbox) -> None:
    """Put the messages that a network process forwards into an inbox, until it closes the connection."""
    reader = FrameReader()
    with contextlib.suppress(OSError):
        while data := connection.recv(_READ_SIZE):
            for message in reader.feed(data):
                _, _, body = loads(message)
                inbox.put(body if isinstance(body, bytes) else b"")  # anything else is unreadable, like b""


def _local_frame(command: str, destination: Mapping[str, int] | None = None, body: bytes = b"") -> bytes:
    """Return a command for a network process."""
    return frame(dumps((command, destination, body)))


def _check_port(network: NetworkConfig) -> None:
    """Raise an error that the user can solve, before a process is started that could only fail."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((network.bind, network.port))
        except OSError as error:
            raise UserError(
                f"network.bind = {network.bind}, network.port = {network.port}: cannot listen there "
                f"({error.strerror}). Stop the program that uses the port, or choose another network.port everywhere; "
                "network.bind must be an address of this machine."
            ) from None


def _not_started(reason: str) -> UserError:
    return UserError(
        f"The network process could not start: {reason}. Try again; python app/doctor.py looks for the cause."
    )
