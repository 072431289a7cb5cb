"""A replay in files outlives its process; each test is named after the bug it forbids."""

import errno
import hashlib
import io
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import UserError
from app.replay.ring import UNLIMITED, Ring
from app.replay.segments import Segments
from app.replay.storage import MappedStorage, MemoryStorage, StorageFull
from tests.test_replay import feed, make_memory, make_spec, record

FILES = ("rows", "age", "ends", "frames")
CAPACITY, SLACK = 40, 16


def batches(memory, count=2):
    """A digest of each of some batches, or None where nothing can be sampled."""
    try:
        return [digest(memory.sample()) for _ in range(count)]
    except RuntimeError:
        return None


def digest(batch):
    tensors = [
        *batch.obs.values(),
        *batch.next_obs.values(),
        *(part for part in batch if isinstance(part, torch.Tensor)),
    ]
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


def mapped(folder, spec=None, capacity=CAPACITY, slack=SLACK, seed=0):
    """A replay in files, and its storage."""
    storage = MappedStorage(Path(folder))
    return make_memory(spec or make_spec(), capacity, seed=seed, storage=storage, slack=slack), storage


def folder():
    return tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # Windows keeps what is mapped


@pytest.fixture
def saved(tmp_path):
    """A closed replay that has wrapped, in ``tmp_path``, and its state."""
    memory, storage = mapped(tmp_path)
    feed(memory, make_spec(), record(make_spec(), [20] * 6))
    state = memory.state_dict()
    storage.close()
    return state


# --- the same numbers ---


@settings(max_examples=60, deadline=None)
@given(
    image=st.one_of(st.none(), st.tuples(st.integers(1, 4), st.just(3), st.just(2))),
    lengths=st.lists(st.integers(0, 14), min_size=1, max_size=12),
    capacity=st.integers(2, 60),
    slack=st.integers(0, 40),
    chunks=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    n_step=st.integers(1, 3),
)
def test_replay_in_files_samples_something_else(image, lengths, capacity, slack, chunks, n_step):
    spec = make_spec(image=image)
    steps = record(spec, lengths)
    in_memory = feed(make_memory(spec, capacity, n_step=n_step), spec, steps, chunks)
    with folder() as path:
        storage = MappedStorage(Path(path))
        in_files = feed(make_memory(spec, capacity, n_step=n_step, storage=storage, slack=slack), spec, steps, chunks)
        assert len(in_files) == len(in_memory) and in_files.appended == len(steps)
        assert batches(in_files) == batches(in_memory)
        storage.close()


