"""One owner of a folder: what a second one is told, and what a dead one leaves."""

import json
import os
import platform
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from app.errors import UserError
from app.files import alive, replacing, write_json
from app.runs.claim import claim
from app.runs.fingerprint import read_fingerprint
from app.runs.lock import Lock

ROOT = Path(__file__).resolve().parents[1]
HOLD = """
import sys, time
from pathlib import Path
from app.runs.lock import Lock
with Lock(Path(sys.argv[1]), "run"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def owner(tmp_path):
    """Another process that holds the lock of tmp_path / "a run"."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "a run")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_process_is_refused_with_the_pid_of_the_owner(tmp_path, owner):
    with pytest.raises(UserError) as refusal:
        Lock(tmp_path / "a run", "run").acquire()
    assert f"{tmp_path / 'a run'}: the run is in use by process {owner.pid} on " in str(refusal.value)
    assert "stop it" in str(refusal.value)


def test_a_killed_owner_frees_the_lock(tmp_path, owner):
    owner.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    owner.wait()
    assert (tmp_path / "a run" / ".owner.json").is_file()  # it had no time to tidy up
    with Lock(tmp_path / "a run", "run"):
        assert json.loads((tmp_path / "a run" / ".owner.json").read_text())["pid"] == os.getpid()


def test_a_second_lock_of_the_same_process_is_refused(tmp_path):
    with Lock(tmp_path, "study"):
        with pytest.raises(UserError, match=rf"the study is in use by process {os.getpid()} on .*"):
            Lock(tmp_path, "study").acquire()
    with Lock(tmp_path, "study"):
        pass


def test_acquire_and_release_may_be_repeated(tmp_path):
    lock = Lock(tmp_path / "new" / "run", "run")
    lock.release()
    for _ in range(2):
        lock.acquire()
        lock.acquire()
        lock.release()
        lock.release()
        assert not (tmp_path / "new" / "run" / ".owner.json").exists()


def test_another_thread_may_release_it(tmp_path):
    lock = Lock(tmp_path, "run")
    lock.acquire()
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    with Lock(tmp_path, "run"):
        pass


@pytest.mark.parametrize("left", ['{"pid": 1, "host"', "[]", '{"pid": "one", "host": "h", "since": "now"}', "\udc80"])
def test_a_damaged_owner_file_is_no_obstacle(tmp_path, left):
    (tmp_path / ".owner.json").write_bytes(left.encode("utf-8", "surrogateescape"))
    with Lock(tmp_path, "run") as lock:
        (tmp_path / ".owner.json").write_bytes(left.encode("utf-8", "surrogateescape"))
        with pytest.raises(UserError, match="in use by another process"):
            Lock(tmp_path, "run").acquire()
        lock.release()


def test_a_dead_process_is_not_named_as_the_owner(tmp_path):
    with Lock(tmp_path, "run"):
        for pid in (dead_pid(), 10**30, -1):
            write_json(tmp_path / ".owner.json", {"pid": pid, "host": platform.node(), "since": "before"})
            with pytest.raises(UserError, match="in use by another process"):
                Lock(tmp_path, "run").acquire()


def test_an_owner_on_another_machine_is_named(tmp_path):
    with Lock(tmp_path, "run"):
        write_json(tmp_path / ".owner.json", {"pid": 2**22 + 5, "host": "elsewhere", "since": "noon"})
        with pytest.raises(UserError, match=f"process {2**22 + 5} on elsewhere since noon"):
            Lock(tmp_path, "run").acquire()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="cannot be made or locked"):
            Lock(tmp_path, "run").acquire()
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_that_takes_no_owner_file_is_refused_and_not_held(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("app.runs.lock.write_json", fail)
        with pytest.raises(UserError, match=r"cannot be made or locked \(Permission denied\)"):
            Lock(tmp_path, "run").acquire()
    with Lock(tmp_path, "run"):
        pass


def test_a_file_where_the_folder_should_be_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match=r"run: the folder of the run cannot be made or locked .* runs_dir"):
        Lock(tmp_path / "run", "run").acquire()


def test_a_claim_on_a_folder_of_somebody_else_is_refused_and_not_held(tmp_path):
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(UserError, match=r"holds thesis\.doc and no manifest\.json.* Choose another run_name"):
        claim(Lock(tmp_path, "run"), "run_name")
    with Lock(tmp_path, "run"):
        pass


def test_a_claim_makes_a_folder_and_takes_one_with_a_manifest_or_hidden_files(tmp_path):
    for name in ("manifest.json", ".hidden", None):
        folder = tmp_path / f"with {name}"
        if name is not None:
            folder.mkdir()
            (folder / name).touch()
        lock = Lock(folder, "study")
        claim(lock, "hydra.sweeper.study_name")
        with pytest.raises(UserError, match="in use"):
            claim(Lock(folder, "study"), "hydra.sweeper.study_name")
        lock.release()


@pytest.mark.parametrize("content", [b"{", b"\xff", None], ids=["cut off", "no text", "missing"])
def test_a_damaged_fingerprint_is_told_with_the_ways_out(tmp_path, content):
    path = tmp_path / "fingerprint.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"fingerprint\.json: is damaged: .*\. Do this\.$"):
        read_fingerprint(path, "Do this.")


# --------------------------------------------------------------------------------------- files that are replaced


def test_a_failed_replacement_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "state.json"
    write_json(path, {"a": 1})
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert json.loads(path.read_text()) == {"a": 1} and os.listdir(tmp_path) == ["state.json"]


def test_leftovers_of_dead_writers_go_and_others_stay(tmp_path):
    path = tmp_path / "st[a]te.pt"
    gone = [f".st[a]te.{pid}.tmp.pt" for pid in (dead_pid(), os.getpid())]
    stay = [f".st[a]te.{os.getppid()}.tmp.pt", f".state.{dead_pid()}.tmp.pt", ".st[a]te.x.tmp.pt", ".st[a]te..tmp.pt"]
    for name in gone + stay:
        (tmp_path / name).write_text("")
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, *stay])


def test_a_replacement_is_synced_before_it_is_named_and_its_folder_after(tmp_path, monkeypatch):
    calls, fsync, rename = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("rename"), rename(*paths)))
    write_json(tmp_path / "a.json", 1)
    assert calls == (["fsync", "rename"] if os.name == "nt" else ["fsync", "rename", "fsync"])


def test_what_is_kept_moves_only_when_the_new_file_is_whole_and_durable(tmp_path, monkeypatch):
    path, before = tmp_path / "last.pt", tmp_path / "previous.pt"
    path.write_text("old")
    calls, fsync, rename = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append(f"to {paths[1].name}"), rename(*paths)))
    with replacing(path, keep_as=before) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and not before.exists()
    assert calls == ["fsync", "to previous.pt", "to last.pt", *([] if os.name == "nt" else ["fsync"])]
    assert (path.read_text(), before.read_text()) == ("new", "old")


def test_a_failed_replacement_moves_nothing_that_is_kept(tmp_path):
    path, before = tmp_path / "last.pt", tmp_path / "previous.pt"
    path.write_text("old")
    before.write_text("older")
    with pytest.raises(KeyError), replacing(path, keep_as=before) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert (path.read_text(), before.read_text()) == ("old", "older")


def test_a_first_file_has_nothing_to_keep(tmp_path):
    with replacing(tmp_path / "last.pt", keep_as=tmp_path / "previous.pt") as temporary:
        temporary.write_text("new")
    assert os.listdir(tmp_path) == ["last.pt"]


def test_alive():
    assert alive(os.getpid()) and not alive(dead_pid()) and not alive(0) and not alive(10**30)
