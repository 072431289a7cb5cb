"""The network under mutated messages, hostile peers, cut lines and kills: nothing that was confirmed is lost."""

import contextlib
import os
import random
import shutil
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest
from twisted.internet.task import Clock as Reactor

from app.core.errors import UserError
from app.distributed import certificates, client_service, server_service
from app.distributed.messages import EvaluationResult, Heartbeat, TrainerStatus, Weights, encode_message, pack_weights
from app.distributed.service import TRAINERS, WORKERS
from app.distributed.transport import free_port, make_endpoint, make_relay
from app.distributed.wire_format import MAX_BYTES, dumps, frame
from app.evaluation.episodes import Start, make_episode
from tests.helpers.episodes import episode_message
from tests.helpers.make import compose
from tests.helpers.marked_run import MarkedTrainer, MarkedWorker, Proxy, kill
from tests.helpers.mutations import mutate
from tests.helpers.net import SMALL, Clock, Net
from tests.helpers.runs import ROOT
from tests.helpers.transports import FakeTransport
from tests.helpers.trust_size import SEED, cases
from tests.helpers.trust_table import record

PASSWORD = "a password for tests"
BACKLOG_MB, MAX_WORKERS = 16, 8
# What docs/distributed.md promises of the server, in bytes, beside what a process takes at its start.
SERVER_BOUND = 2 * max(BACKLOG_MB * 1_000_000, MAX_BYTES) + MAX_WORKERS * 2_000_000 + 4 * MAX_BYTES


@pytest.fixture
def network(tmp_path):
    """Network without TLS."""
    certificates.make_keys(tmp_path / "keys")
    network = compose(*SMALL, f"network.max_workers={MAX_WORKERS}", f"network.backlog_mb={BACKLOG_MB}").network
    return replace(network, port=free_port(), password=PASSWORD, keys_dir=str(tmp_path / "keys"), timeout_s=5.0)


@pytest.fixture
def with_tls(network):
    return replace(network, tls=True)


@contextlib.contextmanager
def stopped(*sides):
    """Stop servers and endpoints at the end."""
    try:
        yield
    finally:
        for side in sides:
            side.stop()


def memory_of(relay) -> int:
    return psutil.Process(relay._process.pid).memory_info().rss


def connect(network) -> socket.socket:
    """Return a connection with the right keys, over which nothing was sent."""
    plain = socket.create_connection(("127.0.0.1", network.port), 20)
    if not network.tls:
        return plain
    files = certificates.key_files(certificates.Path(network.keys_dir), "client")
    context = ssl.create_default_context(cafile=str(files.authority))
    context.load_cert_chain(files.certificate, files.key)
    return context.wrap_socket(plain, server_hostname="server")


def sent(*message, password=PASSWORD) -> bytes:
    """Return a message of a client as it is sent."""
    return frame(dumps(message), password.encode())


JOIN = sent(1, "HELLO", None, (WORKERS,))


def pass_through(worker, trainer, text: bytes, seconds=60.0) -> bool:
    """Return whether a message of a worker reaches a trainer."""
    worker.produce(text, TRAINERS)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        trainer.notify({TRAINERS: -1})
        if text in trainer.receive_all():
            return True
        time.sleep(0.05)
    return False


# --- mutated messages ----------------------------------------------------------------------------------------


def messages(net, fingerprint: str) -> list[bytes]:
    """Return one message of every kind."""
    worker = {"worker": "w", "fingerprint": fingerprint}
    episode = make_episode(Start(0, 0.0, 0), 1.5, 3, {"outcome": "lap", "lap_share": 1.0})
    status = {"fingerprint_json": "{}", "actor_version": 1, "received": {"w": 2}, "saved": {"w": 1}, "steps_ahead": 7}
    evaluation = {"evaluation": 3, "evaluation_episodes": {"w": (1, 2)}, "evaluation_results": {"w": 1}}
    share = {"deterministic_share": 0.0, "finished": False}
    return [
        encode_message(one)
        for one in (
            Heartbeat(**worker, actor_version=3, oldest_kept=1),
            EvaluationResult(**worker, evaluation=3, number=1, deterministic=True, episode=episode),
            episode_message(net.spec, 4, **worker),
            TrainerStatus(session="s", generation="g", fingerprint=fingerprint, **status, **evaluation, **share),
            Weights("s", fingerprint, 1, pack_weights(net.actor())),
        )
    ]


