"""Client process without a network: what waits while the server is away, and in which order it is sent."""

from types import SimpleNamespace

import pytest

from app.distributed import client_service
from app.distributed.service import TRAINERS, WORKERS
from app.distributed.wire_format import dumps, frame
from tests.helpers.transports import FakeTransport

SECRET = b"a password"
EPISODE, WEIGHTS, ASK = ("OBJ", {TRAINERS: 1}), ("OBJ", {WORKERS: -1}), ("NTF", {TRAINERS: -1}, b"")


@pytest.fixture
def link():
    reactor = SimpleNamespace(running=True, stop=lambda: stopped.append(True), callLater=lambda *_: None)
    stopped = []
    made = client_service._Link(reactor, SECRET, WORKERS)
    made.parent = SimpleNamespace(transport=FakeTransport())
    made.stopped = stopped
    return made


def connect(link):
    """Return a connection that the server has accepted."""
    server = client_service._ServerConnection(link, SimpleNamespace(resetDelay=lambda: None))
    server.makeConnection(FakeTransport())
    answer(server, 0, "HELLO", None)
    assert [message[1] for message in server.transport.messages(SECRET)] == ["HELLO"]
    answer(server, 1, "ACK", None)
    return server


def answer(server, *message):
    server.dataReceived(frame(dumps(message)))


def bodies(server):
    return [body for *_, body in server.transport.messages(SECRET)]


def test_only_the_newest_broadcast_waits_while_the_server_is_away(link):
    for number in range(100):
        link.obey((*WEIGHTS, b"%d" % number + bytes(1_000_000)))
    assert link._waiting < 1_100_000
    assert bodies(connect(link))[0].startswith(b"99")


def test_episodes_wait_once_in_order_and_within_a_limit(link, monkeypatch):
    monkeypatch.setattr(client_service, "_MAX_UNSENT", 350)
    for _ in range(3):  # a worker sends again what was not confirmed
        for number in range(5):
            link.obey((*EPISODE, b"%d" % number + bytes(99)))
    link.obey(ASK)
    assert [body[:1] for body in bodies(connect(link))] == [b"0", b"1", b"2"]


def test_slow_server_does_not_fill_the_memory(link, monkeypatch):
    monkeypatch.setattr(client_service, "_MAX_UNSENT", 350)
    server = connect(link)
    server.pauseProducing()
    for number in range(50):
        link.obey((*EPISODE, b"%d" % number + bytes(98)))
    assert link._waiting <= 350
    server.resumeProducing()
    assert len(bodies(server)) == 3


def test_client_stops_when_the_server_has_everything(link):
    server = connect(link)
    link.obey((*EPISODE, b"last"))
    link.obey(("STOP", None, b""))
    assert not link.stopped
    answer(server, 2, "ACK", None)
    assert link.stopped


def test_what_another_program_answers_ends_the_connection(link):
    for data in (b"HTTP/1.1 400 Bad Request\r\n", frame(dumps(7)), frame(dumps((1, 2))), frame(b"\xc1")):
        server = client_service._ServerConnection(link, SimpleNamespace(resetDelay=lambda: None))
        server.makeConnection(FakeTransport())
        server.dataReceived(data)
        assert server.transport.disconnecting
