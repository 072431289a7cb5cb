"""Server process: forwards messages between workers and the trainer, and limits the memory that any peer can take."""

import functools
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.python.failure import Failure

from app.distributed import certificates
from app.distributed.limited_log import LimitedLog
from app.distributed.mailbox import Mailbox
from app.distributed.service import (
    CLOSE_TIMEOUT_S,
    ENVELOPE_ITEMS,
    LOOPBACK,
    TRAINERS,
    WORKERS,
    Outbox,
    ServiceSettings,
    drop_dead_peers,
    prepare_process,
    socket_of,
)
from app.distributed.wire_format import MAX_BYTES, FrameError, FrameReader, dumps, frame, loads

_JOIN_TIMEOUT_S = 30.0  # on a busy machine, the handshake of TLS may take seconds
_JOIN_BYTES = 1000  # of a message before a peer has joined
_SPARE = 100  # connections that have not joined, and senders that have left, beyond the number of workers
_MAX_UNSENT = 2_000_000  # bytes that a peer has not read, from which on it misses broadcasts
_BATCH_BYTES, _BATCH_MESSAGES = 16_000_000, 256  # for the trainer at once, so that a flood does not hold it up
_CHECKED_FROM = 100_000  # bytes of an unfinished message


class ServerService:
    """Server that forwards messages between one trainer and some workers.

    Args:
        settings: Settings of the process.
        max_workers: Most workers that may join at once.
        backlog: Bytes of messages that may wait for the trainer, and as many that may have arrived in part.
    """

    def __init__(self, settings: ServiceSettings, max_workers: int, backlog: int):
        self.settings, self._max_workers, self._backlog = settings, max_workers, backlog

    def run(self) -> None:
        """Serve until told to stop, or until the parent process is gone."""
        from twisted.internet import reactor

        settings = self.settings
        prepare_process(settings)
        hub = _Hub(reactor, settings.secret, self._max_workers, self._backlog)
        reactor.connectTCP(LOOPBACK, settings.local_port, _Factory(functools.partial(_Parent, hub)))
        factory, options = _Factory(functools.partial(_Connection, hub)), {"interface": settings.host, "backlog": 512}
        if settings.keys is None:
            hub.port = reactor.listenTCP(settings.port, factory, **options)
        else:
            authority, own = certificates.load_certificates(settings.keys)
            context = own.options(authority)  # requires a certificate of the client that this authority has signed
            hub.port = reactor.listenSSL(settings.port, factory, context, **options)
        reactor.run(installSignalHandlers=False)


class _Hub:
    """Everything that the connections share."""

    def __init__(self, reactor: Any, secret: bytes, max_workers: int, backlog: int):
        self.reactor, self.secret, self._max_workers = reactor, secret, max_workers
        self.parent: _Parent | None = None
        self.log = LimitedLog(self._tell)
        self.port: Any = None
        self._waiting: dict[_Connection, None] = {}  # that have not joined, oldest first
        self._workers: set[_Connection] = set()
        self._trainer: _Connection | None = None
        self._mailbox = Mailbox(backlog, max_workers + _SPARE)
        self._max_unfinished = max(backlog, MAX_BYTES + _JOIN_BYTES)
        self._last_broadcast: bytes | None = None
        self._closing = False

    # --- connections ---------------------------------------------------------------------------------------------

    def opened(self, connection: "_Connection") -> None:
        """Expect a connection to join soon."""
        self._waiting[connection] = None
        if len(self._waiting) > self._max_workers + _SPARE:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.refuse("it was the oldest of too many connections that had not joined")

    def join(self, connection: "_Connection", groups: Any) -> None:
        """Let a connection be the trainer or one of the workers.

        Raises:
            FrameError: It may not.
        """
        if connection not in self._waiting or groups not in ((TRAINERS,), (WORKERS,)):
            raise FrameError("it joined in a way that this program does not")
        if groups == (TRAINERS,):
            if self._trainer is not None:
                raise FrameError("another trainer is connected")
            self._trainer = connection
            self.log.add(f"Trainer from {connection.host} connected.")
        else:
            if len(self._workers) >= self._max_workers:
                raise FrameError(f"network.max_workers = {self._max_workers} workers are connected")
            self._workers.add(connection)
            self.log.add(f"Worker from {connection.host} connected ({len(self._workers)} in total).")
        del self._waiting[connection]
        connection.joined(groups[0])
        if groups == (WORKERS,) and self._last_broadcast is not None:
            connection.outbox.add(self._last_broadcast)

    def lost(self, connection: "_Connection") -> None:
        """Forget a connection; what it has sent stays."""
        self._waiting.pop(connection, None)
        if connection is self._trainer:
            self._trainer = None
            self.log.add(f"Trainer from {connection.host} disconnected.")
        elif connection in self._workers:
            self._workers.remove(connection)
            self.log.add(f"Worker from {connection.host} disconnected ({len(self._workers)} remaining).")
        if self._closing and not self._connections():
            self._stop()

    def close(self) -> None:
        """Send what waits, close all connections, and stop."""
        self._closing = True
        self.port.stopListening()
        for connection in self._connections():
            connection.outbox.flush_and_close()
        if not self._connections():
            self._stop()
        else:
            self.reactor.callLater(CLOSE_TIMEOUT_S, self._stop)

    # --- messages ------------------------------------------------------------------------------------------------

    def forward(self, sender: "_Connection", command: str, destination: Any, body: Any) -> None:
        """Do what a peer that has joined asks for.

        Raises:
            FrameError: Its group may not do that.
        """
        request = sender.group, command, destination
        if request == (WORKERS, "OBJ", {TRAINERS: 1}) and isinstance(body, bytes):
            if self._mailbox.put(sender, body):
                self.log.add_once(
                    "More messages wait for the trainer than network.backlog_mb allows, so the newest are dropped; "
                    "workers send them again."
                )
        elif request == (TRAINERS, "OBJ", {WORKERS: -1}) and isinstance(body, bytes):
            self._broadcast(frame(dumps((0, "OBJ", body))))
        elif request == (TRAINERS, "NTF", {TRAINERS: -1}):
            if not sender.outbox.waiting:
                for message in self._mailbox.take(_BATCH_BYTES, _BATCH_MESSAGES):
                    sender.outbox.add(frame(dumps((0, "OBJ", message))))
        else:
            raise FrameError(f"{sender.group} do not send this")

    def limit_unfinished(self) -> None:
        """Drop the connection with the largest unfinished message while all of them take too much memory."""
        sizes = {connection: len(connection.reader) for connection in self._connections()}
        if sum(sizes.values()) > self._max_unfinished:
            max(sizes, key=sizes.__getitem__).refuse("its unfinished message was the largest when the memory was full")

    def _broadcast(self, part: bytes) -> None:
        self._last_broadcast = part
        for worker in self._workers:
            waiting = worker.outbox.waiting
            if not waiting or waiting + len(part) <= _MAX_UNSENT:
                worker.outbox.add(part)

    def _connections(self) -> "list[_Connection]":
        return [*self._waiting, *self._workers, *([self._trainer] if self._trainer else [])]

    def _tell(self, line: str) -> None:
        if self.parent is not None:
            self.parent.tell(line)

    def _stop(self) -> None:
        if self.reactor.running:
            self.reactor.stop()


