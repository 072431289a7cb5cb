"""The network process starts, or says why not, and leaves nothing behind: tlspyo would wait for it for ever."""

import os
import signal
import socket
from multiprocessing import resource_tracker

import psutil
import pytest

from app.errors import UserError
from app.network import certificates, transport
from app.network.transport import WORKERS, free_port, make_endpoint, make_relay

MAKERS = {"server": make_relay, "client": lambda cfg: make_endpoint(cfg, WORKERS)}
posix = pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="there are no signal masks")


@pytest.fixture
def cfg(tmp_path):
    """The network of a worker, with good keys."""
    from tests.make import compose  # not above: the network process imports this module, too

    certificates.make_keys(tmp_path / "keys")
    where = (f"network.port={free_port()}", f"network.keys_dir={tmp_path}/keys", "network.tls=true")
    return compose("role=worker", "network.password=a password", *where).network


@pytest.fixture(autouse=True)
def children():
    """Fails where a process is left."""
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # Python's own; it stays
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) == before


def refused(side, cfg) -> str:
    with pytest.raises(UserError) as error:
        MAKERS[side](cfg)
    return str(error.value)


# --- keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", MAKERS)
@pytest.mark.parametrize("name", ["authority.pem", "certificate.pem", "key.pem"])
def test_files_that_are_no_keys_leave_the_network_waiting_for_ever(cfg, tmp_path, side, name):
    certificates.make_keys(tmp_path / "others")
    file = tmp_path / "keys" / side / name
    good, foreign = file.read_bytes(), (tmp_path / "others" / side / name).read_bytes()
    lines = good.splitlines(keepends=True)
    halved, changed = good[: len(good) // 2], b"".join([lines[0], lines[1][::-1], *lines[2:]])
    for data in (b"", b"\xff" * 50, halved, changed, foreign):
        file.write_bytes(data)
        text = refused(side, cfg)
        assert f"network.keys_dir = {tmp_path}/keys" in text and "python app/make_keys.py" in text
        assert str(file) in text and "\n" not in text
    file.unlink()
    assert str(file) in refused(side, cfg)


def test_a_refusal_does_not_say_which_file_is_wrong(cfg, tmp_path):
    certificates.make_keys(tmp_path / "others")
    client, other = tmp_path / "keys" / "client", tmp_path / "others" / "client"
    key, certificate = client / "key.pem", client / "certificate.pem"
    key.write_bytes((other / "key.pem").read_bytes())
    assert f"{key} does not belong to {certificate}" in refused("client", cfg)
    certificate.write_bytes((other / "certificate.pem").read_bytes())
    assert f"{certificate} is not signed by {client / 'authority.pem'}" in refused("client", cfg)


def test_good_keys_are_refused(cfg, tmp_path):
    for side in MAKERS:
        assert certificates.usable_files_of(tmp_path / "keys", side) == certificates.files_of(tmp_path / "keys", side)


def test_a_key_without_a_last_newline_cannot_be_loaded(cfg, tmp_path):
    key = tmp_path / "keys" / "client" / "key.pem"
    key.write_bytes(key.read_bytes().rstrip())
    _, own = certificates.load(*certificates.usable_files_of(tmp_path / "keys", "client"))
    assert own.getSubject().commonName == b"client"


# --- the process -------------------------------------------------------------------------------------------


class DeadServer(transport._GuardedServer):
    def run(self):
        os._exit(7)


class DeadClient(transport._GuardedClient):
    def run(self):
        os._exit(7)


class MuteClient(transport._GuardedClient):
    def run(self):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        while True:
            signal.pause()


class InterruptedServer(transport._GuardedServer):
    """Gets, before it has settled, what a terminal sends to a group; so does its parent."""

    def run(self):
        os.kill(self.guard.parent, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        super().run()


@pytest.mark.parametrize("side, stand_in", [("server", DeadServer), ("client", DeadClient)])
def test_a_network_process_that_dies_is_waited_for_for_ever(cfg, monkeypatch, side, stand_in):
    monkeypatch.setattr(transport, stand_in.__mro__[1].__name__, stand_in)
    text = refused(side, cfg)
    assert "network process could not start" in text and "exit code 7" in text


@posix
def test_a_network_process_that_says_nothing_is_waited_for_for_ever(cfg, monkeypatch):
    monkeypatch.setattr(transport, "_GuardedClient", MuteClient)
    monkeypatch.setattr(transport, "_BOOT_S", 0)
    assert "not ready after" in refused("client", cfg)


def test_a_local_port_that_is_taken_shows_a_traceback(cfg, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(transport, "free_port", lambda: taken.getsockname()[1])
        for side in MAKERS:
            assert "network process could not start" in refused(side, cfg)


@posix
def test_ctrl_c_kills_a_network_process_that_starts_or_is_lost_on_its_parent(cfg, monkeypatch):
    monkeypatch.setattr(transport, "_GuardedServer", InterruptedServer)
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
def test_a_failed_start_leaves_signals_blocked(cfg, monkeypatch):
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    monkeypatch.setattr(transport._GuardedServer, "__getstate__", lambda _: 1 / 0, raising=False)
    with pytest.raises(ZeroDivisionError):
        make_relay(cfg)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask


# --- connections -------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system has no such option")
def test_a_dead_peer_is_sent_to_for_a_quarter_of_an_hour():
    with socket.socket() as connection:
        transport._give_up_on_the_dead(connection)
        option = connection.getsockopt
        assert option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 25_000
        assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        silent = [option(socket.IPPROTO_TCP, getattr(socket, f"TCP_KEEP{one}")) for one in ("IDLE", "INTVL", "CNT")]
        assert silent[0] + silent[1] * silent[2] == 25
