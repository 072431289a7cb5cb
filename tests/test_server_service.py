"""Server process without a network: who may join, what is forwarded, what is limited, and what the log says."""

from types import SimpleNamespace

import pytest
from twisted.internet.task import Clock

from app.distributed import server_service
from app.distributed.service import TRAINERS, WORKERS
from app.distributed.wire_format import MAX_BYTES, dumps, frame
from tests.helpers.transports import FakeTransport

SECRET = b"a password"


class Site:
    """Hub of a server whose log is a list."""

    def __init__(self, max_workers=2, backlog=10_000):
        self.clock, self.log = Clock(), []
        self.hub = server_service._Hub(self.clock, SECRET, max_workers, backlog)
        self.hub.parent = SimpleNamespace(tell=self.log.append)

    def peer(self, *groups):
        """Return a connection that has joined, or tried to."""
        connection = server_service._Connection(self.hub)
        connection.makeConnection(FakeTransport())
        for group in groups:
            self.send(connection, 1, "HELLO", None, (group,))
        return connection

    def send(self, connection, *message, secret=SECRET):
        connection.dataReceived(frame(dumps(message), secret))


@pytest.fixture
def site():
    return Site()


def leave(connection):
    connection.connectionLost(SimpleNamespace(check=lambda *_: None))


def received(connection):
    return [body for _, command, body in connection.transport.messages() if command == "OBJ"]


def test_log_says_who_joins_and_leaves(site):
    worker, trainer = site.peer(WORKERS), site.peer(TRAINERS)
    leave(worker)
    leave(trainer)
    host = worker.host
    assert site.log == [
        f"Worker from {host} connected (1 in total).", f"Trainer from {host} connected.",
        f"Worker from {host} disconnected (0 remaining).", f"Trainer from {host} disconnected.",
    ]  # fmt: skip


def test_log_says_who_is_refused_and_why(site):
    site.send(site.peer(), 1, "HELLO", None, (WORKERS,), secret=b"b password")
    site.peer().dataReceived(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    site.send(site.peer(), 1, "HELLO", None, ("kings",))
    for _ in range(3):
        site.peer(WORKERS)
    for _ in range(2):
        site.peer(TRAINERS)
    site.peer()
    site.clock.advance(31)
    reasons = [line.partition(": ")[2] for line in site.log if line.startswith("Refused")]
    assert reasons == [
        "wrong password.",
        "it does not speak the protocol of this program, or uses TLS on one side only.",
        "it joined in a way that this program does not.",
        "network.max_workers = 2 workers are connected.",
        "another trainer is connected.",
        "it did not join within 30 s.",
    ]
    assert SECRET.decode() not in "".join(site.log)


def test_log_stays_short_whatever_peers_do(site):
    for _ in range(1000):
        site.send(site.peer(), 1, "HELLO", None, (WORKERS,), secret=b"b password")
        leave(site.peer(WORKERS))
    assert len(site.log) <= 100 and sum("wrong password" in line for line in site.log) == 1


def test_messages_go_to_the_trainer_and_broadcasts_to_the_workers(site):
    worker, trainer = site.peer(WORKERS), site.peer(TRAINERS)
    site.send(worker, 2, "OBJ", {TRAINERS: 1}, b"episode")
    site.send(trainer, 2, "OBJ", {WORKERS: -1}, b"weights")
    site.send(trainer, 3, "NTF", {TRAINERS: -1}, b"")
    assert received(trainer) == [b"episode"] and received(worker) == [b"weights"]
    assert received(site.peer(WORKERS)) == [b"weights"]  # late ones get the last one


@pytest.mark.parametrize(
    "group, message",
    [
        (WORKERS, (2, "OBJ", {WORKERS: -1}, b"x")),
        (WORKERS, (2, "OBJ", {TRAINERS: 2**40}, b"x")),
        (WORKERS, (2, "OBJ", {TRAINERS: 1, WORKERS: -1}, b"x")),
        (WORKERS, (2, "OBJ", {TRAINERS: 1}, 7)),
        (WORKERS, (2, "NTF", {TRAINERS: -1}, b"")),
        (TRAINERS, (2, "OBJ", {TRAINERS: 1}, b"x")),
        (TRAINERS, (2, "NTF", {TRAINERS: 2**60}, b"")),
        (WORKERS, (2, "HELLO", None, (WORKERS,))),
        (WORKERS, (2, "OBJ")),
    ],
)
def test_peer_that_does_what_its_group_may_not_is_dropped(site, group, message):
    peer = site.peer(group)
    site.send(peer, *message)
    assert peer.transport.disconnecting and site.hub._mailbox.size == 0


def test_peer_that_does_not_read_misses_broadcasts(site):
    slow, quick, trainer = site.peer(WORKERS), site.peer(WORKERS), site.peer(TRAINERS)
    slow.outbox.pauseProducing()
    for number in range(50):
        site.send(trainer, number, "OBJ", {WORKERS: -1}, bytes(300_000))
    assert slow.outbox.waiting <= server_service._MAX_UNSENT and len(received(quick)) == 50
    slow.outbox.resumeProducing()
    assert 0 < len(received(slow)) < 10
    site.send(trainer, 99, "OBJ", {WORKERS: -1}, b"newest")
    assert received(slow) == [b"newest"]


def test_largest_unfinished_message_is_dropped_when_all_are_too_much(site):
    header = f"{MAX_BYTES:<8}".encode() + SECRET
    site.hub._max_unfinished = 500_000
    small, large = site.peer(WORKERS), site.peer(WORKERS)
    small.dataReceived(header + bytes(200_000))
    large.dataReceived(header + bytes(250_000))
    assert not large.transport.disconnecting
    large.dataReceived(bytes(100_000))
    assert large.transport.disconnecting and not small.transport.disconnecting


def test_large_message_is_refused_before_the_peer_has_joined(site):
    peer = site.peer()
    peer.dataReceived(f"{MAX_BYTES:<8}".encode() + SECRET)
    assert peer.transport.disconnecting


def test_oldest_of_too_many_connections_that_have_not_joined_is_dropped(site):
    peers = [site.peer() for _ in range(2 + server_service._SPARE + 1)]
    assert [peer.transport.disconnecting for peer in peers] == [True] + [False] * (len(peers) - 1)


def test_unfinished_message_of_a_peer_that_has_left_takes_no_memory(site):
    peer = site.peer(WORKERS)
    site.send(peer, 2, "OBJ", {TRAINERS: 1}, b"an episode")
    peer.dataReceived(f"{MAX_BYTES:<8}".encode() + SECRET + bytes(200_000))
    leave(peer)
    (sender,) = site.hub._mailbox._queues
    assert sender is peer and not len(sender.reader)
