"""Probe of a server of this project that leaves no trace there: it joins no group and sends nothing on."""

import contextlib
import enum
import socket
import ssl
from pathlib import Path

from app.config.schema import NetworkConfig
from app.diagnostics.check import PROBE_S
from app.distributed import certificates
from app.distributed.wire_format import HEADER, dumps, frame, loads

_MAX_ANSWER_BYTES = 1000  # real answers have about ten
_MESSAGE_ID = 1  # number of the only message that is sent


class Peer(enum.Enum):
    """The program behind an address."""

    SERVER = "a server of this project"
    OTHER_PASSWORD = "a server of this project with another password"
    UNKNOWN = "something that does not greet as a server of this project does"


class TLSHandshakeError(Exception):
    """TLS that both sides cannot agree on; the text says why."""


def probe_server(host: str, port: int, password: str | None, tls: ssl.SSLContext | None) -> Peer:
    """Find out which program listens at an address.

    Args:
        host: Address or name.
        port: Port number.
        password: Password to show; None: it is neither shown nor compared.
        tls: Keys and certificates for TLS; None: the connection is not encrypted.

    Raises:
        OSError: No program listens.
        TLSHandshakeError: The certificates do not match, or the other side does not speak TLS.
    """
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection((host, port), PROBE_S))
        if tls is not None:
            connection = stack.enter_context(_encrypted(connection, tls))
        connection.settimeout(PROBE_S)
        greeting = _receive(connection)
        if greeting is None or greeting[1:] != ("HELLO", None):
            return Peer.UNKNOWN
        if password is None:
            return Peer.SERVER
        with contextlib.suppress(OSError):
            # A message of a client that has joined no group is acknowledged if the password is right, and dropped.
            connection.sendall(frame(dumps((_MESSAGE_ID, "NTF", {}, None)), password.encode()))
        return Peer.SERVER if _receive(connection) == (_MESSAGE_ID, "ACK", None) else Peer.OTHER_PASSWORD


def client_tls(network: NetworkConfig) -> ssl.SSLContext | None:
    """Return the keys and certificates of a worker or trainer; None without TLS.

    Raises:
        UserError: A key is missing.
        OSError: A key cannot be read.
    """
    if not network.tls:
        return None
    files = certificates.key_files(Path(network.keys_dir), certificates.CLIENT)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(files.authority)
    context.load_cert_chain(files.certificate, files.key)
    return context


def _encrypted(connection: socket.socket, tls: ssl.SSLContext) -> ssl.SSLSocket:
    try:
        return tls.wrap_socket(connection, server_hostname=certificates.SERVER)
    except OSError as error:  # a program without TLS may also just close the connection, or send nothing
        raise TLSHandshakeError(_reason(error)) from None


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)


def _receive(connection: socket.socket) -> tuple | None:
    """Return a message of three parts; None if no such message arrives in time."""
    try:
        size = int(_read_exactly(connection, HEADER))
        message = loads(_read_exactly(connection, size)) if 0 < size <= _MAX_ANSWER_BYTES else None
    except ssl.SSLError as error:  # with TLS 1.3 a certificate is refused after the handshake
        raise TLSHandshakeError(_reason(error)) from None
    except (OSError, ValueError):
        return None
    return message if isinstance(message, tuple) and len(message) == 3 else None


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (part := connection.recv(size - len(data))):
            raise ConnectionError("the connection was closed")
        data += part
    return data
