"""The model of a disk finds what a missing fsync leaves, and nothing else."""

import mmap
import os
import random

import pytest
import torch
from torch import nn

from app.core.atomic_files import append_line, atomic_write
from app.core.errors import UserError
from app.runs.lock import Lock
from app.runs.run_folder import RunFolder, load_weights
from tests.helpers.crash_disk import SECTOR, Disk, Recorder, crash_states, crash_trees, write_tree
from tests.helpers.stopped_runs import Killed

OLD, NEW = b"o" * 3 * SECTOR, b"n" * 4 * SECTOR


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "file").write_bytes(OLD)
    return tmp_path / "disk"


def contents(recorder: Recorder, name: str = "file") -> set[bytes | None]:
    """Contents of a file after every power cut; None where it is missing."""
    return {tree.get(name) for _, tree in crash_states(recorder, 10_000, seed=0)}


def last_contents(recorder: Recorder, name: str = "file") -> set[bytes | None]:
    """Contents of a file after a power cut at the end of the recording."""
    disk = Disk(recorder)
    for event in recorder.events:
        disk.apply(event)
    return {tree.get(name) for tree in crash_trees(disk, random.Random(0), 100)}


def record_write(folder, content: bytes, *, sync: bool, sync_folder: bool = True) -> Recorder:
    """Record a file that is written beside the old one and renamed."""
    recorder = Recorder(folder)
    with recorder.recording():
        with (folder / "temporary").open("wb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(folder / "temporary", folder / "file")
        if sync_folder:
            handle = os.open(folder, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
    return recorder


def test_atomic_write_leaves_the_old_file_or_the_new_one(folder):
    recorder = Recorder(folder)
    with recorder.recording(), atomic_write(folder / "file") as temporary:
        temporary.write_bytes(NEW)
    assert contents(recorder) == {OLD, NEW}


def test_rename_without_fsync_leaves_empty_and_torn_files(folder):
    found = contents(record_write(folder, NEW, sync=False))
    assert {OLD, NEW, b"", bytes(len(NEW))} < found
    assert any(0 < content.count(b"n") % SECTOR for content in found)


def test_rename_without_fsync_of_the_folder_may_be_lost_at_the_end(folder):
    recorder = record_write(folder, NEW, sync=True, sync_folder=False)
    assert last_contents(recorder) == {OLD, NEW}
    assert last_contents(record_write(folder, OLD, sync=True)) == {OLD}


def test_two_renames_in_a_folder_may_be_reordered(folder):
    recorder = Recorder(folder)
    with recorder.recording(), atomic_write(folder / "file", keep_as=folder / "previous") as temporary:
        temporary.write_bytes(NEW)
    found = {(tree.get("file"), tree.get("previous")) for _, tree in crash_states(recorder, 10_000, seed=0)}
    assert found == {(OLD, None), (None, OLD), (NEW, None), (NEW, OLD)}


def test_flush_of_mapped_pages_makes_no_other_page_durable(folder):
    size = 2 * mmap.PAGESIZE
    (folder / "file").write_bytes(bytes(size))
    recorder = Recorder(folder)
    with recorder.recording(), (folder / "file").open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), size)
        mapped[0] = mapped[-1] = 1
        mapped.flush(0, mmap.PAGESIZE)
    assert {content[:1] + content[-1:] for content in last_contents(recorder)} == {b"\1\0", b"\1\1"}


def test_killed_program_changes_nothing_any_more(folder):
    recorder = Recorder(folder)
    recorder.kill_after(1)
    with recorder.recording(), pytest.raises(Killed), atomic_write(folder / "file") as temporary:
        temporary.write_bytes(NEW)
    assert (folder / "file").read_bytes() == OLD
    assert len(list(folder.iterdir())) == 2  # what a killed program cannot remove is left


def test_folder_that_an_earlier_process_made_becomes_durable(folder):
    """It may have been killed between making the folder and syncing its name."""
    recorder = Recorder(folder)
    with recorder.recording():
        os.mkdir(folder / "run")
        with Lock(folder / "run", "run"), atomic_write(folder / "run" / "file") as temporary:
            temporary.write_bytes(NEW)
    assert last_contents(recorder, "run/file") == {NEW}


def test_state_is_written_as_it_was(folder, tmp_path):
    os.mkdir(folder / "inner")
    (folder / "inner" / "file").write_bytes(NEW)
    recorder = Recorder(folder)
    recorder.mark("nothing")
    ((_, tree),) = crash_states(recorder, 10, seed=0)
    write_tree(tree, tmp_path / "copy")
    assert (tmp_path / "copy" / "inner" / "file").read_bytes() == NEW


def test_best_policy_has_its_result_and_its_networks_in_every_state(folder):
    run = RunFolder(folder / "run")
    run.save_best(nn.Linear(1, 1), nn.Linear(1, 1), {"return": 1.0}, {})
    recorder = Recorder(folder)
    with recorder.recording():
        run.save_best(nn.Linear(2, 2), nn.Linear(2, 2), {"return": 2.0}, {})
    new = {str(path.relative_to(folder)): path.read_bytes() for path in run.best_actor.parent.iterdir()}
    states = [{path: tree[path] for path in new} for _, tree in crash_states(recorder, 10_000, seed=0)]
    actor = str(run.best_actor.relative_to(folder))
    assert {state == new for state in states if state[actor] == new[actor]} == {True}
    assert any(state[actor] != new[actor] for state in states)


def test_best_networks_are_those_of_the_best_policy_or_refused(folder, tmp_path):
    run, old, new = RunFolder(folder / "run"), nn.Linear(2, 2), nn.Linear(2, 2)
    run.save_best(old, old, {"return": 1.0}, {})
    recorder, refused = Recorder(folder), 0
    with recorder.recording():
        run.save_best(new, new, {"return": 2.0}, {})
    states = list(crash_states(recorder, 30, seed=0))
    for number, (_, tree) in enumerate(states):
        write_tree(tree, tmp_path / str(number))
        found = RunFolder(tmp_path / str(number) / "run")
        try:
            assert torch.equal(found.best_networks()["weight"], load_weights(found.best_actor)["weight"])
        except UserError as error:
            assert "belongs to another policy" in str(error)
            refused += 1
    assert 0 < refused < len(states)


def test_line_that_follows_a_torn_one_can_be_read(folder):
    (folder / "file").write_bytes(b'{"whole": 1}\n{"to')
    recorder = Recorder(folder)
    with recorder.recording():
        append_line(folder / "file", '{"next": 2}')
    assert last_contents(recorder, "file") == {b'{"whole": 1}\n{"to\n{"next": 2}\n'}
