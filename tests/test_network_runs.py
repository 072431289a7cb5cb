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

from app.distributed import certificates
from app.distributed.messages import (
    EpisodeMessage,
    Heartbeat,
    MessageError,
    TrainerStatus,
    decode_message,
    encode_message,
    pack_episode,
    unpack_episode,
)
from app.distributed.service import TRAINERS, WORKERS
from app.distributed.transport import free_port, make_endpoint, make_relay
from app.distributed.wire_format import dumps
from app.envs.env_factory import make_spec
from app.replay.row_format import RowFormat
from app.runs import checkpoint
from app.runs.fingerprint import fingerprint_digest, fingerprint_json
from tests.helpers.make import compose
from tests.helpers.runs import ROOT, TINY, wait_for

PASSWORD = "a password for tests"
HEADER = 8


class Site:
    """Port with keys, and the processes that were started for it."""

    def __init__(self, folder: Path):
        self.folder, self.runs, self.port = folder, folder / "runs", free_port()
        self.keys = folder / "keys"
        certificates.make_keys(self.keys)
        self.overrides = (
            *TINY, f"network.port={self.port}", "network.tls=true", f"network.keys_dir={self.keys}",
            f"runs_dir={self.runs}", "run_name=net", "network.model_interval_s=0.2", "network.max_steps_ahead=50",
            "network.timeout_s=5", "training.checkpoint_interval_s=1", "replay.capacity=20000",
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
        deadline = time.monotonic() + 180  # on a busy machine, loading takes long
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
    """Return whether all of them end in time; our own zombies count as ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        alive = [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        if not alive:
            return True
        time.sleep(0.1)
    return False


class MarkingWorker:
    """Worker of the test's own, which marks its episodes and records what the trainer says about them."""

    def __init__(self, site: Site):
        config = compose(*site.overrides, "role=worker", f"network.password={PASSWORD}")
        self.row_format = RowFormat.of(make_spec(config.env))
        self._sensors = make_spec(config.env).sensors
        self._digest = fingerprint_digest(fingerprint_json(config))
        self._endpoint = make_endpoint(config.network, WORKERS)
        site.cleanup.callback(self._endpoint.stop)
        self.sent: dict[int, EpisodeMessage] = {}
        self.saved = self.received = 0
        self._heartbeat_sent = 0.0

    def mark(self, number: int) -> float:
        return 1000.0 + number

    def send_next(self) -> None:
        """Send one more episode of three steps whose rewards are its mark."""
        number = len(self.sent) + 1
        obs = {"sensors": np.full(self._sensors, 1.0, np.float32), "frame": None}
        steps = [(None, obs, 0.0, False, False, {})]
        for age in range(3):
            steps.append((np.zeros(3, np.float32), obs, self.mark(number), age == 2, False, {}))
        self.sent[number] = EpisodeMessage(
            worker="marking",
            fingerprint=self._digest,
            number=number,
            oldest_kept=1,
            actor_version=1,
            episode_return=0.0,
            **pack_episode(steps, self.row_format),
        )
        self._send(self.sent[number])

    def listen(self) -> None:
        for data in self._endpoint.receive_all():
            message = decode_message(data)
            if isinstance(message, TrainerStatus):
                self.saved = max(self.saved, message.saved.get("marking", 0))
                self.received = message.received.get("marking", 0)
        if time.monotonic() - self._heartbeat_sent > 1:
            self._heartbeat_sent = time.monotonic()
            self._send(Heartbeat("marking", self._digest, 1, 1))

    def send_again(self) -> None:
        for number in range(self.received + 1, len(self.sent) + 1):
            self._send(self.sent[number])

    def _send(self, message) -> None:
        self._endpoint.produce(encode_message(message), TRAINERS)


def marks_in(run: Path, row_format: RowFormat) -> list[float]:
    """The rewards of 1000 and more that a run holds, in order: in its replay, then in its checkpoint's queue."""
    stored = np.fromfile(run / "replay" / "rows.bin", np.float32).reshape(-1, row_format.width)[:, row_format.reward]
    state = checkpoint.read_checkpoint(run / "checkpoints" / "last.pt")["interface"]
    queue = [unpack_episode(decode_message(packed.numpy().tobytes()), row_format) for packed in state["pending"]]
    if state["rows_left"]:
        queue[0] = queue[0][-state["rows_left"] :]
    rewards = [*stored, *(step.reward for episode in queue for step in episode)]
    return [float(reward) for reward in rewards if reward >= 1000.0]


@pytest.mark.e2e
def test_run_survives_a_killed_worker_and_a_killed_server(site):
    server = site.start("server")
    workers = [site.start("worker", "network.timeout_s=60") for _ in range(2)]
    trainer = site.start("trainer", "training.epochs=4")
    site.wait_until_open()
    marking, last_sent = MarkingWorker(site), 0.0
    killed_worker = killed_server = False
    metrics = site.runs / "net" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while trainer.poll() is None and time.monotonic() < deadline:
        marking.listen()
        if time.monotonic() - last_sent > 0.3:
            last_sent = time.monotonic()
            marking.send_next() if marking.received >= len(marking.sent) - 10 else marking.send_again()
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
    assert marking.saved > 5, output
    marks = marks_in(site.runs / "net", marking.row_format)
    held = [mark for number in range(1, marking.saved + 1) for mark in [marking.mark(number)] * 3]
    assert marks[: len(held)] == held  # each once, in order
    assert workers[1].wait(timeout=20) == 0, workers[1].log.read_text()  # the trainer has finished
    assert PASSWORD not in "".join(
        path.read_text() for path in (site.runs / "net").glob("*.*") if path.suffix != ".png"
    )


@pytest.mark.e2e
def test_role_all_leaves_no_process_and_can_be_resumed(site):
    run = site.start("all", "training.epochs=1", "network.tls=false")
    seen = set()
    while run.poll() is None:
        seen |= set(site.processes())
        time.sleep(0.2)
    assert run.returncode == 0, run.log.read_text()
    assert len(seen) >= 7  # trainer, server and two workers, and a network process of each
    assert ended(seen, 5)
    again = site.start("all", "training.epochs=2", "network.tls=false")  # workers wait for it, and it for their steps
    assert again.wait(timeout=240) == 0, again.log.read_text()
    summary = json.loads((site.runs / "net" / "summary.json").read_text())
    assert summary["stop_reason"] == "finished" and summary["updates"] == 40
    for line in (site.runs / "net" / "metrics.jsonl").read_text().splitlines():
        assert {"train_eval_gap_q", "grad_trunk_cosine", "feature_rank"} <= json.loads(line).keys()


@pytest.mark.e2e
@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_role_all_leaves_no_process_when_the_trainer_is_killed(site, how):
    run = site.start("all", "training.epochs=500")
    wait_for(site.runs / "net" / "metrics.jsonl", run)
    seen = set(site.processes())
    assert len(seen) >= 7
    run.send_signal(how)
    assert ended(seen, 30), [p.cmdline() for p in seen if p.is_running()]
    if how == signal.SIGINT:
        assert "same command resumes the run" in run.log.read_text().replace("\n", " ")


@pytest.mark.slow
def test_role_all_stops_when_its_server_is_killed(site):
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


def listen(trainer, seconds) -> list[bytes]:
    """The first messages that reach a trainer's endpoint."""
    deadline, got = time.monotonic() + seconds, []
    while time.monotonic() < deadline and not got:
        trainer.notify({TRAINERS: -1})
        got = trainer.receive_all()
        time.sleep(0.05)
    return got


@pytest.mark.e2e
def test_wrong_password_or_certificate_is_refused(site, tmp_path, monkeypatch):
    monkeypatch.setattr(certificates, "checked_key_files", certificates.key_files)  # an attacker does not check
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
        relay(right) as server,
        endpoints((right, TRAINERS), *((cfg, WORKERS) for cfg in wrong.values())) as (trainer, *intruders),
    ):
        for intruder, name in zip(intruders, wrong, strict=True):
            intruder.produce(name.encode(), TRAINERS)
        assert listen(trainer, 3.0) == []
        with endpoints((right, WORKERS)) as (worker,):
            worker.produce(b"right", TRAINERS)
            assert listen(trainer, 20.0) == [b"right"]
        log = b"\n".join(server.receive_all()).decode()
    assert "Refused a connection from 127.0.0.1: wrong password." in log
    assert "TLS failed (certificate verify failed)" in log and "Worker from 127.0.0.1 connected" in log
    assert PASSWORD not in log and "another password" not in log


