"""Messages that wait on the server: within a limit, in order, and shared fairly among the senders."""

from app.distributed.mailbox import _OVERHEAD, Mailbox


def take(mailbox, max_bytes=10**9, max_messages=1000):
    return list(mailbox.take(max_bytes, max_messages))


def test_senders_take_turns_and_their_messages_stay_in_order():
    mailbox = Mailbox(10**6, 9)
    for number in range(3):
        mailbox.put("a", b"a%d" % number)
    mailbox.put("b", b"b0")
    assert take(mailbox, max_messages=3) == [b"a0", b"b0", b"a1"]
    assert take(mailbox) == [b"a2"] and mailbox.size == 0 and take(mailbox) == []


def test_greedy_sender_loses_its_own_newest_messages():
    mailbox = Mailbox(10 * (100 + _OVERHEAD), 9)
    assert mailbox.put("modest", bytes(100)) == 0
    dropped = sum(mailbox.put("greedy", b"%d" % number + bytes(99)) for number in range(50))
    assert mailbox.put("modest", bytes(100)) == 1  # another one of the greedy sender
    assert dropped == 41 and mailbox.size <= 10 * (100 + _OVERHEAD)
    got = take(mailbox)
    assert got.count(bytes(100)) == 2 and [one[:1] for one in got if one[0]] == [b"%d" % number for number in range(8)]


def test_batch_ends_with_the_message_that_fills_it():
    mailbox = Mailbox(10**6, 9)
    for _ in range(5):
        mailbox.put("a", bytes(100))
    assert len(take(mailbox, max_bytes=150)) == 2


def test_single_message_larger_than_the_limit_is_kept():
    mailbox = Mailbox(1000, 9)
    assert mailbox.put("a", bytes(5000)) == 0 and mailbox.put("a", bytes(10)) == 1
    assert take(mailbox) == [bytes(5000)]


def test_senders_that_have_left_are_forgotten_from_the_oldest_on():
    mailbox = Mailbox(10**6, 2)
    assert [mailbox.put(sender, sender.encode()) for sender in "abc"] == [0, 0, 1]
    assert take(mailbox) == [b"b", b"c"]
