"""Files that are replaced as a whole, durably, or not at all."""

import io
import json
import os
from pathlib import Path

import pytest

from app.core.atomic_files import append_line, atomic_write, process_exists, write_json
from tests.helpers.processes import dead_pid


def test_failed_replacement_leaves_the_file_unchanged(tmp_path):
    path = tmp_path / "state.json"
    write_json(path, {"a": 1})
    with pytest.raises(KeyError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert json.loads(path.read_text()) == {"a": 1} and os.listdir(tmp_path) == ["state.json"]


def test_leftovers_of_dead_writers_are_removed_and_others_stay(tmp_path):
    path = tmp_path / "st[a]te.pt"
    gone = [f".st[a]te.{pid}.tmp.pt" for pid in (dead_pid(), os.getpid())]
    stay = [f".st[a]te.{os.getppid()}.tmp.pt", f".state.{dead_pid()}.tmp.pt", ".st[a]te.x.tmp.pt", ".st[a]te..tmp.pt"]
    for name in gone + stay:
        (tmp_path / name).write_text("")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, *stay])


def test_replacement_is_synced_before_it_is_renamed_and_its_folder_after(tmp_path, monkeypatch):
    calls, fsync, rename = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("rename"), rename(*paths)))
    write_json(tmp_path / "a.json", 1)
    assert calls == (["fsync", "rename"] if os.name == "nt" else ["fsync", "rename", "fsync"])


def test_kept_file_moves_only_when_the_new_file_is_complete_and_durable(tmp_path, monkeypatch):
    path, before = tmp_path / "last.pt", tmp_path / "previous.pt"
    path.write_text("old")
    calls, fsync, rename = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append(f"to {paths[1].name}"), rename(*paths)))
    with atomic_write(path, keep_as=before) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and not before.exists()
    assert calls == ["fsync", "to previous.pt", "to last.pt", *([] if os.name == "nt" else ["fsync"])]
    assert (path.read_text(), before.read_text()) == ("new", "old")


def test_failed_replacement_does_not_move_the_kept_file(tmp_path):
    path, before = tmp_path / "last.pt", tmp_path / "previous.pt"
    path.write_text("old")
    before.write_text("older")
    with pytest.raises(KeyError), atomic_write(path, keep_as=before) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert (path.read_text(), before.read_text()) == ("old", "older")


def test_first_file_leaves_no_kept_file(tmp_path):
    with atomic_write(tmp_path / "last.pt", keep_as=tmp_path / "previous.pt") as temporary:
        temporary.write_text("new")
    assert os.listdir(tmp_path) == ["last.pt"]


def test_only_living_processes_are_alive():
    assert process_exists(os.getpid())
    assert not any(map(process_exists, (dead_pid(), 0, 10**30)))


def test_incomplete_line_is_removed_at_once(tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, data):
            return super().write(data[:5])

    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"{}\n")
    monkeypatch.setattr(Path, "open", lambda self, *_, **__: Full(self, "a+"))
    with pytest.raises(OSError, match="No space left"):
        append_line(path, '{"step": 1}')
    monkeypatch.undo()
    assert path.read_bytes() == b"{}\n"
