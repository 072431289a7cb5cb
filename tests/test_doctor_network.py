"""The doctor's checks of the network, on real servers and on programs that are none."""

import os
import time
from contextlib import contextmanager

import pytest

from app.config.schema import Config
from app.diagnostics import network_checks, server_probe
from app.diagnostics.check import Finding
from app.distributed import certificates
from app.distributed.transport import free_port, make_relay
from tests.helpers.doctor import (
    PASSWORD,
    config_of,
    finding_of,
    isolate_home,
    listening,
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    return isolate_home(tmp_path, monkeypatch)


def test_missing_or_short_password_is_reported(monkeypatch):
    for role, state in (("local", "missing"), ("worker", "missing"), ("server", "missing")):
        finding = finding_of("network.password", config_of(f"role={role}"))
        assert finding.state == state and "TRACKMANIA_PASSWORD" in finding.remedy
    assert finding_of("network.password", config_of("role=server", "network.password=short")).state == "broken"
    monkeypatch.setenv("TRACKMANIA_PASSWORD", "of-a-good-length")
    finding = finding_of("network.password", config_of("role=worker"))
    assert finding == Finding("ok", "has 16 characters")


def test_loopback_is_tried(monkeypatch):
    assert finding_of("loopback", config_of()).state == "ok"
    refuse = ConnectionRefusedError(111, "Connection refused")
    monkeypatch.setattr(network_checks.socket, "create_connection", lambda *_: (_ for _ in ()).throw(refuse))
    assert finding_of("loopback", config_of()).state == "broken"


def test_taken_port_is_reported_with_its_owner(monkeypatch):
    role = ("role=server", PASSWORD)
    with listening(b"SSH-2.0-OpenSSH_9.2\r\n") as port:
        finding = finding_of("network.port", config_of(*role, f"network.port={port}"))
        assert finding.state == "missing" and "does not greet" in finding.message
        assert f"pid {os.getpid()}" in finding.message
    assert finding_of("network.port", config_of(*role, f"network.port={port}")).state == "ok"
    assert finding_of("network.port", config_of(*role, "network.bind=203.0.113.7")).state == "missing"


def test_silence_or_nonsense_is_not_taken_for_a_server(monkeypatch):
    monkeypatch.setattr("app.diagnostics.server_probe.PROBE_S", 0.2)
    for words in (b"", b"99999999", b"5       \xc1\xc1\xc1\xc1\xc1", b"-1      ", b"3       \x93\x01\x02"):
        with listening(words) as port:
            finding = finding_of("server", config_of("role=worker", PASSWORD, f"network.port={port}"))
            assert finding.state == "broken" and "does not greet" in finding.message, words
    finding = finding_of("server", config_of("role=worker", PASSWORD, f"network.port={port}"))
    assert finding.state == "missing" and "no program answers" in finding.message and "role=server" in finding.remedy


def test_peer_that_closes_a_tls_connection_is_reported(tmp_path):
    certificates.make_keys(tmp_path / "keys")
    with listening(b"", hang_up=True) as port:
        tls = ("network.tls=true", f"network.keys_dir={tmp_path}/keys", f"network.port={port}")
        finding = finding_of("server", config_of("role=worker", PASSWORD, *tls))
    assert finding.state == "broken" and "TLS fails" in finding.message


@contextmanager
def serving(config: Config, ask):
    """Run a server as role=server does, and yield the finding of ``ask`` as soon as the server answers."""
    relay = make_relay(config.network)
    try:
        deadline = time.monotonic() + 60
        while "a server of this project" not in (finding := ask()).message and time.monotonic() < deadline:
            time.sleep(0.1)
        yield finding
    finally:
        relay._process.kill()  # it would wait for acknowledgements of unknown clients
        relay.stop()


def test_running_server_is_recognised(tmp_path, monkeypatch):
    config = config_of("role=server", PASSWORD, f"network.port={free_port()}")
    with serving(config, lambda: finding_of("network.port", config)) as finding:
        assert finding.state == "missing" and "a server of this project answers there" in finding.message
        asking = ("role=worker", f"network.port={config.network.port}")
        finding = finding_of("server", config_of(*asking, PASSWORD))
        assert finding.state == "ok" and "takes the password" in finding.message
        assert finding_of("server", config_of(*asking)).state == "ok"  # without a password there is nothing to compare
        monkeypatch.setattr("app.diagnostics.server_probe.PROBE_S", 0.5)
        for other in ("another-password", "sh-passw"):  # of other lengths, too
            finding = finding_of("server", config_of(*asking, f"network.password={other}"))
            assert finding.state == "broken" and "another password" in finding.message
        certificates.make_keys(tmp_path / "keys")
        tls = ("network.tls=true", f"network.keys_dir={tmp_path}/keys")
        finding = finding_of("server", config_of(*asking, PASSWORD, *tls))
        assert finding.state == "broken" and "TLS fails" in finding.message


def test_server_with_other_keys_is_not_trusted(tmp_path):
    for name in ("keys", "others"):
        certificates.make_keys(tmp_path / name)
    tls = (PASSWORD, f"network.port={free_port()}", "network.tls=true")
    trainer = ("role=trainer", *tls)
    with serving(
        config_of("role=server", *tls, f"network.keys_dir={tmp_path}/keys"),
        lambda: finding_of("server", config_of(*trainer, f"network.keys_dir={tmp_path}/keys")),
    ) as finding:
        assert finding.state == "ok" and "takes the password" in finding.message
        finding = finding_of("server", config_of(*trainer, f"network.keys_dir={tmp_path}/others"))
        assert finding.state == "broken" and "TLS fails" in finding.message and "make_keys" in finding.remedy
        finding = finding_of("server", config_of(*trainer, f"network.keys_dir={tmp_path}/none"))
        assert finding.state == "missing" and "not asked" in finding.message


def test_password_is_not_sent_beyond_this_machine_without_tls(monkeypatch):
    """A run refuses to start in this case, too."""
    asked = []
    monkeypatch.setattr(server_probe, "probe_server", lambda *words: asked.append(words) or server_probe.Peer.SERVER)
    config = config_of("role=worker", PASSWORD, "network.host=192.0.2.1")
    assert finding_of("server", config).message.endswith("answers") and asked[0][2] is None
    assert finding_of("network.host", config).state == "broken"
    finding_of("server", config_of("role=worker", PASSWORD))
    assert asked[1][2] == "a-good-password"


def test_keys_that_do_not_work_are_reported(tmp_path, monkeypatch):
    tls = ("network.tls=true", f"network.keys_dir={tmp_path}/keys", "role=all")
    assert finding_of("server keys", config_of(*tls)).state == "missing"
    server, client = certificates.make_keys(tmp_path / "keys")
    assert finding_of("server keys", config_of(*tls)).state == finding_of("client keys", config_of(*tls)).state == "ok"
    assert "valid from" in finding_of("client keys", config_of(*tls)).message
    (client / "key.pem").chmod(0o644)
    assert finding_of("client keys", config_of(*tls)).state == "note"
    (client / "key.pem").write_bytes((server / "key.pem").read_bytes())
    assert "does not belong" in finding_of("client keys", config_of(*tls)).message
    (client / "key.pem").write_text("damaged")
    assert finding_of("client keys", config_of(*tls)).state == "broken"
    other, _ = certificates.make_keys(tmp_path / "others")
    (server / "authority.pem").write_bytes((other / "authority.pem").read_bytes())
    assert "is not signed by" in finding_of("server keys", config_of(*tls)).message
    for days, state, words in ((0.0, "broken", "too old"), (0.05, "note", "days are left")):
        monkeypatch.setattr(certificates, "_YEARS", days)
        certificates.make_keys(tmp_path / state)
        finding = finding_of("server keys", config_of("network.tls=true", f"network.keys_dir={tmp_path}/{state}"))
        assert finding.state == state and words in finding.message
    assert finding_of("keys", config_of()).state == "ok"