@settings(max_examples=60, deadline=None)
@given(
    before=st.tuples(st.integers(0, 150), st.integers(0, 60)),
    after=st.integers(0, 60),
    capacity=st.integers(4, 60),
    slack=st.integers(1, 80),
    chunk=st.integers(1, 9),
    newest=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_killed_run_goes_on_with_rows_from_after_its_checkpoint(before, after, capacity, slack, chunk, newest, seed):
    """Also from the checkpoint before the last, and also when the ring has wrapped."""
    spec = make_spec()
    steps = record(spec, [int(length) for length in np.random.default_rng(seed).integers(0, 15, 40)], seed)
    with folder() as path:
        killed, _ = mapped(path, spec, capacity, slack)
        states, cuts = [], []
        for rows in before:
            rows = min(rows, killed.room, len(steps) - killed.appended)
            feed(killed, spec, steps[killed.appended : killed.appended + rows], [chunk])
            batches(killed)  # the random stream moves
            states.append(json.loads(json.dumps(killed.state_dict())))
            cuts.append(killed.appended)
            killed.protect(states)
        rows = min(after, killed.room, len(steps) - killed.appended)
        feed(killed, spec, steps[killed.appended : killed.appended + rows], [chunk])
        batches(killed)  # never closed, never flushed: killed

        chosen = 1 if newest else 0
        cut = cuts[chosen]
        again, storage = mapped(path, spec, capacity, slack, seed=99)
        assert [again.verify(state) for state in states] == ["", ""]
        again.load_state_dict(states[chosen])
        again.protect(states[: chosen + 1])
        undisturbed = feed(make_memory(spec, capacity), spec, steps[:cut], [chunk])
        undisturbed.rng.bit_generator.state = states[chosen]["rng"]
        assert (again.env_steps, again.appended, len(again)) == (undisturbed.env_steps, cut, len(undisturbed))
        assert batches(again) == batches(undisturbed)
        for _ in range(3):  # both go on
            rows = min(again.room, 20, len(steps) - again.appended)
            for memory in (again, undisturbed):
                feed(memory, spec, steps[memory.appended : memory.appended + rows], [chunk])
            assert batches(again) == batches(undisturbed)
            state = again.state_dict()
            again.protect([state])
            assert again.verify(state) == ""
        storage.close()


# --- what a checkpoint counts on ---


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
def test_a_row_that_a_checkpoint_counts_on_is_overwritten(capacity, slack, plan):
    ring, states = make_ring(capacity, slack), []
    for count in plan:
        if count is None:  # a checkpoint
            states = [*states[-1:], ring.state()]
            ring.protect(states)
            continue
        if count > ring.room:
            before = (ring.appended, ring.size)
            with pytest.raises(ValueError, match="Save a checkpoint first"):
                push(ring, count)
            assert (ring.appended, ring.size) == before
            count = ring.room
        if count:
            push(ring, count)
        assert [ring.verify(state) for state in states] == [""] * len(states)
    assert len(ring.state()["segments"]) <= capacity / max(1, slack // 8) + 2  # however often it was saved
    for _ in range(2):
        states = [*states[-1:], ring.state()]
        ring.protect(states)
    assert ring.room > slack - max(1, slack // 8)  # two checkpoints later there is always room


def test_room_has_a_limit_without_checkpoints_or_none_with_them():
    ring = make_ring(40, 16)
    assert ring.room == UNLIMITED
    push(ring, 500)
    assert ring.verify(ring.state()) == ""
    ring.protect([ring.state()])
    assert ring.room == 16
    push(ring, 5)
    assert ring.room == 11
    ring.protect([])
    assert ring.room == UNLIMITED


@pytest.mark.parametrize("slack", [0, 16])
def test_a_replay_without_checkpoints_keeps_checksums_of_overwritten_rows(slack):
    ring = make_ring(40, slack)
    for count in (3, 30, 30, 1, 17, 90, 55, 56, 57, 2):
        push(ring, count)
        state = ring.state()
        assert ring.verify(state) == ""


def test_a_checkpoint_reads_old_rows_again():
    read = []

    def checksum(begin, end, before):
        read.append((begin, end))
        return {"x": before.get("x", 0) + end - begin}

    segments = Segments(10)
    for newest in (25, 27, 27, 31):
        segments.cover(max(0, newest - 20), newest, 0, checksum)
    assert read == [(5, 10), (10, 20), (20, 25), (25, 27), (27, 30), (30, 31)]
    assert segments.state()[-2:] == [
        {"begin": 20, "end": 30, "crc": {"x": 10}},
        {"begin": 30, "end": 31, "crc": {"x": 1}},
    ]
    assert segments.state()[0]["begin"] == 10


# --- damage ---


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_trained_on(tmp_path, saved, name):
    path = tmp_path / f"{name}.bin"
    data = bytearray(path.read_bytes())
    position = saved["appended"] % (CAPACITY + SLACK) - 3  # a row that counts
    data[len(data) // (CAPACITY + SLACK) * position] ^= 1
    path.write_bytes(data)
    memory, storage = mapped(tmp_path)
    trouble = memory.verify(saved)
    assert str(path) in trouble and "checksum of its rows" in trouble
    first, last = (
        int(word) for word in trouble.split("its rows ")[1].split(" does")[0].split(" and ")[-1].split(" to ")
    )
    assert first <= position <= last
    storage.close()


def test_rows_that_do_not_count_are_found_damaged(tmp_path, saved):
    path = tmp_path / "rows.bin"
    data = bytearray(path.read_bytes())
    position = saved["appended"] % (CAPACITY + SLACK) + 1  # in the slack
    data[len(data) // (CAPACITY + SLACK) * position] ^= 1
    path.write_bytes(data)
    memory, _ = mapped(tmp_path)
    assert memory.verify(saved) == ""


def test_a_missing_file_is_replaced_by_zeros(tmp_path, saved):
    (tmp_path / "frames.bin").unlink()
    for _ in range(2):  # looking does not make it less missing
        memory, storage = mapped(tmp_path)
        assert memory.verify(saved) == f"{tmp_path / 'frames.bin'} is missing or empty."
        storage.close()
    assert (tmp_path / "rows.bin").is_file()


def test_a_new_replay_is_damaged_before_its_first_row(tmp_path):
    memory, _ = mapped(tmp_path)
    assert memory.verify(memory.state_dict()) == ""


def test_a_file_cut_short_kills_the_process(tmp_path, saved):
    memory, _ = mapped(tmp_path)
    os.truncate(tmp_path / "rows.bin", 100)
    assert memory.verify(saved).startswith(f"{tmp_path / 'rows.bin'} was cut off")


@pytest.mark.parametrize("capacity", [CAPACITY - 1, CAPACITY + 1])
def test_a_file_of_another_size_is_used(tmp_path, saved, capacity):
    with pytest.raises(UserError) as refusal:
        mapped(tmp_path, capacity=capacity)
    for part in ("rows.bin has ", f"a replay of {capacity + SLACK} rows needs ", "replay.capacity", "+restart=clean"):
        assert part in str(refusal.value)


def test_a_state_without_checksums_is_trusted(tmp_path, saved):
    memory, _ = mapped(tmp_path)
    assert "checksum" in memory.verify({**saved, "segments": saved["segments"][1:]})
    assert "do not fit a replay of 40 rows" in memory.verify({**saved, "size": 41})


@pytest.mark.skipif(os.name == "nt", reason="Windows lets nobody remove a file that is mapped")
@pytest.mark.parametrize("how", ["removed", "replaced", "cut off"])
def test_a_file_removed_under_the_run_goes_unnoticed(tmp_path, how):
    spec, path = make_spec(), tmp_path / "age.bin"
    steps = record(spec, [10, 10])
    memory, _ = mapped(tmp_path)
    feed(memory, spec, steps[:11])
    memory.seal()
    if how == "cut off":
        os.truncate(path, path.stat().st_size - 1)
    else:
        path.unlink()
    if how == "replaced":
        path.write_bytes(bytes(memory._age.nbytes))
    feed(memory, spec, steps[11:])
    with pytest.raises(UserError) as refusal:
        memory.state_dict()
    for part in (f"{path} was {how}", "+restart=clean", "run_name"):
        assert part in str(refusal.value)
    assert batches(memory) is not None  # what is mapped is still there


# --- the disk ---


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_kills_the_process(tmp_path, monkeypatch):
    spec = make_spec()
    memory, storage = mapped(tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", no_space, raising=False)
    with pytest.raises(StorageFull) as refusal:
        feed(memory, spec, record(spec, [10]))
    for part in (f"the disk of {tmp_path} is full", "rows.bin", "are free", "goes on from its last checkpoint"):
        assert part in str(refusal.value)
    assert len(memory) == memory.env_steps == memory.appended == 0
    monkeypatch.undo()
    feed(memory, spec, record(spec, [10]))
    assert len(memory) == 11
    storage.close()


def test_writing_to_a_full_disk_shows_a_traceback(tmp_path, monkeypatch):
    memory, storage = mapped(tmp_path)
    feed(memory, make_spec(), record(make_spec(), [10]))

    class Full(bytearray):
        flush = no_space

    monkeypatch.setattr(storage._arrays["rows"], "map", Full(memory._rows.nbytes))
    with pytest.raises(StorageFull, match="rows.bin"):
        memory.seal()


@pytest.mark.parametrize("why", ["absent", errno.EINVAL, errno.EOPNOTSUPP])
def test_reserving_without_the_systems_help_erases_rows(tmp_path, monkeypatch, saved, why):
    def refuse(*_):
        raise OSError(why, "no")

    if why == "absent":
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    else:
        monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    memory, storage = mapped(tmp_path)
    storage.reserve(CAPACITY + SLACK)
    assert memory.verify(saved) == ""


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the blocks are taken in another way")
def test_rows_are_written_to_pages_without_a_block(tmp_path):
    _, storage = mapped(tmp_path, capacity=20_000, slack=0)
    storage.reserve(5000)
    for path in storage.files(make_spec()):
        assert path.stat().st_blocks * 512 >= path.stat().st_size * 5000 / 20_000


def test_a_folder_that_cannot_be_made_shows_a_traceback(tmp_path):
    (tmp_path / "replay").write_text("a file")
    with pytest.raises(UserError, match=r"replay.rows\.bin cannot be opened for writing: .*run_name"):
        mapped(tmp_path / "replay")


def test_files_are_made_that_were_not_announced(tmp_path):
    for number, spec in enumerate((make_spec(), make_spec(image=None))):
        _, storage = mapped(tmp_path / str(number), spec)
        assert sorted(storage.files(spec)) == sorted((tmp_path / str(number)).iterdir())


# --- the state ---


def test_state_is_more_than_plain_data(tmp_path, saved):
    spec = make_spec()
    memory, _ = mapped(tmp_path)
    memory.load_state_dict(saved)
    memory.stat_train_return, memory.stat_test_steps = np.float32(0.1), np.int64(7)
    state = memory.state_dict()
    assert json.loads(json.dumps(state)) == state
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == state
    again = make_memory(spec, CAPACITY, storage=MemoryStorage(), slack=SLACK)
    again.load_state_dict(state)
    assert again.stat_train_return == np.float32(0.1) and again.stat_test_steps == 7
    assert again.stat_train_steps == memory.stat_train_steps


def test_counters_alone_go_on_with_an_empty_replay_of_any_size(tmp_path, saved):
    spec = make_spec()
    memory = make_memory(spec, 2 * CAPACITY, storage=MemoryStorage(), slack=SLACK)
    memory.load_counters(saved)
    assert len(memory) == 0 and memory.env_steps == saved["env_steps"] > 0
    assert memory.rng.bit_generator.state == saved["rng"]
    with pytest.raises(RuntimeError, match="empty"):
        memory.sample()
    feed(memory, spec, record(spec, [30, 30, 30]))
    assert memory.env_steps == saved["env_steps"] + 90
    assert memory.verify(memory.state_dict()) == ""