class _Connection(Protocol):
    """Connection to one peer, which is dropped when it sends anything that this program does not."""

    def __init__(self, hub: _Hub):
        self._hub = hub
        self.reader = FrameReader(hub.secret, _JOIN_BYTES)
        self.outbox = Outbox()
        self.group: str | None = None
        self.host = ""
        self._timeout: Any = None
        self._closed = False

    def connectionMade(self) -> None:  # noqa: N802 (twisted's name)
        self.host = self.transport.getPeer().host
        drop_dead_peers(socket_of(self.transport))
        self.outbox.open(self.transport)
        late = f"it did not join within {_JOIN_TIMEOUT_S:g} s"
        self._timeout = self._hub.reactor.callLater(_JOIN_TIMEOUT_S, self.refuse, late)
        self._hub.opened(self)
        self._send(0, "HELLO")

    def joined(self, group: str) -> None:
        """Accept messages of any size from here on."""
        self._timeout.cancel()
        self.group, self.reader.limit = group, MAX_BYTES

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 (twisted's name)
        if self._closed:
            return
        try:
            for message in self.reader.feed(data):
                self._process(message)
        except (FrameError, ValueError, TypeError) as error:  # no invalid bytes are worth a traceback
            self.refuse(str(error))
        if len(self.reader) > _CHECKED_FROM:
            self._hub.limit_unfinished()

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802 (twisted's name)
        if self._timeout is not None and self._timeout.active():
            self._timeout.cancel()
        if not self._closed and reason.check(SSL.Error):
            self._report(f"TLS failed ({_tls_problem(reason.value)}). Both sides need keys of the same making")
        self._closed = True
        self.reader = FrameReader()  # the mailbox keeps this object as the sender of messages that wait
        self._hub.lost(self)

    def refuse(self, reason: str) -> None:
        """Drop the peer, and say why."""
        if not self._closed:
            self._closed = True
            self._report(reason)
            self.transport.abortConnection()

    def _process(self, message: bytes) -> None:
        stamp, command, destination, body = loads(message, ENVELOPE_ITEMS)
        if not isinstance(stamp, int) or command == "ACK":
            return
        if command == "HELLO":
            self._hub.join(self, body)
        elif self.group is not None:  # the doctor only asks whether the password is right
            self._hub.forward(self, command, destination, body)
        if self.outbox.waiting <= _MAX_UNSENT:  # a later one acknowledges all before it
            self._send(stamp, "ACK")

    def _send(self, stamp: int, command: str) -> None:
        self.outbox.add(frame(dumps((stamp, command, None))))

    def _report(self, reason: str) -> None:
        self._hub.log.add_once(f"Refused {self.group or 'a connection'} from {self.host}: {reason}.")


class _Parent(Protocol):
    """Connection to the parent process, which prints the log and may end the server."""

    def __init__(self, hub: _Hub):
        self._hub, self._reader = hub, FrameReader()
        hub.parent = self

    def tell(self, line: str) -> None:
        """Let the parent print a line."""
        self.transport.write(frame(dumps((0, "OBJ", line.encode()))))

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 (twisted's name)
        for _ in self._reader.feed(data):  # it sends nothing but the request to stop
            self._hub.close()


class _Factory(ClientFactory):
    """Makes the protocol of every connection."""

    noisy = False

    def __init__(self, make: Callable[[], Protocol]):
        self._make = make

    def buildProtocol(self, addr: Any) -> Protocol:  # noqa: N802 (twisted's name)
        return self._make()


def _tls_problem(error: SSL.Error) -> str:
    """Return the reason that OpenSSL gives, such as "certificate verify failed"."""
    details = error.args[0] if error.args else ()
    return str(details[-1][-1]) if details else "no reason was given"
