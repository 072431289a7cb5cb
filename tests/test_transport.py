"""The network process starts, or its error is reported, and no process is left."""

import os
import signal
import socket
from multiprocessing import resource_tracker

import psutil
import pytest

from app.core.errors import UserError
from app.distributed import certificates, transport
from app.distributed.client_service import ClientService
from app.distributed.server_service import ServerService
from app.distributed.service import WORKERS, drop_dead_peers
from app.distributed.transport import free_port, make_endpoint, make_relay
from app.distributed.wire_format import dumps

MAKERS = {"server": make_relay, "client": lambda cfg: make_endpoint(cfg, WORKERS)}
posix = pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="the system has no signal masks")


@pytest.fixture
def cfg(tmp_path):
    """Network configuration of a worker, with valid keys."""
    from tests.helpers.make import compose  # not above: the network process imports this module, too

    certificates.make_keys(tmp_path / "keys")
    where = (f"network.port={free_port()}", f"network.keys_dir={tmp_path}/keys", "network.tls=true")
    return compose("role=worker", "network.password=a password", *where).network


@pytest.fixture(autouse=True)
def no_process_left():
    """Fail a test that leaves a process behind."""
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # Python's own; it stays
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) == before


def error_of(side, cfg) -> str:
    """Return the error with which one side refuses to start."""
    with pytest.raises(UserError) as error:
        MAKERS[side](cfg)
    return str(error.value)


# --- keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", MAKERS)
@pytest.mark.parametrize("name", ["authority.pem", "certificate.pem", "key.pem"])
def test_unusable_key_file_is_refused(cfg, tmp_path, side, name):
    certificates.make_keys(tmp_path / "others")
    file = tmp_path / "keys" / side / name
    good, foreign = file.read_bytes(), (tmp_path / "others" / side / name).read_bytes()
    lines = good.splitlines(keepends=True)
    halved, changed = good[: len(good) // 2], b"".join([lines[0], lines[1][::-1], *lines[2:]])
    for data in (b"", b"\xff" * 50, halved, changed, foreign):
        file.write_bytes(data)
        text = error_of(side, cfg)
        assert f"network.keys_dir = {tmp_path}/keys" in text and "python app/make_keys.py" in text
        assert str(file) in text and "\n" not in text
    file.unlink()
    assert str(file) in error_of(side, cfg)


def test_refusal_names_the_key_file_that_does_not_fit(cfg, tmp_path):
    certificates.make_keys(tmp_path / "others")
    client, other = tmp_path / "keys" / "client", tmp_path / "others" / "client"
    key, certificate = client / "key.pem", client / "certificate.pem"
    key.write_bytes((other / "key.pem").read_bytes())
    assert f"{key} does not belong to {certificate}" in error_of("client", cfg)
    certificate.write_bytes((other / "certificate.pem").read_bytes())
    assert f"{certificate} is not signed by {client / 'authority.pem'}" in error_of("client", cfg)


def test_valid_keys_are_accepted(cfg, tmp_path):
    for side in MAKERS:
        assert certificates.checked_key_files(tmp_path / "keys", side) == certificates.key_files(
            tmp_path / "keys", side
        )


def test_key_without_a_last_newline_is_loaded(cfg, tmp_path):
    key = tmp_path / "keys" / "client" / "key.pem"
    key.write_bytes(key.read_bytes().rstrip())
    _, own = certificates.load_certificates(certificates.checked_key_files(tmp_path / "keys", "client"))
    assert own.getSubject().commonName == b"client"


# --- the process -------------------------------------------------------------------------------------------


class DeadServer(ServerService):
    def run(self):
        os._exit(7)


class DeadClient(ClientService):
    def run(self):
        os._exit(7)


class MuteClient(ClientService):
    """Never connects, and cannot be terminated."""

    def run(self):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        while True:
            signal.pause()


class InterruptedServer(ServerService):
    """Receives, before it handles signals, what a terminal sends to a process group; so does its parent."""

    def run(self):
        os.kill(self.settings.parent, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        super().run()


@pytest.mark.parametrize("side, stand_in", [("server", DeadServer), ("client", DeadClient)])
def test_network_process_that_dies_at_its_start_is_reported(cfg, monkeypatch, side, stand_in):
    monkeypatch.setattr(transport, stand_in.__mro__[1].__name__, stand_in)
    text = error_of(side, cfg)
    assert "network process could not start" in text and "exit code 7" in text


@posix
def test_network_process_that_never_connects_is_reported(cfg, monkeypatch):
    monkeypatch.setattr(transport, "ClientService", MuteClient)
    monkeypatch.setattr(transport, "_START_TIMEOUT_S", 0)
    assert "not ready after" in error_of("client", cfg)


def test_failure_to_open_the_local_port_is_reported(cfg, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address, create_server = taken.getsockname(), socket.create_server
        monkeypatch.setattr("socket.create_server", lambda _: create_server(address))
        for side in MAKERS:
            assert "network process could not start" in error_of(side, cfg)


@posix
def test_starting_network_process_ignores_ctrl_c_and_its_parent_still_receives_it(cfg, monkeypatch):
    monkeypatch.setattr(transport, "ServerService", InterruptedServer)
    heard, mask = [], signal.pthread_sigmask(signal.SIG_BLOCK, [])
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("SIGTERM"))
    try:
        relay = make_relay(cfg)
    finally:
        signal.signal(signal.SIGTERM, before)
    try:
        assert relay.is_alive() and heard == ["SIGTERM"]
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    finally:
        relay.stop()


@posix
def test_failed_start_unblocks_signals(cfg, monkeypatch):
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    monkeypatch.setattr(transport.ServerService, "__getstate__", lambda _: 1 / 0, raising=False)
    with pytest.raises(ZeroDivisionError):
        make_relay(cfg)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask


@pytest.mark.parametrize("side", MAKERS)
def test_killed_network_process_is_reported_and_can_be_stopped(cfg, side):
    before = set(psutil.Process().children(recursive=True))
    made = MAKERS[side](cfg)
    [process] = set(psutil.Process().children(recursive=True)) - before
    process.kill()
    made._process.join(10)
    assert not made.is_alive()
    if side == "client":
        with pytest.raises(UserError, match="network process of this program has ended"):
            for _ in range(3):  # the system may accept one more message
                made.produce(dumps(1), WORKERS)
    made.stop()
    made.stop()


# --- connections -------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system has no such option")
def test_dead_peer_is_dropped_after_25_seconds():
    with socket.socket() as connection:
        drop_dead_peers(connection)
        option = connection.getsockopt
        assert option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 25_000
        assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        silent = [option(socket.IPPROTO_TCP, getattr(socket, f"TCP_KEEP{one}")) for one in ("IDLE", "INTVL", "CNT")]
        assert silent[0] + silent[1] * silent[2] == 25