def test_mutated_messages_harm_neither_worker_nor_trainer(monkeypatch):
    began, rng, tried = time.perf_counter(), random.Random(SEED), cases(10_000)
    with monkeypatch.context() as patch:
        net = Net(patch, Clock(patch))
        trainer, worker = net.trainer(), net.worker()
        good, lost = messages(net, worker._digest), 0
        for _ in range(tried):
            data = mutate(rng.choice(good), good, rng)
            net.wire.for_trainer.append(data)
            net.wire.workers[0].inbox.append(data)
            net.clock.advance(0.1)
            try:
                trainer.idle()
                with contextlib.suppress(UserError):  # the settings of another trainer are shown, and end a worker
                    worker.update_actor_weights()
            except Exception as error:
                lost += 1
                print(f"{type(error).__name__}: {error} after {data[:300]!r}")
        honest = net.worker()
        net.connect(trainer, honest)
        honest.collect_train_episode()
        honest.send_and_clear_buffer()
        for _ in range(20):
            net.advance(trainer, honest, collect=False)
        arrived = trainer._flow.received()[honest.name] == 1
    record("a mutated message reaches worker and trainer", tried, lost + (not arrived), time.perf_counter() - began)
    assert lost == 0 and arrived


def test_mutated_frames_are_refused_by_server_and_client():
    began, rng, tried, lost = time.perf_counter(), random.Random(SEED), cases(10_000), 0
    good = [
        dumps(one)
        for one in (
            (1, "HELLO", None, (WORKERS,)), (1, "HELLO", None, (TRAINERS,)), (2, "OBJ", {TRAINERS: 1}, b"x" * 50),
            (2, "OBJ", {WORKERS: -1}, b"x" * 50), (3, "NTF", {TRAINERS: -1}, b""), (4, "ACK", None, None),
            (0, "HELLO", None), (0, "OBJ", b"x" * 50), (2, "ACK", None),
        )
    ]  # fmt: skip
    hub = server_service._Hub(Reactor(), PASSWORD.encode(), MAX_WORKERS, 10_000)
    parent = SimpleNamespace(transport=FakeTransport())
    link = client_service._Link(Reactor(), PASSWORD.encode(), WORKERS)
    link.parent = parent
    for _ in range(tried):
        secret = PASSWORD.encode() if rng.random() < 0.9 else rng.randbytes(len(PASSWORD))
        data = [frame(rng.choice(good[:2]), secret)] if rng.random() < 0.7 else []
        data += [frame(mutate(rng.choice(good), good, rng), secret) for _ in range(3)]
        stream = b"".join(data) if rng.random() < 0.7 else mutate(b"".join(data), good, rng)
        server = server_service._Connection(hub)
        client = client_service._ServerConnection(link, SimpleNamespace(resetDelay=lambda: None))
        for side, part in ((server, stream), (client, stream.replace(secret, b""))):
            side.makeConnection(FakeTransport())
            try:
                cut = rng.randrange(len(part) + 1)
                for piece in (part[:cut], part[cut:]):
                    side.dataReceived(piece)
            except Exception as error:
                lost += 1
                print(f"{type(error).__name__}: {error} after {part[:300]!r}")
            if rng.random() < 0.95 or len(hub._workers) == MAX_WORKERS:
                side.transport.unregisterProducer()
                side.connectionLost(SimpleNamespace(check=lambda *_: None))
    record("a mutated frame reaches server and client", tried, lost, time.perf_counter() - began)
    assert lost == 0 and hub._mailbox.size <= 10_000 + 400


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_mutated_frames_over_a_connection_leave_the_server_working(network, with_tls, tls, capfd):
    network = with_tls if tls else network
    began, rng, tried = time.perf_counter(), random.Random(SEED), cases(2_000)
    good = [JOIN, sent(2, "OBJ", {TRAINERS: 1}, b"x" * 500), sent(3, "NTF", {TRAINERS: -1}, b"")]
    relay, worker, trainer = make_relay(network), make_endpoint(network, WORKERS), make_endpoint(network, TRAINERS)
    with stopped(worker, trainer, relay):
        assert pass_through(worker, trainer, b"before")
        before = memory_of(relay)
        for _ in range(tried):
            with contextlib.suppress(OSError), connect(network) as peer:
                if rng.random() < 0.7:
                    peer.sendall(JOIN)
                peer.sendall(mutate(rng.choice(good), good, rng))
        works = pass_through(worker, trainer, b"after")
        grown = memory_of(relay) - before
    what = f"a mutated frame over a real connection ({'TLS' if tls else 'no TLS'})"
    record(what, tried, int(not works), time.perf_counter() - began)
    assert works and grown < 60_000_000 and "Traceback" not in capfd.readouterr().err


