"""PostgreSQL server for tests, on a free port of this machine and in a temporary folder."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from sqlalchemy.engine import URL

USER = "tester"
PASSWORD = "s3cret/of@the:tests"  # with signs that a URL must encode
DATABASE = "studies"

_ATTEMPTS = 3  # another process may take the free port before the server does
_TIMEOUT_S = 60
# Not safe, only fast; no socket file, only TCP.
_SETTINGS = ("fsync=off", "shared_buffers=16MB", "unix_socket_directories=", "listen_addresses=127.0.0.1")
# A shell script that runs its arguments until the pipe at its input closes, so that no server outlives the tests,
# even if they are killed. SIGINT is PostgreSQL's fast shutdown.
_UNTIL_CLOSED = 'exec 3<&0; "$@" 3<&- & server=$!; { read -r _ <&3; kill -INT $server; } & wait $server; kill $!'


@dataclass(frozen=True)
class Server:
    """A running server on this machine."""

    port: int

    def url(self, password: str | None = PASSWORD, driver: str = "postgresql+psycopg") -> str:
        """Return the URL of the database, for ``hydra.sweeper.storage``."""
        url = URL.create(driver, USER, password, "127.0.0.1", self.port, DATABASE)
        return url.render_as_string(hide_password=False)

    def empty(self) -> None:
        """Remove everything from the database."""
        with self.connect() as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")

    def make_database(self) -> None:
        with self.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}")

    def connect(self, database: str = DATABASE) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname=database, autocommit=True
        )


def missing() -> str | None:
    """Return why no server can be started here, or None."""
    if os.name == "nt":
        return "the tests start PostgreSQL on Linux and macOS only"
    absent = [name for name in ("initdb", "postgres") if _program(name) is None]
    return f"PostgreSQL is not installed: no {' and no '.join(absent)}" if absent else None


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """Run a server that asks for USER's password, and wait until it answers."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # not below tmp_path, which only its owner may enter
    try:
        _make_cluster(folder)
        process, server = _start(folder)
        try:
            yield server
        finally:
            process.stdin.close()
            process.wait(timeout=_TIMEOUT_S)
    finally:
        shutil.rmtree(folder)


def _program(name: str) -> str | None:
    """Return the path of a program of the server, or None; Debian keeps them out of the PATH."""
    folders = [os.environ["PATH"], *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    return shutil.which(name, path=os.pathsep.join(folders))


def _owner() -> dict[str, int | list[int]]:
    """Return the user that runs the server, as arguments of subprocess: PostgreSQL refuses root."""
    import pwd  # Windows has none

    if os.geteuid() != 0:
        return {}
    accounts = {entry.pw_name: entry for entry in pwd.getpwall()}
    account = accounts.get("postgres") or accounts["nobody"]
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _make_cluster(folder: Path) -> None:
    password, owner = folder / "password", _owner()
    password.write_text(PASSWORD)
    if owner:
        for path in (folder, password):
            os.chown(path, owner["user"], owner["group"])
    command = [
        _program("initdb"), f"--pgdata={folder / 'data'}", f"--username={USER}", f"--pwfile={password}",
        "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync",
    ]  # fmt: skip
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=_TIMEOUT_S, **owner)
    assert done.returncode == 0, done.stdout + done.stderr


def _start(folder: Path) -> tuple[subprocess.Popen, Server]:
    for _ in range(_ATTEMPTS):
        server = Server(_free_port())
        process = _serve(folder, server.port)
        if _answers(process, server):
            return process, server
        process.stdin.close()
        process.wait(timeout=_TIMEOUT_S)
    raise AssertionError((folder / "log").read_text())


def _serve(folder: Path, port: int) -> subprocess.Popen:
    settings = [part for setting in (*_SETTINGS, f"port={port}") for part in ("-c", setting)]
    command = ["/bin/sh", "-c", _UNTIL_CLOSED, "sh", _program("postgres"), "-D", str(folder / "data"), *settings]
    with (folder / "log").open("a") as log:
        return subprocess.Popen(
            command, cwd="/", stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, **_owner()
        )


def _answers(process: subprocess.Popen, server: Server) -> bool:
    """Wait until the server accepts the password; return False if it ended, or another one has the port."""
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            server.connect("postgres").close()
            return True
        except psycopg.OperationalError:
            time.sleep(0.05)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
