"""Manifest: the files that it lists, and the contents that it refuses."""

import json
import os
from pathlib import Path, PurePosixPath

import pytest

from app.core.errors import UserError
from app.runs.manifest import KINDS, Entry, Manifest


def listed(root) -> list[tuple[str, str]]:
    return [(entry.kind, str(entry.path)) for entry in Manifest.open(root).entries(KINDS)]


def test_missing_manifest_is_empty(tmp_path):
    assert Manifest.open(tmp_path).entries(KINDS) == ()
    assert not os.listdir(tmp_path)


def test_added_files_are_remembered(tmp_path):
    manifest = Manifest.open(tmp_path)
    manifest.add("weights", tmp_path / "best" / "actor.safetensors")
    manifest.add("replay", tmp_path / "replay" / "rows.bin", tmp_path / "replay" / "with space ü 日本.bin")
    again = Manifest.open(tmp_path)
    assert again.entries(KINDS) == manifest.entries(KINDS)
    assert again.entries(["weights"]) == (Entry("weights", PurePosixPath("best/actor.safetensors")),)
    assert [entry.path.name for entry in again.entries({"replay"})] == ["rows.bin", "with space ü 日本.bin"]
    assert again.entries([]) == ()


def test_manifest_is_written_only_if_it_changes(tmp_path):
    manifest = Manifest.open(tmp_path)
    manifest.add("replay", tmp_path / "rows.bin")
    before = (tmp_path / "manifest.json").stat()
    manifest.add("replay", tmp_path / "rows.bin")
    manifest.discard([tmp_path / "never.bin"])
    assert (tmp_path / "manifest.json").stat().st_ino == before.st_ino
    assert (tmp_path / "manifest.json").stat().st_mtime_ns == before.st_mtime_ns


def test_discarded_files_are_forgotten(tmp_path):
    manifest = Manifest.open(tmp_path)
    manifest.add("replay", tmp_path / "a.bin", tmp_path / "b.bin")
    manifest.discard([tmp_path / "a.bin"])
    assert listed(tmp_path) == [("replay", "b.bin")]


def test_relative_paths_start_at_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Manifest.open(tmp_path / "runs" / "x").add("replay", tmp_path / "runs" / "x" / "a.bin")
    Manifest.open(Path("runs/x")).add("replay", Path("runs/x/b.bin"))
    assert listed(tmp_path / "runs" / "x") == [("replay", "a.bin"), ("replay", "b.bin")]


def test_path_outside_or_of_two_kinds_raises_value_error(tmp_path):
    manifest = Manifest.open(tmp_path / "run")
    for path in (tmp_path / "other", tmp_path / "run" / ".." / "other"):
        with pytest.raises(ValueError, match="other"):
            manifest.add("replay", path)
    manifest.add("replay", tmp_path / "run" / "a")
    with pytest.raises(ValueError, match="is listed as 'replay'"):
        manifest.add("weights", tmp_path / "run" / "a")
    with pytest.raises(ValueError, match="none of"):
        manifest.add("videos", tmp_path / "run" / "b")
    assert listed(tmp_path / "run") == [("replay", "a")]


@pytest.mark.parametrize("name", ["manifest.json", ".lock", "config.yaml", "History/x", "archive/x/y", "a\nb", "c:x"])
def test_name_that_cannot_be_listed_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="cannot be listed"):
        Manifest.open(tmp_path).add("weights", tmp_path / name)
    assert listed(tmp_path) == []


def content(*paths, kind="replay", version=1) -> str:
    return json.dumps({"format": version, "files": {kind: list(paths)}})


HOSTILE = {
    "no JSON": ("{", "Expecting"),
    "bytes": ("\udcff", "utf-8"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "half a character": (r'{"format": 1, "files": {"study": ["\ud800"]}}', "surrogates"),
    "a list": ("[]", "must hold"),
    "no files": ('{"format": 1}', "must hold"),
    "more keys": ('{"format": 1, "files": {}, "x": 1}', "must hold"),
    "another format": (content(version=2), "its format is 2"),
    "a true format": (content(version=True), "its format is True"),
    "files is a list": ('{"format": 1, "files": []}', "must map"),
    "an unknown kind": (content("a", kind="videos"), "'videos' is none of"),
    "not a list": ('{"format": 1, "files": {"replay": "a"}}', "must be a list"),
    "a number": (content(5), "5 is not a path"),
    "two kinds": ('{"format": 1, "files": {"replay": ["a"], "weights": ["a"]}}', "two kinds"),
    **{
        f"path {path!r}": (content(path), "the path")
        for path in (
            "", ".", "..", "../x", "a/../../x", "a/..", "./a", "a//b", "a/", "/etc/passwd", "//host/share",
            "C:\\x", "C:x", "C:/x", "a\\..\\b", "\\\\host\\share", "a\0b", "a\nb", "*", "a:stream",
            "manifest.json", "MANIFEST.JSON", ".lock", ".owner.json", "config.yaml", "metrics.jsonl", "history/x",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_damaged_or_hostile_manifest_is_refused_with_the_reason(tmp_path, case):
    text, reason = HOSTILE[case]
    (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError) as refusal:
        Manifest.open(tmp_path)
    message = str(refusal.value)
    assert message.startswith(f"{tmp_path / 'manifest.json'}: ") and reason in message and "by hand" in message
    assert "\n" not in message


@pytest.mark.skipif(os.name == "nt", reason="needs the right to make links")
def test_manifest_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "other.json").write_text(content("a"))
    (tmp_path / "manifest.json").symlink_to(tmp_path / "other.json")
    with pytest.raises(UserError, match="not a regular file"):
        Manifest.open(tmp_path)


def test_manifest_that_cannot_be_written_is_reported_and_unchanged(tmp_path, monkeypatch):
    manifest = Manifest.open(tmp_path)
    manifest.add("replay", tmp_path / "a")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(UserError, match=r"manifest.json: cannot be written \(No space left on device\)"):
            manifest.add("replay", tmp_path / "b")
    assert listed(tmp_path) == [("replay", "a")]
    manifest.add("replay", tmp_path / "b")
    assert listed(tmp_path) == [("replay", "a"), ("replay", "b")]