# --- many, silent, slow and greedy peers ---------------------------------------------------------------------


@pytest.mark.parametrize("says", ["nothing", "half a greeting", "the greeting"])
def test_500_connections_at_once_leave_room_for_workers(network, says):
    began, tried = time.perf_counter(), 500
    data = {"nothing": b"", "half a greeting": JOIN[:20], "the greeting": JOIN}[says]
    relay, trainer = make_relay(network), make_endpoint(network, TRAINERS)
    first = make_endpoint(network, WORKERS)
    with stopped(first, trainer, relay), contextlib.ExitStack() as peers:
        assert pass_through(first, trainer, b"before")
        for _ in range(tried):
            peer = peers.enter_context(connect(network))
            with contextlib.suppress(OSError):
                peer.sendall(data)
        works = pass_through(first, trainer, b"after")
        if says != "the greeting":  # the places of the workers are not taken
            late = make_endpoint(network, WORKERS)
            with stopped(late):
                works &= pass_through(late, trainer, b"late")
        seconds, deadline = time.perf_counter() - began, time.monotonic() + 20.0
        server, most = psutil.Process(relay._process.pid), 2 * MAX_WORKERS + 150
        while server.num_fds() >= most and time.monotonic() < deadline:  # a busy server is still closing some
            time.sleep(0.1)
        open_files = server.num_fds()
    record(f"500 connections at once that say {says}", tried, int(not works), seconds)
    assert works and open_files < most


def test_slow_readers_do_not_fill_the_memory(network):
    began, tried = time.perf_counter(), cases(400)
    relay, worker, trainer = make_relay(network), make_endpoint(network, WORKERS), make_endpoint(network, TRAINERS)
    with stopped(worker, trainer, relay), contextlib.ExitStack() as peers:
        assert pass_through(worker, trainer, b"before")
        before = memory_of(relay)
        for _ in range(MAX_WORKERS - 1):
            peers.enter_context(connect(network)).sendall(JOIN)
        got, deadline = set(), time.monotonic() + 120
        for number in range(tried):
            trainer.broadcast(b"%05d" % number + bytes(1_000_000), WORKERS)
            time.sleep(0.02)
            got |= {message[:5] for message in worker.receive_all()}
        last = b"%05d" % (tried - 1)
        while last not in got and time.monotonic() < deadline:
            trainer.broadcast(last + bytes(1_000_000), WORKERS)
            time.sleep(0.5)
            got |= {message[:5] for message in worker.receive_all()}
        grown = memory_of(relay) - before
    record("a broadcast to workers that do not read", tried, int(last not in got), time.perf_counter() - began)
    assert last in got and grown < MAX_WORKERS * 3_000_000 + 60_000_000


