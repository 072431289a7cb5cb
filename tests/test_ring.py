"""Ring of rows: pinned rows and checksums."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.replay.ring import UNLIMITED, Ring, Segments
from app.replay.storage import MemoryStorage


def make_ring(capacity, slack):
    rows = capacity + slack
    kinds = {"number": ((rows,), np.dtype(np.int64)), "pair": ((rows, 2), np.dtype(np.uint8))}
    return Ring(kinds, MemoryStorage(), capacity, slack)


def push(ring, count):
    numbers = np.arange(ring.appended, ring.appended + count)
    ring.append({"number": numbers, "pair": (numbers % 251).astype(np.uint8)[:, None].repeat(2, axis=1)})


@settings(max_examples=300, deadline=None)
@given(
    capacity=st.integers(1, 50),
    slack=st.integers(1, 60),
    plan=st.lists(st.one_of(st.none(), st.integers(1, 40)), max_size=40),
)
def test_pinned_rows_are_never_overwritten(capacity, slack, plan):
    ring, states = make_ring(capacity, slack), []
    for count in plan:
        if count is None:  # a checkpoint
            states = [*states[-1:], ring.state_dict()]
            ring.pin(states)
            continue
        if count > ring.free_rows:
            before = (ring.appended, ring.size)
            with pytest.raises(ValueError, match="Save a checkpoint first"):
                push(ring, count)
            assert (ring.appended, ring.size) == before
            count = ring.free_rows
        if count:
            push(ring, count)
        assert [ring.find_damage(state) for state in states] == [None] * len(states)
    assert len(ring.state_dict()["segments"]) <= capacity / max(1, slack // 8) + 2  # however often it was saved
    for _ in range(2):
        states = [*states[-1:], ring.state_dict()]
        ring.pin(states)
    assert ring.free_rows > slack - max(1, slack // 8)  # two checkpoints later there is always space


def test_free_rows_are_limited_only_while_rows_are_pinned():
    ring = make_ring(40, 16)
    assert ring.free_rows == UNLIMITED
    push(ring, 500)
    assert ring.find_damage(ring.state_dict()) is None
    ring.pin([ring.state_dict()])
    assert ring.free_rows == 16
    push(ring, 5)
    assert ring.free_rows == 11
    ring.pin([])
    assert ring.free_rows == UNLIMITED


@pytest.mark.parametrize("slack", [0, 16])
def test_ring_without_pinned_rows_has_valid_checksums_after_wrapping(slack):
    ring = make_ring(40, slack)
    for count in (3, 30, 30, 1, 17, 90, 55, 56, 57, 2):
        push(ring, count)
        state = ring.state_dict()
        assert ring.find_damage(state) is None


def test_checksums_are_continued_without_reading_old_rows_again():
    read = []

    def checksum(begin, end, before):
        read.append((begin, end))
        return {"x": before.get("x", 0) + end - begin}

    segments = Segments(10)
    for newest in (25, 27, 27, 31):
        segments.cover(max(0, newest - 20), newest, 0, checksum)
    assert read == [(5, 10), (10, 20), (20, 25), (25, 27), (27, 30), (30, 31)]
    assert segments.state_dict()[-2:] == [
        {"begin": 20, "end": 30, "crc": {"x": 10}},
        {"begin": 30, "end": 31, "crc": {"x": 1}},
    ]
    assert segments.state_dict()[0]["begin"] == 10
