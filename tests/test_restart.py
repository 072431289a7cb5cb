"""Restart of a run: receipts, archives, refusals, links that are swapped in, and errors half way."""

import errno
import json
import os
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.core.errors import UserError
from app.runs.manifest import KINDS, Manifest
from app.runs.restart import safe_fs
from app.runs.restart.apply import archive, remove
from app.runs.restart.plan import plan_folder
from app.runs.restart.safe_fs import Folder
from app.runs.run_folder import unused_timestamp
from tests.helpers.restart import listed_world, needs_links, shown, snapshot


@pytest.fixture
def w(tmp_path):
    return listed_world(tmp_path)


def test_receipt_lists_the_removed_files(w):
    plan = w.plan(("checkpoints", "replay"))
    receipt = remove(plan)
    content = json.loads(receipt.path.read_text("utf-8"))
    assert receipt.path == w.root / "history" / receipt.time / "receipt.json"
    assert content == {
        "mode": "delete",
        "targets": ["checkpoints", "replay"],
        "time": receipt.time,
        "complete": True,
        "bytes": 57,
        "moved_to": None,
        "files": [
            {"kind": "replay", "path": str(w.root / "replay" / "rows.bin"), "bytes": 15},
            {"kind": "checkpoints", "path": str(w.root / "checkpoints" / "last.pt"), "bytes": 19},
            {"kind": "checkpoints", "path": str(w.root / "checkpoints" / "previous.pt"), "bytes": 23},
        ],
        "left": [],
        "refused": [],
    }
    kept = ["best", "checkpoints", "config.yaml", "history", "manifest.json", "metrics.jsonl"]
    assert sorted(os.listdir(w.root)) == kept
    assert os.listdir(w.root / "checkpoints") == ["mine.txt"]


def test_two_restarts_in_one_second_leave_two_receipts_and_archives(w):
    first = archive(w.plan(("replay",)))
    second = archive(w.plan(("weights",)))
    assert first.path != second.path and first.path.is_file() and second.path.is_file()
    assert (first.moved_to / "replay" / "rows.bin").read_text() == "replay/rows.bin"
    assert (second.moved_to / "best" / "actor.safetensors").read_text() == "best/actor.safetensors"
    assert json.loads(second.path.read_text("utf-8"))["moved_to"] == str(second.moved_to)


def test_unused_timestamp_avoids_history_and_archive(tmp_path):
    times = []
    for place in ("history", "archive", "history"):
        times.append(unused_timestamp(tmp_path))
        (tmp_path / place / times[-1]).mkdir(parents=True)
    assert len(set(times)) == 3


def test_second_restart_has_nothing_to_remove(w):
    remove(w.plan())
    before = snapshot(w.top)
    plan = w.plan()
    assert not plan.items and plan.bytes == 0 and remove(plan).path is None
    assert snapshot(w.top) == before


def test_missing_folder_has_an_empty_plan_and_is_not_made(tmp_path):
    assert plan_folder(tmp_path / "runs" / "new", tmp_path / "runs", KINDS).items == ()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("root", ["outside", "runs", "."])
def test_folder_outside_the_data_root_is_refused(w, root):
    with pytest.raises(UserError, match="restart works only on folders below"):
        plan_folder(w.top / root, w.data, KINDS)


@needs_links
@pytest.mark.parametrize("depth", [1, 2])
def test_run_folder_behind_a_link_is_refused(w, depth):
    Manifest.open(w.outside).add("replay", w.outside / "victim")
    Manifest.open(w.outside / "inner").add("replay", w.outside / "inner" / "a")
    (w.data / "linked").symlink_to(w.outside)
    root = w.data / "linked" if depth == 1 else w.data / "linked" / "inner"
    before = snapshot(w.top)
    with pytest.raises(UserError, match=r"linked is a symbolic link"):
        plan_folder(root, w.data, KINDS)
    assert snapshot(w.top) == before


@needs_links
def test_data_root_may_be_a_link_to_another_disk(w):
    (w.top / "shortcut").symlink_to(w.data)
    plan = plan_folder(w.top / "shortcut" / w.root.name, w.top / "shortcut", ("replay",))
    assert [item.bytes for item in remove(plan).done] == [15]
    assert not (w.root / "replay").exists()


@needs_links
@pytest.mark.parametrize("act", [remove, archive])
def test_link_in_place_of_a_folder_after_planning_is_not_followed(w, act):
    plan = w.plan()
    os.rename(w.root / "replay", w.root / "aside")
    (w.outside / "rows.bin").write_text("theirs")
    (w.root / "replay").symlink_to(w.outside)
    before = snapshot(w.top)
    with pytest.raises(UserError, match=r"replay is a symbolic link\. Nothing was changed"):
        act(plan)
    assert snapshot(w.top) == before


