"""Password, addresses and keys of the network: what is refused before anything starts, and what is written."""

import pytest

from app.config.load import ConfigError
from app.config.rules import problems
from app.core.errors import UserError
from app.distributed import certificates
from app.runs.config_file import read_config, write_config
from tests.helpers.make import compose


@pytest.mark.parametrize("role", ["server", "worker", "trainer"])
def test_role_without_a_password_is_refused(role, monkeypatch):
    monkeypatch.delenv("TRACKMANIA_PASSWORD", raising=False)
    with pytest.raises(ConfigError, match=f"network.password = null: is needed with role={role}.*TRACKMANIA_PASSWORD"):
        compose(f"role={role}")
    with pytest.raises(ConfigError, match="network.password: has 5 characters") as caught:
        compose(f"role={role}", "network.password=abcde")
    assert "abcde" not in str(caught.value)
    monkeypatch.setenv("TRACKMANIA_PASSWORD", "from outside")
    config = compose(f"role={role}")
    assert config.network.password == "from outside" and "from outside" not in repr(config)


@pytest.mark.parametrize(("role", "key"), [("server", "bind"), ("worker", "host"), ("trainer", "host")])
def test_password_is_not_sent_unencrypted_beyond_this_machine(role, key):
    secret = "network.password=long enough"
    for address in ("0.0.0.0", "192.168.1.7", "example.org"):
        with pytest.raises(ConfigError, match=f"network.{key} = {address}: lets data leave this machine"):
            compose(f"role={role}", secret, f"network.{key}={address}")
        assert not problems(compose(f"role={role}", secret, f"network.{key}={address}", "network.tls=true"))
    for address in ("127.0.0.1", "127.3.2.1", "localhost"):
        compose(f"role={role}", secret, f"network.{key}={address}")


def test_password_is_not_written_into_a_run_folder(tmp_path):
    write_config(tmp_path / "config.yaml", compose("role=trainer", "network.password=very secret"))
    assert "very secret" not in (tmp_path / "config.yaml").read_text()
    assert read_config(tmp_path / "config.yaml").role == "local"


def test_keys_are_private_and_never_overwritten(tmp_path):
    server, client = certificates.make_keys(tmp_path / "keys")
    for folder in (server, client):
        assert (folder / "key.pem").stat().st_mode & 0o077 == 0
        assert len(certificates.key_files(tmp_path / "keys", folder.name)) == 3
    assert (server / "key.pem").read_bytes() != (client / "key.pem").read_bytes()
    with pytest.raises(UserError, match="exists already"):
        certificates.make_keys(tmp_path / "keys")
    (client / "key.pem").unlink()
    with pytest.raises(UserError, match=r"key.pem is missing.*make_keys"):
        certificates.key_files(tmp_path / "keys", "client")


def test_key_folder_that_cannot_be_created_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        certificates.make_keys(tmp_path / "file" / "keys")
