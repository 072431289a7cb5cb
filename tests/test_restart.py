"""Starting clean takes what is listed, and not one byte more."""

import errno
import io
import json
import os
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from app.errors import UserError
from app.restart import beneath
from app.restart.beneath import Folder
from app.restart.carry_out import archive, remove
from app.restart.plan import plan_folder
from app.restart.table import table
from app.restart.tmrl_data import tmrl_plan
from app.runs.history import unused_time
from app.runs.manifest import KINDS, Manifest

needs_links = pytest.mark.skipif(os.name == "nt", reason="needs the right to make links")

# ------------------------------------------------------------------------------------------------ random trees

NAMES = st.sampled_from(["a", "b c", "ü", "日本\u3000語", "-rf", "~", "$HOME", "it's", ".hidden", "x.pkl", "100%"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
NODES = st.sampled_from(["file"] * 6 + ["folder", "link out", "folder link out", "link in", "dangling", "pipe"])
HOSTILE = ["../../outside/victim", "/etc/hostname", "a/../../other/a", "", ".", "C:\\x", "..\\x", "manifest.json"]
TREES = st.dictionaries(PATHS, st.tuples(NODES, st.binary(max_size=9), st.sampled_from([0o644, 0o444])), max_size=12)
LISTED = st.lists(st.tuples(PATHS, st.sampled_from(KINDS)), max_size=8, unique_by=lambda entry: entry[0])


class World:
    """A data root with a run, another run beside it, and a folder outside of it; all below one path."""

    def __init__(self, top: Path):
        self.top, self.data, self.outside = top, top / "runs", top / "outside"
        self.root = self.data / "my run ü"
        for folder in (self.root, self.data / "other", self.outside):
            folder.mkdir(parents=True)
            for name in ("a", "victim", "x.pkl"):
                (folder / name if folder != self.root else self.data / name).write_text(f"never touch {name}")
        self.files: dict[str, bytes] = {}  # what was made as a regular file in real folders

    def make(self, path: str, node: str, content: bytes, mode: int) -> None:
        target = self.root / path
        parents = [parent for parent in target.parents if self.root in parent.parents]
        if os.path.lexists(target) or any(
            os.path.lexists(p) and not stat.S_ISDIR(os.lstat(p).st_mode) for p in parents
        ):
            return  # the name, or a parent's, is taken by something else
        target.parent.mkdir(parents=True, exist_ok=True)
        if node == "file":
            target.write_bytes(content)
            target.chmod(mode)
            self.files[path] = content
        elif node == "folder":
            target.mkdir()
        elif node == "pipe":
            os.mkfifo(target)
        else:
            aims = {"link out": "victim", "folder link out": "", "dangling": "missing"}
            target.symlink_to(self.outside / aims[node] if node in aims else self.root / "a")

    def list(self, entries: list[tuple[str, str]]) -> None:
        files = {kind: [path for path, of in entries if of == kind] for kind in KINDS}
        (self.root / "manifest.json").write_text(json.dumps({"format": 1, "files": files}), encoding="utf-8")

    def plan(self, targets=KINDS):
        return plan_folder(self.root, self.data, targets)

    def path(self, *parts: str) -> str:
        return str(self.root.joinpath(*parts).relative_to(self.top))


@contextmanager
def world():
    with tempfile.TemporaryDirectory() as top:
        yield World(Path(os.path.realpath(top)))


def snapshot(top: Path) -> dict[str, tuple]:
    """Everything below a folder: types, rights, contents, aims of links."""
    found = {}
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            path = Path(folder, name)
            status = path.lstat()
            what = None
            if path.is_symlink():
                what = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                what = path.read_bytes()
            found[str(path.relative_to(top))] = (status.st_mode, what)
    return found


def without(before: dict[str, tuple], w: World, gone: set[str]) -> dict[str, tuple]:
    """The snapshot without these files of the root, and without those of their folders that are empty then."""
    after = {path: node for path, node in before.items() if path not in {w.path(path) for path in gone}}
    folders = {str(parent) for path in gone for parent in Path(path).parents} - {"."}
    for folder in sorted(folders, key=len, reverse=True):
        if not any(path.startswith(w.path(folder) + os.sep) for path in after):
            del after[w.path(folder)]
    return after


def split(after: dict[str, tuple], w: World) -> tuple[dict[str, tuple], dict[str, tuple]]:
    """Part a snapshot into what a restart adds (history, archive, the new manifest) and all the rest."""
    ours = tuple(w.path(name) for name in ("manifest.json", "history", "archive"))
    added = {path: node for path, node in after.items() if path.startswith(ours)}
    return added, {path: node for path, node in after.items() if path not in added}


@needs_links
@settings(max_examples=120, deadline=None)
@given(TREES, LISTED, st.sets(st.sampled_from(KINDS)), st.sampled_from([remove, archive]))
def test_exactly_what_is_listed_goes(tree, listed, targets, act):
    with world() as w:
        for path, node in tree.items():
            w.make(path, *node)
        more = [path + "/victim" if node[0] == "folder link out" else path for path, node in tree.items()][::2]
        listed += [(path, "replay") for path in more if path not in dict(listed)]
        w.list(listed)
        before = snapshot(w.top)
        gone = {path for path, kind in listed if kind in targets and path in w.files}

        plan = w.plan(targets)
        table(Console(file=io.StringIO()), plan, "delete", True)
        assert snapshot(w.top) == before  # a dry run ends here
        receipt = act(plan)

        added, rest = split(snapshot(w.top), w)
        assert rest == split(without(before, w, gone), w)[1]
        assert {str(item.path.relative_to(w.root)) for item in receipt.done} == gone
        assert receipt.bytes == plan.bytes == sum(len(w.files[path]) for path in gone)
        kept = sorted((kind, path) for path, kind in listed if path not in gone)
        assert sorted((e.kind, str(e.path)) for e in Manifest.open(w.root).entries(KINDS)) == kept
        asked = {path for path, kind in listed if kind in targets}
        left = {str(refused.path.relative_to(w.root)) for refused in plan.refused}
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
def test_a_manifest_that_points_elsewhere_takes_nothing_at_all(tree, listed, hostile, kind):
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
def test_a_read_only_part_stops_it_before_anything_is_changed(tree, data, act):
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


# --------------------------------------------------------------------------------------------- one case at a time


@pytest.fixture
def w(tmp_path):
    made = World(tmp_path)
    for path in ("checkpoints/last.pt", "checkpoints/previous.pt", "replay/rows.bin", "best/actor.safetensors"):
        made.make(path, "file", path.encode(), 0o644)
        Manifest.open(made.root).add({"best": "weights"}.get(path.split("/")[0], path.split("/")[0]), made.root / path)
    for path in ("config.yaml", "metrics.jsonl", "checkpoints/mine.txt"):
        (made.root / path).write_text("mine")
    return made


def test_the_receipt_says_what_went(w):
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


def test_twice_a_second_leaves_two_receipts_and_two_archives(w):
    first = archive(w.plan(("replay",)))
    second = archive(w.plan(("weights",)))
    assert first.path != second.path and first.path.is_file() and second.path.is_file()
    assert (first.moved_to / "replay" / "rows.bin").read_text() == "replay/rows.bin"
    assert (second.moved_to / "best" / "actor.safetensors").read_text() == "best/actor.safetensors"
    assert json.loads(second.path.read_text("utf-8"))["moved_to"] == str(second.moved_to)


def test_unused_time_avoids_history_and_archive(tmp_path):
    times = []
    for place in ("history", "archive", "history"):
        times.append(unused_time(tmp_path))
        (tmp_path / place / times[-1]).mkdir(parents=True)
    assert len(set(times)) == 3


def test_there_is_nothing_to_remove_the_second_time(w):
    remove(w.plan())
    before = snapshot(w.top)
    plan = w.plan()
    assert not plan.items and plan.bytes == 0 and remove(plan).path is None
    assert snapshot(w.top) == before


def test_a_folder_that_is_missing_holds_nothing_and_is_not_made(tmp_path):
    assert plan_folder(tmp_path / "runs" / "new", tmp_path / "runs", KINDS).items == ()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("root", ["outside", "runs", "."])
def test_a_folder_that_is_not_below_the_data_root_is_refused(w, root):
    with pytest.raises(UserError, match="restart works only on folders below"):
        plan_folder(w.top / root, w.data, KINDS)


@needs_links
@pytest.mark.parametrize("depth", [1, 2])
def test_a_run_folder_behind_a_link_is_refused(w, depth):
    Manifest.open(w.outside).add("replay", w.outside / "victim")
    Manifest.open(w.outside / "inner").add("replay", w.outside / "inner" / "a")
    (w.data / "linked").symlink_to(w.outside)
    root = w.data / "linked" if depth == 1 else w.data / "linked" / "inner"
    before = snapshot(w.top)
    with pytest.raises(UserError, match=r"linked is a symbolic link"):
        plan_folder(root, w.data, KINDS)
    assert snapshot(w.top) == before


@needs_links
def test_the_data_root_may_be_a_link_to_another_disk(w):
    (w.top / "shortcut").symlink_to(w.data)
    plan = plan_folder(w.top / "shortcut" / w.root.name, w.top / "shortcut", ("replay",))
    assert [item.bytes for item in remove(plan).done] == [15]
    assert not (w.root / "replay").exists()


@needs_links
@pytest.mark.parametrize("act", [remove, archive])
def test_a_link_put_in_the_place_of_a_folder_after_planning_leads_nowhere(w, act):
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
def test_a_link_swapped_in_after_the_last_check_leads_nowhere(w, act, swapped, monkeypatch):
    plan, hold = w.plan(("replay",)), Folder.hold.__func__
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

    monkeypatch.setattr(Folder, "hold", swap_then_hold)
    with pytest.raises(UserError, match="restart stopped here"):
        act(plan)
    inside = {path: node for path, node in snapshot(w.outside).items() if not path.startswith("history")}
    assert inside == outside


@needs_links
@pytest.mark.parametrize("name", ["history", "archive"])
def test_records_and_archive_are_not_written_through_a_link(w, name):
    (w.root / name).symlink_to(w.outside)
    before = snapshot(w.top)
    with pytest.raises(UserError, match="nothing was removed, because no record can be kept"):
        archive(w.plan())
    after = snapshot(w.top)
    assert before.items() <= after.items()
    assert all(path.startswith(w.path("history")) for path in set(after) - set(before))


@pytest.mark.parametrize("act", [remove, archive])
def test_an_error_half_way_is_told_with_what_was_done(w, act, monkeypatch):
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
def test_an_archive_on_another_file_system_holds_the_same_bytes(w, holds, monkeypatch):
    def other_device(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(beneath, "_HOLDS", holds and beneath._HOLDS)
    monkeypatch.setattr(os, "rename", other_device)
    plan = w.plan()
    receipt = archive(plan)
    for item in plan.items:
        assert not item.path.exists()
        kept = receipt.moved_to / item.path.relative_to(w.root)
        assert kept.read_text() == item.path.relative_to(w.root).as_posix()


def test_a_copy_that_fails_leaves_the_file_and_nothing_half(w, monkeypatch):
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
def test_where_folders_cannot_be_held_links_are_seen_as_well(w, monkeypatch):
    monkeypatch.setattr(beneath, "_HOLDS", False)
    (w.data / "linked").symlink_to(w.outside)
    with pytest.raises(OSError, match="linked is a symbolic link"), Folder.hold(w.data, w.data / "linked" / "x", True):
        pass
    assert len(archive(w.plan(("weights",))).done) == 1
    assert len(remove(w.plan()).done) == 3


# ----------------------------------------------------------------------------------------------------- TmrlData


@pytest.fixture
def tmrl(tmp_path):
    """A TmrlData folder: file -> whether the run "car" may take it."""
    taken = {
        "dataset/rows.pkl": True, "dataset/a b ü.pkl": True, "dataset/notes.txt": False, "dataset/1.png": False,
        "dataset/deep/rows.pkl": False, "checkpoints/car_t.tcpt": True, "checkpoints/car": True,
        "checkpoints/car2_t.tcpt": False, "checkpoints/car_v2_t.tcpt": False, "checkpoints/dataset.tar": False,
        "weights/car.tmod": True, "weights/car_t.tmod": True, "weights/car_22_11_2026_22_30_15.tmod": True,
        "weights/car2.tmod": False, "weights/car_2.tmod": False, "weights/mycar.tmod": False,
        "weights/car/x.tmod": False, "reward/reward.pkl": False, "reward/car.pkl": False, "config/config.json": False,
        "config/car.tmod": False, "maps/car.Map.Gbx": False, "car.tmod": False, "x.pkl": False,
    }  # fmt: skip
    for path in taken:
        (tmp_path / "TmrlData" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "TmrlData" / path).write_text(path)
    return tmp_path / "TmrlData", {path for path, of_car in taken.items() if of_car}


def test_only_the_run_and_the_dataset_go_from_tmrl_data(tmrl, w):
    data, taken = tmrl
    before = snapshot(data)
    plan = tmrl_plan(data, "car", KINDS)
    assert {item.path.relative_to(data).as_posix() for item in plan.items} == taken
    assert {item.path.parent.name: item.kind for item in plan.items} == {
        "dataset": "replay", "checkpoints": "checkpoints", "weights": "weights"
    }  # fmt: skip
    both = w.plan(("replay",)).joined(plan)
    receipt = remove(both)
    assert len(receipt.done) == 1 + len(taken) and receipt.path.parent.parent == w.root / "history"
    assert snapshot(data) == {path: node for path, node in before.items() if Path(path).as_posix() not in taken}


def test_tmrl_data_goes_to_the_archive_of_the_run(tmrl, w):
    data, taken = tmrl
    receipt = archive(w.plan().joined(tmrl_plan(data, "car", KINDS)))
    assert all((receipt.moved_to / "TmrlData" / path).read_text() == path for path in taken)
    assert (receipt.moved_to / "replay" / "rows.bin").is_file()
    assert {"dataset", "checkpoints", "weights"} <= set(os.listdir(data))  # tmrl expects them to be there


def test_only_the_kinds_that_were_chosen_go_from_tmrl_data(tmrl):
    data, _ = tmrl
    assert {item.path.parent.name for item in tmrl_plan(data, "car", ["weights"]).items} == {"weights"}
    assert tmrl_plan(data, "car", ["study"]).items == ()


def test_another_run_is_told_to_be_left_alone(tmrl):
    data, _ = tmrl
    refused = {refused.path.name for refused in tmrl_plan(data, "car", KINDS).refused}
    assert refused == {"car_v2_t.tcpt", "car_2.tmod", "car"}  # the last is a folder in weights/


@needs_links
def test_tmrl_data_is_not_left_through_links(tmp_path):
    data, elsewhere = tmp_path / "TmrlData", tmp_path / "elsewhere"
    for folder in (data / "weights", elsewhere):
        folder.mkdir(parents=True)
    for name in ("a.pkl", "car_t.tcpt", "car.tmod"):
        (elsewhere / name).write_text("theirs")
    (data / "dataset").symlink_to(elsewhere)
    (data / "weights" / "car.tmod").symlink_to(elsewhere / "car.tmod")
    plan = tmrl_plan(data, "car", KINDS)
    assert not plan.items and {refused.path.name for refused in plan.refused} == {"dataset", "car.tmod"}


def test_tmrl_data_that_is_not_there_holds_nothing(tmp_path):
    assert tmrl_plan(tmp_path / "TmrlData", "car", KINDS).items == ()


def test_a_run_without_a_name_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"restart\.tmrl_run = ''"):
        tmrl_plan(tmp_path, "", KINDS)


# -------------------------------------------------------------------------------------------------------- table


def shown(plan, mode: str, dry_run: bool) -> str:
    console = Console(file=io.StringIO(), width=120)
    table(console, plan, mode, dry_run)
    return console.file.getvalue()


def test_the_table_shows_every_file_and_the_sum(w, monkeypatch):
    monkeypatch.chdir(w.top)
    text = shown(w.plan(), "delete", False)
    assert all(word in text for word in ("removes", "rows.bin", "15 bytes", "total", "4 files", "79 bytes"))
    assert str(Path("runs", w.root.name, "replay", "rows.bin")) in text and str(w.top) not in text
    assert "would move to the archive" in shown(w.plan(), "archive", True)
    assert "dry run: nothing was changed" in shown(w.plan(), "archive", True)


@needs_links
def test_the_table_shows_what_is_left_alone_and_that_there_is_nothing(w):
    remove(w.plan())
    assert "there is nothing to remove" in shown(w.plan(), "delete", False)
    w.make("replay/[red]x", "link out", b"", 0o644)
    w.list([("replay/[red]x", "replay")])
    text = " ".join(shown(w.plan(), "delete", False).split())
    assert "left alone" in text and "[red]x is a symbolic link" in text


@pytest.mark.skipif(os.name != "posix", reason="names are Unicode elsewhere")
def test_a_name_that_is_not_unicode_can_be_shown_and_recorded(tmp_path, monkeypatch, w):
    monkeypatch.chdir(tmp_path)  # a longer path is folded
    path = tmp_path / "TmrlData" / "dataset" / os.fsdecode(b"\xff.pkl")
    path.parent.mkdir(parents=True)
    try:
        path.write_text("x")
    except OSError:
        pytest.skip("the file system takes only Unicode")
    plan = w.plan().joined(tmrl_plan(tmp_path / "TmrlData", "car", KINDS))
    assert "\\xff.pkl" in shown(plan, "delete", False)
    assert "\\\\xff.pkl" in remove(plan).path.read_text("utf-8")
