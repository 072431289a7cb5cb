"""Server and client of tlspyo with certificates on both sides; each runs in a process of its own.

tlspyo's own ``run`` authenticates only the server, listens on every interface and handles signals; here it is replaced.
Its protocol, groups, acknowledgements and reconnection are used as they are.
"""

import contextlib
import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tlspyo.client import Client, TLSClientFactory
from tlspyo.local_protocol_for_client import LocalProtocolForClientFactory
from tlspyo.local_protocol_for_server import LocalProtocolForServerFactory
from tlspyo.server import Server, ServerProtocol, ServerProtocolFactory

from app.core.processes import exit_with_parent
from app.distributed import certificates
from app.distributed.wire_format import HEADER, dumps, loads

_LOOPBACK = "127.0.0.1"
_CLOSE_ATTEMPTS, _CLOSE_INTERVAL_S = 3, 1.0  # for the acknowledgement of the last messages
_RECONNECT_MIN_S, _RECONNECT_MAX_S = 0.5, 5.0
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


class _BoundedClose:
    """Stops the reactor when every message is acknowledged, or after a few seconds.

    tlspyo waits for ten; the peer that should acknowledge may be gone.
    """

    def close(self, counter: int) -> None:
        """Stop the reactor, or try again later; tlspyo makes the first call with ``counter`` 1."""
        from twisted.internet import reactor

        if not self.check_acks() and counter <= _CLOSE_ATTEMPTS:
            reactor.callLater(_CLOSE_INTERVAL_S, self.close, counter + 1)
            return
        self.disconnect()
        reactor.stop()


class ServerService(_BoundedClose, Server):
    """Server process: forwards messages between the members of its groups.

    Args:
        settings: Settings of the process.
        accepted_groups: Limits of each group, as in tlspyo's ``Relay``.
    """

    def __init__(self, settings: ServiceSettings, accepted_groups: Mapping[str, Mapping[str, int | None]]):
        super().__init__(
            port=settings.port,
            password=settings.password,
            serializer=dumps,
            deserializer=loads,
            accepted_groups=dict(accepted_groups),
            header_size=HEADER,
            local_com_port=settings.local_port,
        )
        self.settings = settings

    def run(self) -> None:
        """Serve until told to stop, or until the parent process is gone."""
        from twisted.internet import reactor

        settings = self.settings
        _prepare_process(settings)
        reactor.connectTCP(_LOOPBACK, settings.local_port, LocalProtocolForServerFactory(self))
        factory = _KeepAliveFactory(self)
        if settings.keys is None:
            reactor.listenTCP(settings.port, factory, interface=settings.host)
        else:
            authority, own = certificates.load_certificates(settings.keys)
            context = own.options(authority)  # requires a certificate of the client that this authority has signed
            reactor.listenSSL(settings.port, factory, context, interface=settings.host)
        reactor.run(installSignalHandlers=False)

    def disconnect(self) -> None:
        """Close the connections to all clients."""
        for identifier, client in list(self.to_clients.items()):
            client.transport.loseConnection()
            self.delete_client(identifier)


class ClientService(_BoundedClose, Client):
    """Client process: keeps a connection to the server, and makes it again when it is lost.

    Args:
        settings: Settings of the process.
        group: Group of the server to join.
    """

    def __init__(self, settings: ServiceSettings, group: str):
        super().__init__(
            ip_server=settings.host,
            port_server=settings.port,
            password=settings.password,
            serializer=dumps,
            deserializer=loads,
            header_size=HEADER,
            groups=(group,),
            local_com_port=settings.local_port,
            recon_initial_delay=_RECONNECT_MIN_S,
            recon_max_delay=_RECONNECT_MAX_S,
        )
        self.settings = settings

    def run(self) -> None:
        """Connect, again and again, until told to stop, or until the parent process is gone."""
        from twisted.internet import reactor, ssl

        settings = self.settings
        _prepare_process(settings)
        reactor.connectTCP(_LOOPBACK, settings.local_port, LocalProtocolForClientFactory(self))
        factory = TLSClientFactory(client=self)
        if settings.keys is None:
            reactor.connectTCP(settings.host, settings.port, factory)
        else:
            authority, own = certificates.load_certificates(settings.keys)
            trust = ssl.trustRootFromCertificates([authority])
            context = ssl.optionsForClientTLS(certificates.SERVER, trustRoot=trust, clientCertificate=own)
            reactor.connectSSL(settings.host, settings.port, factory, context)
        reactor.run(installSignalHandlers=False)

    def disconnect(self) -> None:
        """Close the connection to the server."""
        if self.to_server is not None:
            self.to_server.transport.loseConnection()


class _KeepAliveProtocol(ServerProtocol):
    """Connection to one client, which is dropped soon after the client has vanished."""

    def connectionMade(self) -> None:  # noqa: N802 (twisted's name)
        tcp = self.transport.transport if hasattr(self.transport, "transport") else self.transport  # below TLS
        drop_dead_peers(tcp.socket)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 (twisted's name)
        with contextlib.suppress(Exception):  # tlspyo has closed the connection; invalid bytes are worth no traceback
            super().dataReceived(data)


class _KeepAliveFactory(ServerProtocolFactory):
    def buildProtocol(self, addr: Any) -> ServerProtocol:  # noqa: N802 (twisted's name)
        return _KeepAliveProtocol(self.server)


def drop_dead_peers(connection: socket.socket) -> None:
    """Let the system close a TCP connection when its peer does not answer for 25 s."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE_OPTIONS:
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _prepare_process(settings: ServiceSettings) -> None:
    exit_with_parent(settings.parent)
    logging.getLogger("tlspyo").setLevel(logging.ERROR)  # it warns of every message that waits for the server
