"""Replay in files: continued after a kill, damage, full disks, plain state."""

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

from app.core.errors import UserError
from app.replay.storage import MappedStorage, MemoryStorage, StorageFull
from tests.helpers.replay import append_steps, make_memory, random_steps, replay_spec

FILES = ("rows", "age", "ends", "frames")
CAPACITY, SLACK = 40, 16


def batches(memory, count=2):
    """Digests of some sampled batches; None where nothing can be sampled."""
    try:
        return [digest(memory.sample()) for _ in range(count)]
    except RuntimeError:
        return None


def digest(batch):
    """SHA-256 of all tensors of a batch."""
    tensors = [
        *batch.obs.values(),
        *batch.next_obs.values(),
        *(part for part in batch if isinstance(part, torch.Tensor)),
    ]
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


def open_mapped(folder, spec=None, capacity=CAPACITY, slack=SLACK, seed=0):
    """A replay in files, and its storage."""
    storage = MappedStorage(Path(folder))
    return make_memory(spec or replay_spec(), capacity, seed=seed, storage=storage, slack=slack), storage


def temporary_folder():
    return tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # Windows keeps what is mapped


@pytest.fixture
def saved(tmp_path):
    """A closed replay that has wrapped, in ``tmp_path``, and its state."""
    memory, storage = open_mapped(tmp_path)
    append_steps(memory, replay_spec(), random_steps(replay_spec(), [20] * 6))
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
def test_replay_in_files_samples_the_same_batches_as_one_in_memory(image, lengths, capacity, slack, chunks, n_step):
    spec = replay_spec(image=image)
    steps = random_steps(spec, lengths)
    in_memory = append_steps(make_memory(spec, capacity, n_step=n_step), spec, steps, chunks)
    with temporary_folder() as path:
        storage = MappedStorage(Path(path))
        in_files = make_memory(spec, capacity, n_step=n_step, storage=storage, slack=slack)
        append_steps(in_files, spec, steps, chunks)
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
def test_killed_replay_continues_from_either_checkpoint(before, after, capacity, slack, chunk, newest, seed):
    """It continues from the last checkpoint and from the one before it, also when the ring has wrapped."""
    spec = replay_spec()
    steps = random_steps(spec, [int(length) for length in np.random.default_rng(seed).integers(0, 15, 40)], seed)
    with temporary_folder() as path:
        killed, _ = open_mapped(path, spec, capacity, slack)
        states, cuts = [], []
        for rows in before:
            rows = min(rows, killed.free_rows, len(steps) - killed.appended)
            append_steps(killed, spec, steps[killed.appended : killed.appended + rows], [chunk])
            batches(killed)  # advances the random generator
            states.append(json.loads(json.dumps(killed.state_dict())))
            cuts.append(killed.appended)
            killed.pin(states)
        rows = min(after, killed.free_rows, len(steps) - killed.appended)
        append_steps(killed, spec, steps[killed.appended : killed.appended + rows], [chunk])
        batches(killed)  # never closed, never flushed: killed

        chosen = 1 if newest else 0
        cut = cuts[chosen]
        again, storage = open_mapped(path, spec, capacity, slack, seed=99)
        assert [again.find_damage(state) for state in states] == [None, None]
        again.load_state_dict(states[chosen])
        again.pin(states[: chosen + 1])
        undisturbed = append_steps(make_memory(spec, capacity), spec, steps[:cut], [chunk])
        undisturbed.rng.bit_generator.state = states[chosen]["rng"]
        assert (again.env_steps, again.appended, len(again)) == (undisturbed.env_steps, cut, len(undisturbed))
        assert batches(again) == batches(undisturbed)
        for _ in range(3):  # both continue
            rows = min(again.free_rows, 20, len(steps) - again.appended)
            for memory in (again, undisturbed):
                append_steps(memory, spec, steps[memory.appended : memory.appended + rows], [chunk])
            assert batches(again) == batches(undisturbed)
            state = again.state_dict()
            again.pin([state])
            assert again.find_damage(state) is None
        storage.close()


# --- damage ---