@pytest.mark.parametrize("kind", ["whole messages", "unfinished messages", "many copies", "nested lists"])
def test_flood_with_the_right_password_does_not_push_out_others(network, kind):
    began, tried = time.perf_counter(), cases(1_000)
    body = sent(2, "OBJ", {TRAINERS: 1}, bytes(1_000_000))
    nested = frame(b"\x94\x02\xa3OBJ" + b"\xdc\x00\x10" * 300_000, PASSWORD.encode())
    data = {
        "whole messages": body,
        "unfinished messages": b"%-8d" % MAX_BYTES + PASSWORD.encode() + bytes(3_000_000),
        "many copies": sent(2, "OBJ", {TRAINERS: 2**40}, b"x"),
        "nested lists": nested,
    }[kind]
    relay, worker, trainer = make_relay(network), make_endpoint(network, WORKERS), make_endpoint(network, TRAINERS)
    with stopped(worker, trainer, relay):
        assert pass_through(worker, trainer, b"before")
        before, peak, works = memory_of(relay), 0, True
        peers = [connect(network) for _ in range(3)]
        for peer in peers:
            peer.sendall(JOIN)
        for number in range(tried):
            place = number % len(peers)
            try:
                peers[place].settimeout(10)
                peers[place].sendall(data)
            except OSError:  # the server has had enough
                peers[place].close()
                peers[place] = connect(network)
                peers[place].sendall(JOIN)
            peak = max(peak, memory_of(relay) - before)
            if number % (tried // 10 or 1) == 0:
                works &= pass_through(worker, trainer, b"mine %d" % number)
        for peer in peers:
            peer.close()
    record(f"a flood of {kind} with the right password", tried, int(not works), time.perf_counter() - began)
    assert works and peak < SERVER_BOUND


# --- cut lines and kills -------------------------------------------------------------------------------------


class Story:
    """A trainer and two workers that go on through whatever happens, and the count of what was lost."""

    def __init__(self, trainer_network, worker_network, rng):
        config = compose(*SMALL)
        self._trainer_config = replace(config, network=trainer_network)
        self._worker_config = replace(config, network=worker_network)
        self._rng, self._numbers = rng, iter(range(1, 1000))
        self.trainer = MarkedTrainer(self._trainer_config)
        self.workers = [self._new_worker() for _ in range(2)]
        self._gone = []

    def _new_worker(self):
        return MarkedWorker(self._worker_config, next(self._numbers))

    def advance(self, seconds, may_send=True):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for worker in self.workers:
                worker.advance(may_send and self._rng.random() < 0.2)
            self.trainer.take()
            if self._rng.random() < 0.1:
                self.trainer.save()
            time.sleep(0.01)

    def kill_worker(self):
        place = self._rng.randrange(2)
        kill(self.workers[place].worker._endpoint)
        self._gone.append(self.workers[place])
        self.workers[place] = self._new_worker()

    def finish(self, seconds=120):
        """Let everything arrive that can; return how many episodes of all workers were lost, or arrived twice."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(worker.acknowledged < worker.sent for worker in self.workers):
            self.advance(0.5, may_send=False)
        self.trainer.save()
        marks, wrong = self.trainer.saved_marks(), 0
        for worker in (*self.workers, *self._gone):  # a worker that was killed takes what was not confirmed with it
            due = worker.marks(worker.sent if worker in self.workers else worker.acknowledged)
            found = [mark for mark in marks if worker.is_mine(mark)]
            wrong += found[: len(due)] != due or found != worker.marks(len(found) // 3)
        return wrong

    def close(self):
        for worker in self.workers:
            worker.worker.close()
        self.trainer.interface.close(finished=False)


@pytest.fixture
def soon(monkeypatch):
    """Send again what is not confirmed after half a second instead of five."""
    monkeypatch.setattr("app.distributed.worker._RESEND_INTERVAL_S", 0.5)
    monkeypatch.setattr("app.distributed.worker._MAX_RESEND_INTERVAL_S", 2.0)


def test_killed_parts_lose_nothing_that_was_confirmed(network, soon):
    began, rng, tried = time.perf_counter(), random.Random(SEED), cases(50)
    relay = make_relay(network)
    story = Story(network, network, rng)
    story.advance(3)
    for _ in range(tried):
        story.advance(rng.uniform(0.05, 1.5))
        victim = rng.choice(("server", "worker", "trainer"))
        if victim == "server":
            kill(relay)
            relay = make_relay(network)
        else:
            story.kill_worker() if victim == "worker" else story.trainer.kill()
    lost, count = story.finish(), len(story.trainer.marks)
    story.close()
    relay.stop()
    record("server, worker or trainer is killed over the network", tried, lost, time.perf_counter() - began)
    assert lost == 0 and count > 3 * tried


def test_cut_connections_lose_nothing(with_tls, soon):
    began, rng, tried = time.perf_counter(), random.Random(SEED), cases(100)
    relay = make_relay(with_tls)
    to_workers, to_trainer = Proxy(with_tls.port), Proxy(with_tls.port)
    to_workers.delay = to_trainer.delay = 0.05
    story = Story(replace(with_tls, port=to_trainer.port), replace(with_tls, port=to_workers.port), rng)
    story.advance(3)
    for _ in range(tried):
        story.advance(rng.uniform(0.05, 1.0))
        rng.choice((to_workers, to_trainer)).cut()
    lost, count = story.finish(), len(story.trainer.marks)
    story.close()
    relay.stop()
    for proxy in (to_workers, to_trainer):
        proxy.close()
    record("a connection is cut, with delays", tried, lost, time.perf_counter() - began)
    assert lost == 0 and count > 100


# --- a network of the system's own ---------------------------------------------------------------------------

SERVE = """
import sys, time
from app.distributed.transport import make_relay
from tests.trust.test_wire import network_from
relay = make_relay(network_from(sys.argv[1:]))
while relay.is_alive():
    time.sleep(0.2)
"""


def network_from(arguments):
    """Return the network of the server in the namespace."""
    address, port, keys = arguments
    network = compose(*SMALL, f"network.max_workers={MAX_WORKERS}").network
    return replace(network, host=address, bind=address, port=int(port), password=PASSWORD, tls=True, keys_dir=keys)


class Namespace:
    """Network namespace with a link to this one, whose state and quality can be changed."""

    def __init__(self):
        self.name, self.link = f"wire{os.getpid()}", f"w{os.getpid()}"
        self.address, own, far = "10.231.77.2", "10.231.77.1", f"x{os.getpid()}"
        self._run("ip", "netns", "add", self.name)
        self._run("ip", "link", "add", self.link, "type", "veth", "peer", "name", far, "netns", self.name)
        self._run("ip", "addr", "add", f"{own}/30", "dev", self.link)
        self._run("ip", "link", "set", self.link, "up")
        address = ("addr", "add", f"{self.address}/30", "dev", far)
        for command in (address, ("link", "set", far, "up"), ("link", "set", "lo", "up")):
            self._run("ip", "-n", self.name, *command)

    def set_up(self, up: bool) -> None:
        self._run("ip", "link", "set", self.link, "up" if up else "down")

    def lose(self, *quality: str) -> bool:
        """Set loss and delay; return whether the kernel can."""
        command = ("tc", "qdisc", "replace", "dev", self.link, "root", "netem", *quality)
        return bool(shutil.which("tc")) and subprocess.run(command, capture_output=True).returncode == 0

    def remove(self) -> None:
        subprocess.run(("ip", "netns", "del", self.name), capture_output=True)
        subprocess.run(("ip", "link", "del", self.link), capture_output=True)

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"network namespaces cannot be used here: {done.stderr.strip()}")


@pytest.fixture
def namespace():
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need Linux, root and the program ip")
    made = Namespace()
    yield made
    made.remove()


def test_lossy_and_broken_link_loses_nothing(namespace, tmp_path, soon):
    began, rng, tried = time.perf_counter(), random.Random(SEED), cases(30)
    certificates.make_keys(tmp_path / "keys")
    arguments = [namespace.address, str(free_port()), str(tmp_path / "keys")]
    command = ["ip", "netns", "exec", namespace.name, sys.executable, "-c", SERVE, *arguments]
    server = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    network = network_from(arguments)
    story = Story(network, network, rng)
    lossy = False
    try:
        story.advance(15)
        for _ in range(tried):
            lossy = (
                namespace.lose("loss", f"{rng.choice((1, 10, 30))}%", "delay", f"{rng.choice((1, 50, 200))}ms") or lossy
            )
            story.advance(rng.uniform(0.5, 2.0))
            namespace.set_up(False)
            story.advance(rng.uniform(0.2, 3.0))
            namespace.set_up(True)
        namespace.lose("loss", "0%")
        lost, count = story.finish(), len(story.trainer.marks)
    finally:
        story.close()
        server.terminate()
        server.wait()
    what = f"a link is taken down{', with loss and delay' if lossy else ' (the kernel has no netem)'}"
    record(what, tried, lost, time.perf_counter() - began)
    assert lost == 0 and count > 30