def raw(site, side="client", data=b"", seconds=3.0) -> bytes:
    """Send bytes as a client with keys; return the answer until the server closes the connection."""
    authority, certificate, key = certificates.key_files(site.keys, side)
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


@pytest.mark.e2e
def test_hostile_peer_runs_no_code_and_the_server_goes_on(site, tmp_path, capfd):
    canary = tmp_path / "canary"
    bomb = pickle.dumps(Bomb(canary))
    right = site.network()
    with relay(right):
        site.wait_until_open()
        hello = dumps((1, "HELLO", None, ("workers",)))
        for data in (
            envelope(bomb),
            envelope(hello) + envelope(dumps((2, "OBJ", {"trainers": 1}, bomb))),  # the server only hands it on
            envelope(hello) + envelope(dumps((2, "OBJ", {"trainers": 1}, 7))),  # not even bytes
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
            for data in listen(trainer, 1.0):
                with pytest.raises(MessageError):
                    decode_message(data)
            worker.produce(b"x", TRAINERS)
            assert listen(trainer, 20.0) == [b"x"]  # the server still serves
    assert "Traceback" not in capfd.readouterr().err
    assert not canary.exists()
    pickle.loads(bomb).close()
    assert canary.exists()  # it would have


@pytest.mark.e2e
def test_only_a_client_with_a_certificate_gets_an_answer(site):
    with relay(site.network()):
        site.wait_until_open()
        hello = envelope(dumps((1, "HELLO", None, ("workers",))))
        assert raw(site, "client", hello)  # the server answers
        context = ssl.create_default_context(cafile=str(certificates.key_files(site.keys, "client")[0]))
        with pytest.raises(OSError):
            with socket.create_connection(("127.0.0.1", site.port), 5) as plain:
                with context.wrap_socket(plain, server_hostname="server") as peer:
                    peer.settimeout(3)
                    peer.sendall(hello)
                    if not peer.recv(1):
                        raise OSError("the server hung up")


@pytest.mark.e2e
def test_taken_port_is_reported_without_a_traceback(site):
    with relay(site.network()):
        run = site.start("server")
        assert run.wait(timeout=60) == 1
        text = run.log.read_text()
        assert "cannot listen there" in text and "network.port" in text and "Traceback" not in text