@pytest.mark.parametrize("name", FILES)
def test_flipped_byte_is_found(tmp_path, saved, name):
    path = tmp_path / f"{name}.bin"
    data = bytearray(path.read_bytes())
    position = saved["appended"] % (CAPACITY + SLACK) - 3  # a row that counts
    data[len(data) // (CAPACITY + SLACK) * position] ^= 1
    path.write_bytes(data)
    memory, storage = open_mapped(tmp_path)
    damage = memory.find_damage(saved)
    assert str(path) in damage and "checksum of its rows" in damage
    first, last = (
        int(word) for word in damage.split("its rows ")[1].split(" does")[0].split(" and ")[-1].split(" to ")
    )
    assert first <= position <= last
    storage.close()


def test_damage_in_the_slack_is_ignored(tmp_path, saved):
    path = tmp_path / "rows.bin"
    data = bytearray(path.read_bytes())
    position = saved["appended"] % (CAPACITY + SLACK) + 1  # in the slack
    data[len(data) // (CAPACITY + SLACK) * position] ^= 1
    path.write_bytes(data)
    memory, _ = open_mapped(tmp_path)
    assert memory.find_damage(saved) is None


def test_missing_file_is_reported_every_time(tmp_path, saved):
    (tmp_path / "frames.bin").unlink()
    for _ in range(2):  # looking does not make it less missing
        memory, storage = open_mapped(tmp_path)
        assert memory.find_damage(saved) == f"{tmp_path / 'frames.bin'} is missing or empty."
        storage.close()
    assert (tmp_path / "rows.bin").is_file()


def test_new_replay_is_undamaged_before_its_first_row(tmp_path):
    memory, _ = open_mapped(tmp_path)
    assert memory.find_damage(memory.state_dict()) is None


def test_file_cut_short_is_reported(tmp_path, saved):
    memory, _ = open_mapped(tmp_path)
    os.truncate(tmp_path / "rows.bin", 100)
    assert memory.find_damage(saved).startswith(f"{tmp_path / 'rows.bin'} was cut off")


@pytest.mark.parametrize("capacity", [CAPACITY - 1, CAPACITY + 1])
def test_file_of_another_size_is_refused(tmp_path, saved, capacity):
    with pytest.raises(UserError) as refusal:
        open_mapped(tmp_path, capacity=capacity)
    for part in ("rows.bin has ", f"a replay of {capacity + SLACK} rows needs ", "replay.capacity", "+restart=clean"):
        assert part in str(refusal.value)


def test_state_without_all_checksums_is_refused(tmp_path, saved):
    memory, _ = open_mapped(tmp_path)
    assert "checksum" in memory.find_damage({**saved, "segments": saved["segments"][1:]})
    assert "do not fit a replay of 40 rows" in memory.find_damage({**saved, "size": 41})


@pytest.mark.skipif(os.name == "nt", reason="Windows lets nobody remove a file that is mapped")
@pytest.mark.parametrize("how", ["removed", "replaced", "cut off"])
def test_file_changed_while_in_use_is_reported(tmp_path, how):
    spec, path = replay_spec(), tmp_path / "age.bin"
    steps = random_steps(spec, [10, 10])
    memory, _ = open_mapped(tmp_path)
    append_steps(memory, spec, steps[:11])
    memory.flush()
    if how == "cut off":
        os.truncate(path, path.stat().st_size - 1)
    else:
        path.unlink()
    if how == "replaced":
        path.write_bytes(bytes(memory._age.nbytes))
    append_steps(memory, spec, steps[11:])
    with pytest.raises(UserError) as refusal:
        memory.state_dict()
    for part in (f"{path} was {how}", "+restart=clean", "run_name"):
        assert part in str(refusal.value)
    assert batches(memory) is not None  # what is mapped is still there


# --- the disk ---


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_is_reported_and_nothing_is_appended(tmp_path, monkeypatch):
    spec = replay_spec()
    memory, storage = open_mapped(tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", no_space, raising=False)
    with pytest.raises(StorageFull) as refusal:
        append_steps(memory, spec, random_steps(spec, [10]))
    for part in (f"the disk of {tmp_path} is full", "rows.bin", "are free", "continues from its last checkpoint"):
        assert part in str(refusal.value)
    assert len(memory) == memory.env_steps == memory.appended == 0
    monkeypatch.undo()
    append_steps(memory, spec, random_steps(spec, [10]))
    assert len(memory) == 11
    storage.close()


def test_flush_to_a_full_disk_is_reported(tmp_path, monkeypatch):
    memory, storage = open_mapped(tmp_path)
    append_steps(memory, replay_spec(), random_steps(replay_spec(), [10]))

    class Full(bytearray):
        flush = no_space

    monkeypatch.setattr(storage._arrays["rows"], "map", Full(memory._rows.nbytes))
    with pytest.raises(StorageFull, match="rows.bin"):
        memory.flush()


@pytest.mark.parametrize("why", ["absent", errno.EINVAL, errno.EOPNOTSUPP])
def test_rows_survive_reserving_without_posix_fallocate(tmp_path, monkeypatch, saved, why):
    def refuse(*_):
        raise OSError(why, "no")

    if why == "absent":
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    else:
        monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    memory, storage = open_mapped(tmp_path)
    storage.reserve(CAPACITY + SLACK)
    assert memory.find_damage(saved) is None


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the blocks are taken in another way")
def test_reserved_rows_have_blocks_on_the_disk(tmp_path):
    _, storage = open_mapped(tmp_path, capacity=20_000, slack=0)
    storage.reserve(5000)
    for path in storage.files(replay_spec()):
        assert path.stat().st_blocks * 512 >= path.stat().st_size * 5000 / 20_000


def test_folder_that_cannot_be_created_is_reported(tmp_path):
    (tmp_path / "replay").write_text("a file")
    with pytest.raises(UserError, match=r"replay.rows\.bin cannot be opened for writing: .*run_name"):
        open_mapped(tmp_path / "replay")


def test_announced_files_are_those_that_are_created(tmp_path):
    for number, spec in enumerate((replay_spec(), replay_spec(image=None))):
        _, storage = open_mapped(tmp_path / str(number), spec)
        assert sorted(storage.files(spec)) == sorted((tmp_path / str(number)).iterdir())


# --- the state ---


def test_state_is_plain_data(tmp_path, saved):
    spec = replay_spec()
    memory, _ = open_mapped(tmp_path)
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


def test_counters_alone_continue_with_an_empty_replay_of_any_size(tmp_path, saved):
    spec = replay_spec()
    memory = make_memory(spec, 2 * CAPACITY, storage=MemoryStorage(), slack=SLACK)
    memory.load_counters(saved)
    assert len(memory) == 0 and memory.env_steps == saved["env_steps"] > 0
    assert memory.rng.bit_generator.state == saved["rng"]
    with pytest.raises(RuntimeError, match="empty"):
        memory.sample()
    append_steps(memory, spec, random_steps(spec, [30, 30, 30]))
    assert memory.env_steps == saved["env_steps"] + 90
    assert memory.find_damage(memory.state_dict()) is None
