"""A few words with a server of this project, which leave no trace there: no group is joined, nothing is sent on."""

import contextlib
import enum
import socket
import ssl
from pathlib import Path

from app.config.schema_network import NetworkConfig
from app.diagnosis.finding import PROBE_S
from app.network import certificates
from app.network.codec import HEADER, dumps, loads

_LONGEST = 1000  # bytes of an answer; they have about ten
_OURS = 1  # number of the only message that is sent


class Answer(enum.Enum):
    """Who is behind an address."""

    SERVER = "a server of this project"
    OTHER_PASSWORD = "a server of this project with another password"
    STRANGER = "something that does not greet as a server of this project does"


class TLSFails(Exception):
    """Somebody listens, and both sides cannot agree on TLS; the text says why."""


def ask(host: str, port: int, password: str | None, trusted: ssl.SSLContext | None) -> Answer:
    """Ask who listens at an address.

    Args:
        host: address or name.
        port: number.
        password: None: it is not shown, and not compared.
        trusted: keys and certificates for TLS; None: without.

    Raises:
        OSError: nobody listens.
        TLSFails: the certificates do not fit, or the other side speaks no TLS.
    """
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(socket.create_connection((host, port), PROBE_S))
        if trusted is not None:
            line = stack.enter_context(_secured(line, trusted))
        line.settimeout(PROBE_S)
        greeting = _receive(line)
        if greeting is None or greeting[1:] != ("HELLO", None):
            return Answer.STRANGER
        if password is None:
            return Answer.SERVER
        with contextlib.suppress(OSError):
            # The greeting is acknowledged, or the server would miss that when it ends. A message of one who has joined
            # no group is acknowledged as well if the password is right, and then dropped.
            line.sendall(_frame((greeting[0], "ACK", None, None), password))
            line.sendall(_frame((_OURS, "NTF", {}, None), password))
        return Answer.SERVER if _receive(line) == (_OURS, "ACK", None) else Answer.OTHER_PASSWORD


def trusting(network: NetworkConfig) -> ssl.SSLContext | None:
    """Return what a worker or trainer shows and trusts; None without TLS.

    Raises:
        UserError: a key is missing.
        OSError: one cannot be read.
    """
    if not network.tls:
        return None
    authority, own, key = certificates.files_of(Path(network.keys_dir), certificates.CLIENT)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority)
    context.load_cert_chain(own, key)
    return context


def _secured(line: socket.socket, trusted: ssl.SSLContext) -> ssl.SSLSocket:
    try:
        return trusted.wrap_socket(line, server_hostname=certificates.SERVER)
    except OSError as error:  # who speaks no TLS may also just hang up, or say nothing
        raise TLSFails(_reason(error)) from None


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)


def _frame(message: tuple, password: str) -> bytes:
    data = dumps(message)
    return f"{len(data):<{HEADER}}{password}".encode() + data


def _receive(line: socket.socket) -> tuple | None:
    """Return a message of three parts; None if none comes in time."""
    try:
        size = int(_exactly(line, HEADER))
        message = loads(_exactly(line, size)) if 0 < size <= _LONGEST else None
    except ssl.SSLError as error:  # under TLS 1.3 a certificate is refused after the handshake
        raise TLSFails(_reason(error)) from None
    except (OSError, ValueError):
        return None
    return message if isinstance(message, tuple) and len(message) == 3 else None


def _exactly(line: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (part := line.recv(size - len(data))):
            raise ConnectionError("it hung up")
        data += part
    return data
