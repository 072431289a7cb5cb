"""Client process: keeps a connection to the server, and makes it again when it is lost."""

from collections import deque
from collections.abc import Mapping
from typing import Any

from twisted.internet.protocol import ClientFactory, Protocol, ReconnectingClientFactory
from twisted.python.failure import Failure

from app.distributed import certificates
from app.distributed.service import (
    CLOSE_TIMEOUT_S,
    ENVELOPE_ITEMS,
    LOOPBACK,
    ServiceSettings,
    drop_dead_peers,
    prepare_process,
    socket_of,
)
from app.distributed.wire_format import FrameError, FrameReader, dumps, frame, loads

_RECONNECT_MIN_S, _RECONNECT_MAX_S = 0.5, 5.0
_MAX_UNSENT = 64_000_000  # bytes of messages that wait for the server; newer ones are dropped

_Message = tuple[str, Mapping[str, int], bytes]  # command, destination, body


class ClientService:
    """Client of the server: the process of an endpoint.

    Args:
        settings: Settings of the process.
        group: Group of the server to join.
    """

    def __init__(self, settings: ServiceSettings, group: str):
        self.settings, self._group = settings, group

    def run(self) -> None:
        """Connect, again and again, until told to stop, or until the parent process is gone."""
        from twisted.internet import reactor, ssl

        settings = self.settings
        prepare_process(settings)
        link = _Link(reactor, settings.secret, self._group)
        reactor.connectTCP(LOOPBACK, settings.local_port, _ParentFactory(link))
        if settings.keys is None:
            reactor.connectTCP(settings.host, settings.port, _ServerFactory(link))
        else:
            authority, own = certificates.load_certificates(settings.keys)
            trust = ssl.trustRootFromCertificates([authority])
            context = ssl.optionsForClientTLS(certificates.SERVER, trustRoot=trust, clientCertificate=own)
            reactor.connectSSL(settings.host, settings.port, _ServerFactory(link), context)
        reactor.run(installSignalHandlers=False)


class _Link:
    """Messages on their way from the parent process to the server and back.

    What waits for the server is limited, and what it has not confirmed when the connection is lost is lost as well:
    a worker sends episodes again, and newer weights and states replace the older ones.
    """

    def __init__(self, reactor: Any, secret: bytes, group: str):
        self.reactor, self.secret, self.group = reactor, secret, group
        self.parent: _Parent | None = None
        self._server: _ServerConnection | None = None  # that this client has joined
        self._messages: deque[_Message] = deque()  # that wait for the server
        self._waiting = 0  # their bytes
        self._closing = False

    def connect(self, server: "_ServerConnection | None") -> None:
        """Send to this connection from now on; None while there is none."""
        if self.parent is not None:
            if self._server is not None:
                self.parent.transport.unregisterProducer()
            if server is not None:  # the server is not read faster than the parent reads
                self.parent.transport.registerProducer(server.transport, True)
        self._server = server
        self.send()

    def obey(self, message: _Message) -> None:
        """Do what the parent process asks for."""
        command, destination, body = message
        if command == "STOP":
            self._closing = True
            self.reactor.callLater(CLOSE_TIMEOUT_S, self.stop)
        elif command != "NTF" or self._server is not None:  # it asks again
            self._keep(message)
        self.send()

    def send(self) -> None:
        """Send as fast as the server reads."""
        while self._messages and self._server is not None and not self._server.paused:
            message = self._messages.popleft()
            self._waiting -= len(message[2])
            self._server.send(*message)
        self.stop_if_done()

    def stop_if_done(self) -> None:
        """Stop as soon as the server has everything, if the parent process has asked for it."""
        if self._closing and not self._messages and (self._server is None or self._server.is_acknowledged()):
            self.stop()

    def stop(self) -> None:
        """Stop at once."""
        if self.reactor.running:
            self.reactor.stop()

    def _keep(self, message: _Message) -> None:
        _, destination, body = message
        if self._server is None:
            if -1 in destination.values():  # a broadcast replaces the one before, as on the server
                self._drop_broadcasts()
            elif message in self._messages:  # it is sent again because it was not confirmed
                return
        if self._waiting + len(body) <= _MAX_UNSENT or not self._messages:
            self._messages.append(message)
            self._waiting += len(body)

    def _drop_broadcasts(self) -> None:
        self._messages = deque(one for one in self._messages if -1 not in one[1].values())
        self._waiting = sum(len(body) for *_, body in self._messages)


class _ServerConnection(Protocol):
    """Connection to the server."""

    def __init__(self, link: _Link, factory: ReconnectingClientFactory):
        self._link, self._factory = link, factory
        self._reader = FrameReader()
        self._sent = self._acknowledged = 0  # numbers of messages
        self.paused = False

    def connectionMade(self) -> None:  # noqa: N802 (twisted's name)
        drop_dead_peers(socket_of(self.transport))
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 (twisted's name)
        try:
            for message in self._reader.feed(data):
                self._process(message)
        except (FrameError, ValueError, TypeError):  # another program listens there
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802 (twisted's name)
        self._link.connect(None)

    def send(self, command: str, destination: Mapping[str, int] | None, body: Any) -> None:
        """Send a message."""
        self._sent += 1
        self.transport.write(frame(dumps((self._sent, command, destination, body)), self._link.secret))

    def is_acknowledged(self) -> bool:
        """Return whether the server has everything that was sent."""
        return self._acknowledged >= self._sent

    def pauseProducing(self) -> None:  # noqa: N802 (twisted's name)
        """Stop sending, because the server reads too slowly."""
        self.paused = True

    def resumeProducing(self) -> None:  # noqa: N802 (twisted's name)
        """Go on sending."""
        self.paused = False
        self._link.send()

    def stopProducing(self) -> None:  # noqa: N802 (twisted's name)
        """Stop sending, because the connection is lost."""
        self.paused = True

    def _process(self, message: bytes) -> None:
        stamp, command, _ = loads(message, ENVELOPE_ITEMS)
        if command == "HELLO":
            self.send("HELLO", None, (self._link.group,))
        elif command == "OBJ":
            self._link.parent.transport.write(frame(message))
        elif command == "ACK":
            if not self._acknowledged:  # the first one is for the greeting: the server has accepted this client
                self._factory.resetDelay()
                self._link.connect(self)
            self._acknowledged = max(self._acknowledged, stamp)
            self._link.stop_if_done()


class _ServerFactory(ReconnectingClientFactory):
    noisy = False
    initialDelay, maxDelay, factor = _RECONNECT_MIN_S, _RECONNECT_MAX_S, 1.5  # noqa: N815 (twisted's names)

    def __init__(self, link: _Link):
        self._link = link

    def buildProtocol(self, addr: Any) -> Protocol:  # noqa: N802 (twisted's name)
        return _ServerConnection(self._link, self)


class _Parent(Protocol):
    """Connection to the parent process."""

    def __init__(self, link: _Link):
        self._link, self._reader = link, FrameReader()

    def connectionMade(self) -> None:  # noqa: N802 (twisted's name)
        self._link.parent = self

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 (twisted's name)
        for message in self._reader.feed(data):
            self._link.obey(loads(message, ENVELOPE_ITEMS))

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802 (twisted's name)
        self._link.stop()


class _ParentFactory(ClientFactory):
    noisy = False

    def __init__(self, link: _Link):
        self._link = link

    def buildProtocol(self, addr: Any) -> Protocol:  # noqa: N802 (twisted's name)
        return _Parent(self._link)
