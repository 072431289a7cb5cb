"""Checks of the network: the loopback interface, the password, the keys, and the port or the server."""

import contextlib
import datetime
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from app.config.rules import problems
from app.config.schema import Config
from app.core.errors import UserError
from app.diagnostics.check import NETWORK_ROLES, PROBE_S, Check, Finding, finding_from_error, rule_checks

if TYPE_CHECKING:
    from cryptography import x509

_EXPIRES_SOON = datetime.timedelta(days=30)
_NEW_KEYS = "Make new keys with python app/make_keys.py, and copy server/ and client/ to the machines that need them."
_CLIENT_ROLES = ("trainer", "worker")


def checks(config: Config) -> list[Check]:
    """Return the checks of the network, in the order of the report."""
    loopback = "Allow programs on this machine to connect to 127.0.0.1: a firewall or a container may forbid it."
    return [
        Check("loopback", _loopback, NETWORK_ROLES, loopback),
        Check("network.password", _password, ("server", *_CLIENT_ROLES), "Set TRACKMANIA_PASSWORD."),
        *rule_checks(config, lambda key: key.startswith("network.") and key != "network.password"),
        *_keys(config),
        _server(config) if config.role in _CLIENT_ROLES else _port(config),
    ]


def _loopback(_: Config) -> Finding:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), PROBE_S) as client:
            listener.settimeout(PROBE_S)
            with listener.accept()[0] as server:
                server.settimeout(PROBE_S)
                client.sendall(b"test")
                if server.recv(4) != b"test":
                    raise ConnectionError("what was sent did not arrive")
    return Finding("ok", f"processes of this machine can connect to each other (a free port was {port})")


def _password(config: Config) -> Finding:
    role = config.role if config.role in ("server", *_CLIENT_ROLES) else "server"
    for sentence in problems(replace(config, role=role)):
        if sentence.startswith("network.password"):
            return finding_from_error("missing" if config.network.password is None else "broken", sentence)
    return Finding("ok", f"has {len(config.network.password or '')} characters")


def _is_unencrypted_address(key: str) -> bool:
    """Return whether the rule of a key is about data that leaves this machine without TLS."""
    return key in ("network.bind", "network.host")


def _port(config: Config) -> Check:
    remedy = (
        "Stop the program that has the port, or use another network.port everywhere. "
        "network.bind must be an address of this machine."
    )
    return Check("network.port", partial(_can_listen, remedy), ("server",), remedy, 4 * PROBE_S)


def _can_listen(remedy: str, config: Config) -> Finding:
    from app.diagnostics.server_probe import probe_server

    network = config.network
    address = f"{network.bind}:{network.port}"
    host = {"0.0.0.0": "127.0.0.1"}.get(network.bind, network.bind)
    try:
        peer = probe_server(host, network.port, None if network.tls else network.password, None)
    except OSError:  # no program listens
        with socket.socket() as probe:
            if os.name != "nt":  # on Windows it would let two programs share a port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((network.bind, network.port))
            except OSError as error:
                return Finding("missing", f"{address}: cannot listen there ({error.strerror or error})", remedy)
        return Finding("ok", f"{address} is free")
    name = "something" if network.tls else peer.value  # a server with TLS does not answer without it
    return Finding("missing", f"{address} is taken: {name} answers there{_owner(network.port)}", remedy)


def _owner(port: int) -> str:
    """Return the process that listens at a port, as the end of a sentence; empty if the system does not tell."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f", {psutil.Process(connection.pid).name()} with pid {connection.pid}"
    return ""


def _server(config: Config) -> Check:
    address = f"{config.network.host}:{config.network.port}"
    remedy = f"Start role=server first, and check that {address} is its address and that no firewall is in between."
    return Check("server", partial(_answers, address, remedy), _CLIENT_ROLES, remedy, 4 * PROBE_S)


def _answers(address: str, remedy: str, config: Config) -> Finding:
    from app.diagnostics.server_probe import Peer, TLSHandshakeError, client_tls, probe_server

    network = config.network
    try:
        tls = client_tls(network)
    except (UserError, OSError):
        return Finding("missing", f"{address} was not asked: the client keys cannot be used", "Repair the keys first.")
    password = None if rule_checks(config, _is_unencrypted_address) else network.password
    try:
        peer = probe_server(network.host, network.port, password, tls)
    except TLSHandshakeError as error:
        remedy = f"Use network.tls=true on both sides, and keys of the same making. {_NEW_KEYS}"
        return Finding("broken", f"{address}: TLS fails ({error})", remedy)
    except OSError as error:
        return Finding("missing", f"{address}: no program answers ({error.strerror or error})", remedy)
    message = f"{address}: {peer.value} answers"
    if peer is Peer.SERVER:
        return Finding("ok", f"{message}, and takes the password" if password else message)
    if peer is Peer.OTHER_PASSWORD:
        return Finding("broken", message, "Set the same TRACKMANIA_PASSWORD on both machines.")
    remedy = f"Check that {address} is the address of role=server, and that network.tls is the same there."
    return Finding("broken", message, remedy)


def _keys(config: Config) -> list[Check]:
    if not config.network.tls:
        finding = Finding("ok", "none are used (network.tls = false): the network stays on this machine")
        return [Check("keys", lambda _: finding, (), _NEW_KEYS)]
    return [
        Check("server keys", partial(_key, "server"), ("server", "all"), _NEW_KEYS),
        Check("client keys", partial(_key, "client"), ("all", *_CLIENT_ROLES), _NEW_KEYS),
    ]


def _key(side: str, config: Config) -> Finding:
    from cryptography import x509

    from app.distributed.certificates import checked_key_files, key_files

    folder = Path(config.network.keys_dir)
    try:
        key_files(folder, side)
    except UserError as error:
        return finding_from_error("missing", error)
    files = checked_key_files(folder, side)
    paths = (files.authority, files.certificate)
    certificates = [x509.load_pem_x509_certificate(path.read_bytes()) for path in paths]
    return _validity(certificates, folder / side, files.key)


def _validity(certificates: Sequence["x509.Certificate"], folder: Path, key_file: Path) -> Finding:
    """Return the finding about the age of certificates and about who may read the key."""
    now = datetime.datetime.now(datetime.timezone.utc)
    start = max(certificate.not_valid_before_utc for certificate in certificates)
    end = min(certificate.not_valid_after_utc for certificate in certificates)
    message = f"{folder}: valid from {start:%Y-%m-%d} to {end:%Y-%m-%d}"
    if now < start:
        return Finding("broken", f"{message}, and today is {now:%Y-%m-%d}", "Set this machine's clock.")
    if now > end:
        return Finding("broken", f"{message}: too old", _NEW_KEYS)
    if now > end - _EXPIRES_SOON:
        return Finding("note", f"{message}: {(end - now).days} days are left", _NEW_KEYS)
    if os.name != "nt" and key_file.stat().st_mode & 0o077:
        return Finding("note", f"{message}; other users of this machine may use {key_file}", f"chmod 600 {key_file}")
    return Finding("ok", message)
