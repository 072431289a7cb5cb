"""Restart on random trees: exactly the listed files are taken, and not one byte more."""

import io
import os
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from app.core.errors import UserError
from app.runs.manifest import KINDS, Manifest
from app.runs.restart.apply import archive, remove
from app.runs.restart.clear_run import print_plan
from tests.helpers.restart import World, needs_links, snapshot

NAMES = st.sampled_from(["a", "b c", "ü", "日本\u3000語", "-rf", "~", "$HOME", "it's", ".hidden", "x.pkl", "100%"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
NODES = st.sampled_from(["file"] * 6 + ["folder", "link out", "folder link out", "link in", "dangling", "pipe"])
HOSTILE = ["../../outside/victim", "/etc/hostname", "a/../../other/a", "", ".", "C:\\x", "..\\x", "manifest.json"]
TREES = st.dictionaries(PATHS, st.tuples(NODES, st.binary(max_size=9), st.sampled_from([0o644, 0o444])), max_size=12)
LISTED = st.lists(st.tuples(PATHS, st.sampled_from(KINDS)), max_size=8, unique_by=lambda entry: entry[0])


@contextmanager
def world():
    with tempfile.TemporaryDirectory() as top:
        yield World(Path(os.path.realpath(top)))


def without(before: dict[str, tuple], w: World, gone: set[str]) -> dict[str, tuple]:
    """Return a snapshot without some files of the root, and without those of their folders that become empty."""
    after = {path: node for path, node in before.items() if path not in {w.path(path) for path in gone}}
    folders = {str(parent) for path in gone for parent in Path(path).parents} - {"."}
    for folder in sorted(folders, key=len, reverse=True):
        if not any(path.startswith(w.path(folder) + os.sep) for path in after):
            del after[w.path(folder)]
    return after


def split(after: dict[str, tuple], w: World) -> tuple[dict[str, tuple], dict[str, tuple]]:
    """Return the part of a snapshot that a restart adds (history, archive, the new manifest), and all the rest."""
    ours = tuple(w.path(name) for name in ("manifest.json", "history", "archive"))
    added = {path: node for path, node in after.items() if path.startswith(ours)}
    return added, {path: node for path, node in after.items() if path not in added}


@needs_links
@settings(max_examples=120, deadline=None)
@given(TREES, LISTED, st.sets(st.sampled_from(KINDS)), st.sampled_from([remove, archive]))
def test_exactly_the_listed_files_are_taken(tree, listed, targets, act):
    with world() as w:
        for path, node in tree.items():
            w.make(path, *node)
        more = [path + "/victim" if node[0] == "folder link out" else path for path, node in tree.items()][::2]
        listed += [(path, "replay") for path in more if path not in dict(listed)]
        w.list(listed)
        before = snapshot(w.top)
        gone = {path for path, kind in listed if kind in targets and path in w.files}

        plan = w.plan(targets)
        print_plan(Console(file=io.StringIO()), plan, "delete", True)
        assert snapshot(w.top) == before  # a dry run ends here
        receipt = act(plan)

        added, rest = split(snapshot(w.top), w)
        assert rest == split(without(before, w, gone), w)[1]
        assert {str(item.path.relative_to(w.root)) for item in receipt.done} == gone
        assert receipt.bytes == plan.bytes == sum(len(w.files[path]) for path in gone)
        kept = sorted((kind, path) for path, kind in listed if path not in gone)
        assert sorted((e.kind, str(e.path)) for e in Manifest.open(w.root).entries(KINDS)) == kept
        asked = {path for path, kind in listed if kind in targets}
        left = {str(skipped.path.relative_to(w.root)) for skipped in plan.skipped}
        assert not left & gone and left <= asked
        assert all(not os.path.lexists(w.root / path) for path in asked - left)
        if not gone:
            assert receipt.path is None and list(added) == [w.path("manifest.json")]
            return
        assert os.listdir(w.root / "history") == [receipt.time]
        assert os.listdir(w.root / "history" / receipt.time) == ["receipt.json"]
        if act is remove:
            assert not (w.root / "archive").exists()
        else:
            place = w.root / "archive" / receipt.time
            moved = {path: node for path, node in snapshot(place).items() if stat.S_ISREG(node[0])}
            assert moved == {path: before[w.path(path)] for path in gone}
            assert all(any(path.startswith(folder) for path in gone) for folder in snapshot(place))


@needs_links
@settings(max_examples=40, deadline=None)
@given(TREES, LISTED, st.sampled_from(HOSTILE), st.sampled_from(KINDS))
def test_hostile_manifest_is_refused_and_nothing_is_taken(tree, listed, hostile, kind):
    with world() as w:
        for path, node in tree.items():
            w.make(path, *node)
        w.list([*listed, (hostile, kind)])
        before = snapshot(w.top)
        with pytest.raises(UserError, match=r"manifest\.json: cannot be used"):
            w.plan()
        assert snapshot(w.top) == before


@needs_links
@settings(max_examples=40, deadline=None)
@given(TREES, st.data(), st.sampled_from([remove, archive]))
def test_read_only_folder_is_refused_before_anything_is_changed(tree, data, act):
    with world() as w:
        for path, node in tree.items():
            w.make(path, *node)
        w.list([(path, "replay") for path in tree])
        before, plan = snapshot(w.top), w.plan()
        if not plan.items:
            return
        closed = data.draw(st.sampled_from(plan.items)).path.parent
        access = os.access
        with pytest.MonkeyPatch.context() as patch:  # rights do not bind root, which may run this test
            patch.setattr(os, "access", lambda path, mode: Path(path) != closed and access(path, mode))
            with pytest.raises(UserError) as refusal:
                act(plan)
        assert f"its folder {closed} cannot be written. Nothing was changed." in str(refusal.value)
        assert snapshot(w.top) == before
