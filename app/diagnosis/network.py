"""The checks of the network: the password, the port or the server behind it, and the keys."""

import contextlib
import datetime
import os
import socket
from dataclasses import replace
from functools import partial
from pathlib import Path

from app.config.checks import problems
from app.config.schema import Config
from app.diagnosis.finding import PROBE_S, SHARES, Check, Finding, broken_rules, told
from app.errors import UserError

_SOON = datetime.timedelta(days=30)
_NEW_KEYS = "Make new keys with python app/make_keys.py, and copy server/ and client/ to the machines that need them."
_JOINS = ("trainer", "worker")


def checks(config: Config) -> list[Check]:
    """Return the checks of the network, in the order in which they are told."""
    loopback = "Allow programs on this machine to connect to 127.0.0.1: a firewall or a container may forbid it."
    return [
        Check("loopback", _loopback, SHARES, loopback),
        Check("network.password", _password, ("server", *_JOINS), "Set TRACKMANIA_PASSWORD."),
        *broken_rules(config, lambda key: key.startswith("network.") and key != "network.password"),
        *_keys(config),
        _server(config) if config.role in _JOINS else _port(config),
    ]


def _loopback(_: Config) -> Finding:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), PROBE_S) as one:
            listener.settimeout(PROBE_S)
            with listener.accept()[0] as other:
                other.settimeout(PROBE_S)
                one.sendall(b"here")
                if other.recv(4) != b"here":
                    raise ConnectionError("what was sent did not arrive")
    return Finding("ok", f"two processes of this machine can talk (a free port was {port})")


def _password(config: Config) -> Finding:
    role = config.role if config.role in ("server", *_JOINS) else "server"
    for sentence in problems(replace(config, role=role)):
        if sentence.startswith("network.password"):
            return told("missing" if config.network.password is None else "broken", sentence)
    return Finding("ok", f"has {len(config.network.password or '')} characters")


def _is_open_door(key: str) -> bool:
    """Whether a rule is about data that goes beyond this machine without TLS."""
    return key in ("network.bind", "network.host")


def _port(config: Config) -> Check:
    remedy = "Stop what has the port, or use another network.port everywhere. network.bind must be of this machine."
    return Check("network.port", partial(_can_listen, remedy), ("server",), remedy, 4 * PROBE_S)


def _can_listen(remedy: str, config: Config) -> Finding:
    from app.diagnosis.greeting import ask

    network = config.network
    where = f"{network.bind}:{network.port}"
    here = {"0.0.0.0": "127.0.0.1"}.get(network.bind, network.bind)
    try:
        who = ask(here, network.port, None if network.tls else network.password, None)
    except OSError:  # nobody
        with socket.socket() as probe:
            if os.name != "nt":  # there it would let two share a port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((network.bind, network.port))
            except OSError as error:
                return Finding("missing", f"{where}: cannot listen there ({error.strerror or error})", remedy)
        return Finding("ok", f"{where} is free")
    words = "something" if network.tls else who.value  # who does not speak TLS is told nothing
    return Finding("missing", f"{where} is taken: {words} answers there{_owner(network.port)}", remedy)


def _owner(port: int) -> str:
    """Return which process listens at a port, as far as the system tells."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid:
                return f", {psutil.Process(one.pid).name()} with pid {one.pid}"
    return ""


def _server(config: Config) -> Check:
    where = f"{config.network.host}:{config.network.port}"
    remedy = f"Start role=server first, and see that {where} is its address and that no firewall is in between."
    return Check("server", partial(_answers, where, remedy), _JOINS, remedy, 4 * PROBE_S)


def _answers(where: str, remedy: str, config: Config) -> Finding:
    from app.diagnosis.greeting import Answer, TLSFails, ask, trusting

    network = config.network
    try:
        trusted = trusting(network)
    except (UserError, OSError):
        return Finding("missing", f"{where} was not asked: the client keys cannot be used", "Mend them first.")
    may_be_shown = not broken_rules(config, _is_open_door)
    try:
        who = ask(network.host, network.port, network.password if may_be_shown else None, trusted)
    except TLSFails as error:
        words = f"{where}: TLS fails ({error})"
        return Finding("broken", words, f"Use network.tls=true on both sides, and keys of the same making. {_NEW_KEYS}")
    except OSError as error:
        return Finding("missing", f"{where}: nobody answers ({error.strerror or error})", remedy)
    if who is Answer.SERVER:
        same = ", and takes the password" if network.password and may_be_shown else ""
        return Finding("ok", f"{where}: {who.value} answers{same}")
    if who is Answer.OTHER_PASSWORD:
        return Finding("broken", f"{where}: {who.value} answers", "Set the same TRACKMANIA_PASSWORD on both machines.")
    same = f"See that {where} is the address of role=server, and that network.tls is the same there."
    return Finding("broken", f"{where}: {who.value} answers", same)


def _keys(config: Config) -> list[Check]:
    if not config.network.tls:
        words = "none are used (network.tls = false): the network stays on this machine"
        return [Check("keys", lambda _: Finding("ok", words), (), _NEW_KEYS)]
    return [
        Check("server keys", partial(_key, "server"), ("server", "all"), _NEW_KEYS),
        Check("client keys", partial(_key, "client"), ("all", *_JOINS), _NEW_KEYS),
    ]


def _key(side: str, config: Config) -> Finding:
    from cryptography import x509

    from app.network.certificates import files_of, usable_files_of

    folder = Path(config.network.keys_dir)
    try:
        files_of(folder, side)
    except UserError as error:
        return told("missing", error)
    authority_file, own_file, key_file = usable_files_of(folder, side)
    authority, own = (x509.load_pem_x509_certificate(path.read_bytes()) for path in (authority_file, own_file))
    return _age(authority, own, folder / side, key_file)


def _age(authority, own, folder: Path, key_file: Path) -> Finding:
    now = datetime.datetime.now(datetime.timezone.utc)
    began = max(one.not_valid_before_utc for one in (authority, own))
    ends = min(one.not_valid_after_utc for one in (authority, own))
    found = f"{folder}: valid from {began:%Y-%m-%d} to {ends:%Y-%m-%d}"
    if now < began:
        return Finding("broken", f"{found}, and today is {now:%Y-%m-%d}", "Set this machine's clock.")
    if now > ends:
        return Finding("broken", f"{found}: too old", _NEW_KEYS)
    if now > ends - _SOON:
        return Finding("note", f"{found}: {(ends - now).days} days are left", _NEW_KEYS)
    if os.name != "nt" and key_file.stat().st_mode & 0o077:
        return Finding("note", f"{found}; other users of this machine may use {key_file}", f"chmod 600 {key_file}")
    return Finding("ok", found)
