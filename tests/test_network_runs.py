"""Server, workers and trainer as processes of their own, over loopback with TLS: killed, refused, attacked."""

import contextlib
import json
import os
import pickle
import signal
import socket
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from app.envs.factory import make_spec
from app.network import certificates
from app.network.codec import dumps, loads
from app.network.identity import digest, keys_of
from app.network.messages import Hello, MessageError, Note, Steps, from_plain, pack_steps, to_plain, unpack_steps
from app.network.transport import TRAINERS, WORKERS, free_port, make_endpoint, make_relay
from app.replay.layout import RowLayout
from app.runs import checkpoint
from tests.make import compose
from tests.runs import ROOT, TINY, wait_for

PASSWORD = "a password for tests"
HEADER = 8


class Site:
    """A port with keys, and the processes that were started for it."""

    def __init__(self, folder: Path):
        self.folder, self.runs, self.port = folder, folder / "runs", free_port()
        self.keys = folder / "keys"
        certificates.make_keys(self.keys)
        self.overrides = (
            *TINY, f"network.port={self.port}", "network.tls=true", f"network.keys_dir={self.keys}",
            f"runs_dir={self.runs}", "run_name=net", "network.model_interval_s=0.2", "network.lead=50",
            "network.patience_s=5", "training.checkpoint_interval_s=1", "replay.capacity=20000",
        )  # fmt: skip
        self.started: list[subprocess.Popen] = []
        self.cleanup = contextlib.ExitStack()

    def start(self, role: str, *overrides: str) -> subprocess.Popen:
        command = [sys.executable, "app/train.py", *self.overrides, f"role={role}", *overrides]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "TRACKMANIA_PASSWORD": PASSWORD}
        log = open(self.folder / f"{role}{len(self.started)}.txt", "w")
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)
        process.log = Path(log.name)
        self.started.append(process)
        return process

    def network(self, **changes):
        names = {"password": PASSWORD, **changes}
        extra = [f"network.{key}={value}" for key, value in names.items()]
        return compose(*self.overrides, "role=worker", *extra).network

    def processes(self) -> list[psutil.Process]:
        """Everything that was started, and what that has started."""
        found = []
        for one in self.started:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [psutil.Process(one.pid), *psutil.Process(one.pid).children(recursive=True)]
        return found

    def is_open(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def wait_until_open(self) -> None:
        deadline = time.monotonic() + 60
        while not self.is_open() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert self.is_open()


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    with site.cleanup:
        yield site
    for process in site.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def ended(processes, seconds=15.0) -> bool:
    """Whether all of them end in time; zombies of ours have ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        alive = [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        if not alive:
            return True
        time.sleep(0.1)
    return False


class Scribe:
    """A worker of the test's own: its episodes bear marks, and it notes what it was told."""

    def __init__(self, site: Site):
        config = compose(*site.overrides, "role=worker", f"network.password={PASSWORD}")
        self.spec, self.digest = make_spec(config.env), digest(keys_of(config))
        self.endpoint = make_endpoint(config.network, WORKERS)
        site.cleanup.callback(self.endpoint.stop)
        self.sent: dict[int, Steps] = {}
        self.durable = self.received = 0
        self.said = 0.0

    def mark(self, number: int) -> float:
        return 1000.0 + number

    def write(self) -> None:
        """Send one more episode of three steps whose rewards are its mark."""
        number = len(self.sent) + 1
        sensors, action = np.full(self.spec.sensors, 1.0, np.float32), np.zeros(3, np.float32)
        rows = [(None, {"sensors": sensors, "frame": None}, 0.0, False, False, {})]
        for age in range(3):
            obs = {"sensors": sensors, "frame": None}
            rows.append((action, obs, self.mark(number), age == 2, False, {}))
        parts = {"worker": "scribe", "fingerprint": self.digest, "number": number, "first": 1, "version": 1}
        self.sent[number] = Steps(ret=0.0, **parts, **pack_steps(rows))
        self.endpoint.produce(to_plain(self.sent[number]), TRAINERS)

    def listen(self) -> None:
        for data in self.endpoint.receive_all():
            message = from_plain(data)
            if isinstance(message, Note):
                self.durable = max(self.durable, message.durable.get("scribe", 0))
                self.received = message.received.get("scribe", 0)
        if time.monotonic() - self.said > 1:
            self.said = time.monotonic()
            self.endpoint.produce(to_plain(Hello("scribe", self.digest, 1, 1)), TRAINERS)

    def send_again(self) -> None:
        for number in range(self.received + 1, len(self.sent) + 1):
            self.endpoint.produce(to_plain(self.sent[number]), TRAINERS)


def marks_in(run: Path, spec) -> list[float]:
    """The rewards of 1000 and more that a run holds, in order: in its replay, then in its checkpoint's queue."""
    layout = RowLayout.of(spec)
    stored = np.fromfile(run / "replay" / "rows.bin", np.float32).reshape(-1, layout.width)[:, layout.reward]
    state = checkpoint.read(run / "checkpoints" / "last.pt")["interface"]
    queue = [unpack_steps(from_plain(loads(packed.numpy().tobytes())), spec) for packed in state["pending"]]
    if state["rows_left"]:
        queue[0] = queue[0][-state["rows_left"] :]
    rewards = [*stored, *(row[2] for episode in queue for row in episode)]
    return [float(reward) for reward in rewards if reward >= 1000.0]


@pytest.mark.e2e
def test_a_killed_worker_and_a_killed_server_cost_samples_or_the_run(site):
    server = site.start("server")
    workers = [site.start("worker", "network.patience_s=60") for _ in range(2)]
    trainer = site.start("trainer", "training.epochs=4")
    site.wait_until_open()
    scribe, last_write = Scribe(site), 0.0
    killed_worker = killed_server = False
    metrics = site.runs / "net" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while trainer.poll() is None and time.monotonic() < deadline:
        scribe.listen()
        if time.monotonic() - last_write > 0.3:
            last_write = time.monotonic()
            scribe.write() if scribe.received >= len(scribe.sent) - 10 else scribe.send_again()
        epochs = len(metrics.read_text().splitlines()) if metrics.exists() else 0
        if epochs >= 1 and not killed_worker:
            workers[0].kill()
            killed_worker = True
        if epochs >= 2 and not killed_server:
            for process in [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]:
                process.kill()
            server.wait()
            killed_server = True
            time.sleep(1.0)
            site.start("server")
        time.sleep(0.02)
    output = trainer.log.read_text()
    assert trainer.wait(timeout=10) == 0 and killed_worker and killed_server, output
    summary = json.loads((site.runs / "net" / "summary.json").read_text())
    assert summary["stop_reason"] == "finished" and summary["updates"] == 80
    assert scribe.durable > 5, output
    marks = marks_in(site.runs / "net", scribe.spec)
    held = [mark for number in range(1, scribe.durable + 1) for mark in [scribe.mark(number)] * 3]
    assert marks[: len(held)] == held  # each once, in order
    assert workers[1].wait(timeout=20) == 0, workers[1].log.read_text()  # the trainer has finished
    assert PASSWORD not in "".join(
        path.read_text() for path in (site.runs / "net").glob("*.*") if path.suffix != ".png"
    )


@pytest.mark.e2e
def test_all_roles_leave_a_process_or_a_port_when_the_run_ends(site):
    run = site.start("all", "training.epochs=1", "network.tls=false")
    seen = set()
    while run.poll() is None:
        seen |= set(site.processes())
        time.sleep(0.2)
    assert run.returncode == 0, run.log.read_text()
    assert len(seen) >= 7  # trainer, server and two workers, and a network process of each
    assert ended(seen, 5)
    again = site.start("all", "training.epochs=2", "network.tls=false")  # workers wait for it, and it for their steps
    assert again.wait(timeout=90) == 0, again.log.read_text()
    summary = json.loads((site.runs / "net" / "summary.json").read_text())
    assert summary["stop_reason"] == "finished" and summary["updates"] == 40


@pytest.mark.e2e
@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_all_roles_leave_a_process_or_a_port_when_the_trainer_is_killed(site, how):
    run = site.start("all", "training.epochs=500")
    wait_for(site.runs / "net" / "metrics.jsonl", run)
    seen = set(site.processes())
    assert len(seen) >= 7
    run.send_signal(how)
    assert ended(seen, 30), [p.cmdline() for p in seen if p.is_running()]
    if how == signal.SIGINT:
        assert "same command goes on from here" in run.log.read_text().replace("\n", " ")


@pytest.mark.slow
def test_a_killed_server_leaves_all_roles_waiting_for_ever(site):
    run = site.start("all", "training.epochs=500")
    wait_for(site.runs / "net" / "metrics.jsonl", run)
    seen = set(site.processes())
    relays = [p for p in seen if any(c.laddr.port for c in p.net_connections() if c.status == psutil.CONN_LISTEN)]
    assert relays
    children = psutil.Process(run.pid).children()
    server = next(p for p in children if {c.pid for c in p.children()} & {r.pid for r in relays})
    server.kill()
    assert run.wait(timeout=60) == 1
    assert "the server has ended" in run.log.read_text().replace("\n", " ")
    assert ended(seen, 20) and (site.runs / "net" / "checkpoints" / "last.pt").exists()


@contextlib.contextmanager
def relay(cfg):
    made = make_relay(cfg)
    try:
        yield made
    finally:
        made.stop()


@contextlib.contextmanager
def endpoints(*which):
    """Endpoints of (configuration, group), made and stopped all at once."""
    with ThreadPoolExecutor() as pool:
        made = [make_endpoint(*one) for one in which]
        try:
            yield made
        finally:
            list(pool.map(lambda one: one.stop(), made))


def listen(trainer, seconds) -> list:
    """The first messages that reach a trainer's endpoint; what is unreadable is passed over."""
    deadline, got = time.monotonic() + seconds, []
    while time.monotonic() < deadline and not got:
        trainer.notify({TRAINERS: -1})
        with contextlib.suppress(ValueError):
            got = trainer.receive_all()
        time.sleep(0.05)
    return got


def test_a_wrong_password_or_certificate_gets_in(site, tmp_path, monkeypatch):
    monkeypatch.setattr(certificates, "usable_files_of", certificates.files_of)  # a stranger does not look
    certificates.make_keys(tmp_path / "others")
    mixed = tmp_path / "mixed" / "client"
    mixed.mkdir(parents=True)
    for name, source in (("authority", site.keys), ("certificate", tmp_path / "others"), ("key", tmp_path / "others")):
        (mixed / f"{name}.pem").write_bytes((source / "client" / f"{name}.pem").read_bytes())
    right = site.network()
    wrong = {
        "password": site.network(password="another password"),
        "trusts another server": site.network(keys_dir=tmp_path / "others"),
        "trusts ours, shows another's": site.network(keys_dir=tmp_path / "mixed"),
        "no TLS": site.network(tls="false"),
    }
    with (
        relay(right),
        endpoints((right, TRAINERS), *((cfg, WORKERS) for cfg in wrong.values())) as (trainer, *strangers),
    ):
        for stranger, name in zip(strangers, wrong, strict=True):
            stranger.produce({"from": name}, TRAINERS)
        assert listen(trainer, 3.0) == []
        with endpoints((right, WORKERS)) as (worker,):
            worker.produce({"from": "right"}, TRAINERS)
            assert listen(trainer, 20.0) == [{"from": "right"}]


def raw(site, side="client", data=b"", seconds=3.0) -> bytes:
    """Send bytes as somebody would who has the keys; returns what comes back until the server hangs up."""
    authority, certificate, key = certificates.files_of(site.keys, side)
    context = ssl.create_default_context(cafile=str(authority))
    context.load_cert_chain(certificate, key)
    got = b""
    with socket.create_connection(("127.0.0.1", site.port), 5) as plain:
        with context.wrap_socket(plain, server_hostname="server") as peer:
            peer.settimeout(seconds)
            with contextlib.suppress(OSError):  # it may hang up in the middle of what it is sent
                peer.sendall(data)
                while more := peer.recv(65536):
                    got += more
            return got


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def envelope(body: bytes, password=PASSWORD) -> bytes:
    return f"{len(body):<{HEADER}}{password}".encode() + body


def test_a_hostile_peer_runs_code_or_stops_the_server_or_fills_its_terminal(site, tmp_path, capfd):
    canary = tmp_path / "canary"
    bomb = pickle.dumps(Bomb(canary))
    right = site.network()
    with relay(right):
        site.wait_until_open()
        hello = dumps((1, "HELLO", None, ("workers",)))
        for data in (
            envelope(bomb),
            envelope(hello) + envelope(dumps((2, "OBJ", {"trainers": 1}, bomb))),  # the server only hands it on
            envelope(dumps((1, "OBJ", {"trainers": 1}, b"x"))),  # without a hello
            envelope(dumps((1, "HELLO", None, ("kings",)))),
            envelope(dumps(7)),
            b"-5      " + PASSWORD.encode() + b"x" * 20,
            b"99999999" + PASSWORD.encode(),
            b"9       " + b"\xff" * 40,  # a password that is no text
            b"A" * 100_000,
            b"",
        ):
            raw(site, data=data, seconds=0.3)
        with endpoints((right, TRAINERS), (right, WORKERS)) as (trainer, worker):
            for data in listen(trainer, 1.0):  # the bomb is no msgpack
                with pytest.raises(MessageError):
                    from_plain(data)
            worker.produce({"x": 1}, TRAINERS)
            assert listen(trainer, 20.0) == [{"x": 1}]  # the server still serves
    assert "Traceback" not in capfd.readouterr().err
    assert not canary.exists()
    pickle.loads(bomb).close()
    assert canary.exists()  # it would have


def test_a_server_key_is_no_use_to_a_client_and_no_key_is_none(site):
    with relay(site.network()):
        site.wait_until_open()
        hello = envelope(dumps((1, "HELLO", None, ("workers",))))
        assert raw(site, "client", hello)  # the server answers
        context = ssl.create_default_context(cafile=str(certificates.files_of(site.keys, "client")[0]))
        with pytest.raises(OSError):
            with socket.create_connection(("127.0.0.1", site.port), 5) as plain:
                with context.wrap_socket(plain, server_hostname="server") as peer:
                    peer.settimeout(3)
                    peer.sendall(hello)
                    if not peer.recv(1):
                        raise OSError("the server hung up")


def test_a_taken_port_shows_a_traceback(site):
    with relay(site.network()):
        run = site.start("server")
        assert run.wait(timeout=60) == 1
        text = run.log.read_text()
        assert "cannot listen there" in text and "network.port" in text and "Traceback" not in text