@needs_links
@pytest.mark.parametrize("act", [remove, archive])
@pytest.mark.parametrize("swapped", ["parent", "file", "root"])
def test_link_swapped_in_after_the_last_check_is_not_followed(w, act, swapped, monkeypatch):
    plan, hold = w.plan(("replay",)), Folder.open.__func__
    (w.outside / "replay").mkdir()
    for path in (w.outside / "rows.bin", w.outside / "replay" / "rows.bin"):
        path.write_text("theirs")
    outside = snapshot(w.outside)

    @contextmanager
    def swap_then_hold(base, path, make=False):
        if path.name == "replay" and not make:
            place = {"parent": path, "file": path / "rows.bin", "root": w.root}[swapped]
            os.rename(place, w.top / "aside")
            place.symlink_to(w.outside / "rows.bin" if swapped == "file" else w.outside)
        with hold(Folder, base, path, make) as folder:
            yield folder

    monkeypatch.setattr(Folder, "open", swap_then_hold)
    with pytest.raises(UserError, match="restart stopped here"):
        act(plan)
    inside = {path: node for path, node in snapshot(w.outside).items() if not path.startswith("history")}
    assert inside == outside


@needs_links
@pytest.mark.parametrize("name", ["history", "archive"])
def test_receipt_and_archive_are_not_written_through_a_link(w, name):
    (w.root / name).symlink_to(w.outside)
    before = snapshot(w.top)
    with pytest.raises(UserError, match="nothing was removed, because no record can be kept"):
        archive(w.plan())
    after = snapshot(w.top)
    assert before.items() <= after.items()
    assert all(path.startswith(w.path("history")) for path in set(after) - set(before))


@pytest.mark.parametrize("act", [remove, archive])
def test_error_half_way_reports_what_was_done(w, act, monkeypatch):
    plan, calls = w.plan(), []
    assert len(plan.items) == 4
    name = "unlink" if act is remove else "move"
    real = getattr(Folder, name)

    def fail_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise OSError(errno.EIO, "Input/output error")
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, name, fail_third)
        with pytest.raises(UserError, match=r"stopped here \(Input/output error\) after 2 of 4 files") as refusal:
            act(plan)
    (time,) = os.listdir(w.root / "history")
    path = w.root / "history" / time / "receipt.json"
    content = json.loads(path.read_text("utf-8"))
    assert str(refusal.value).startswith(str(plan.items[2].path)) and str(path) in str(refusal.value)
    assert not content["complete"]
    assert [entry["path"] for entry in content["files"]] == [str(item.path) for item in plan.items[:2]]
    assert [entry["path"] for entry in content["left"]] == [str(item.path) for item in plan.items[2:]]
    assert len(Manifest.open(w.root).entries(KINDS)) == 2
    assert len(act(w.plan()).done) == 2  # the same command again does the rest
    assert Manifest.open(w.root).entries(KINDS) == ()


@pytest.mark.parametrize("holds", [True, False])
def test_archive_on_another_file_system_holds_the_same_bytes(w, holds, monkeypatch):
    def other_device(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(safe_fs, "_HAS_DIR_FDS", holds and safe_fs._HAS_DIR_FDS)
    monkeypatch.setattr(os, "rename", other_device)
    plan = w.plan()
    receipt = archive(plan)
    for item in plan.items:
        assert not item.path.exists()
        kept = receipt.moved_to / item.path.relative_to(w.root)
        assert kept.read_text() == item.path.relative_to(w.root).as_posix()


def test_failed_copy_leaves_the_file_and_no_partial_copy(w, monkeypatch):
    def fail(error):
        def call(*_: object, **__: object) -> None:
            raise OSError(error, os.strerror(error))

        return call

    monkeypatch.setattr(os, "rename", fail(errno.EXDEV))
    monkeypatch.setattr("shutil.copyfileobj", fail(errno.ENOSPC))
    with pytest.raises(UserError, match="after 0 of 1 files"):
        archive(w.plan(("replay",)))
    assert (w.root / "replay" / "rows.bin").read_text() == "replay/rows.bin"
    assert not [path for path in (w.root / "archive").rglob("*") if path.is_file()]


@needs_links
def test_links_are_refused_where_folders_have_no_file_descriptors(w, monkeypatch):
    monkeypatch.setattr(safe_fs, "_HAS_DIR_FDS", False)
    (w.data / "linked").symlink_to(w.outside)
    with pytest.raises(OSError, match="linked is a symbolic link"), Folder.open(w.data, w.data / "linked" / "x", True):
        pass
    assert len(archive(w.plan(("weights",))).done) == 1
    assert len(remove(w.plan()).done) == 3


def test_printed_plan_shows_every_file_and_the_total(w, monkeypatch):
    monkeypatch.chdir(w.top)
    text = shown(w.plan(), "delete", False)
    assert all(word in text for word in ("removes", "rows.bin", "15 bytes", "total", "4 files", "79 bytes"))
    assert str(Path("runs", w.root.name, "replay", "rows.bin")) in text and str(w.top) not in text
    assert "would move to the archive" in shown(w.plan(), "archive", True)
    assert "dry run: nothing was changed" in shown(w.plan(), "archive", True)


@needs_links
def test_printed_plan_shows_what_is_left_alone_and_that_there_is_nothing_to_remove(w):
    remove(w.plan())
    assert "there is nothing to remove" in shown(w.plan(), "delete", False)
    w.make("replay/[red]x", "link out", b"", 0o644)
    w.list([("replay/[red]x", "replay")])
    text = " ".join(shown(w.plan(), "delete", False).split())
    assert "left alone" in text and "[red]x is a symbolic link" in text
