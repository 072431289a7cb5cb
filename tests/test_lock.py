"""Lock of a folder: one owner at a time, and no trace of a dead one."""

import json
import os
import platform
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from app.core.atomic_files import write_json
from app.core.errors import UserError
from app.runs.lock import Lock
from app.runs.manifest import acquire_folder
from tests.helpers.processes import dead_pid

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


def test_second_process_is_refused_with_the_pid_of_the_owner(tmp_path, owner):
    with pytest.raises(UserError) as refusal:
        Lock(tmp_path / "a run", "run").acquire()
    assert f"{tmp_path / 'a run'}: the run is in use by process {owner.pid} on " in str(refusal.value)
    assert "stop it" in str(refusal.value)


def test_killed_owner_frees_the_lock(tmp_path, owner):
    owner.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    owner.wait()
    assert (tmp_path / "a run" / ".owner.json").is_file()  # it had no time to tidy up
    with Lock(tmp_path / "a run", "run"):
        assert json.loads((tmp_path / "a run" / ".owner.json").read_text())["pid"] == os.getpid()


def test_second_lock_of_the_same_process_is_refused(tmp_path):
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


def test_another_thread_may_release_the_lock(tmp_path):
    lock = Lock(tmp_path, "run")
    lock.acquire()
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    with Lock(tmp_path, "run"):
        pass


@pytest.mark.parametrize("left", ['{"pid": 1, "host"', "[]", '{"pid": "one", "host": "h", "since": "now"}', "\udc80"])
def test_damaged_owner_file_does_not_block_the_lock(tmp_path, left):
    (tmp_path / ".owner.json").write_bytes(left.encode("utf-8", "surrogateescape"))
    with Lock(tmp_path, "run") as lock:
        (tmp_path / ".owner.json").write_bytes(left.encode("utf-8", "surrogateescape"))
        with pytest.raises(UserError, match="in use by another process"):
            Lock(tmp_path, "run").acquire()
        lock.release()


def test_dead_process_is_not_named_as_the_owner(tmp_path):
    with Lock(tmp_path, "run"):
        for pid in (dead_pid(), 10**30, -1):
            write_json(tmp_path / ".owner.json", {"pid": pid, "host": platform.node(), "since": "before"})
            with pytest.raises(UserError, match="in use by another process"):
                Lock(tmp_path, "run").acquire()


def test_owner_on_another_machine_is_named(tmp_path):
    with Lock(tmp_path, "run"):
        write_json(tmp_path / ".owner.json", {"pid": 2**22 + 5, "host": "elsewhere", "since": "noon"})
        with pytest.raises(UserError, match=f"process {2**22 + 5} on elsewhere since noon"):
            Lock(tmp_path, "run").acquire()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="cannot be made or locked"):
            Lock(tmp_path, "run").acquire()
    finally:
        tmp_path.chmod(0o700)


def test_folder_without_room_for_the_owner_file_is_refused_and_not_locked(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("app.runs.lock.write_json", fail)
        with pytest.raises(UserError, match=r"cannot be made or locked \(Permission denied\)"):
            Lock(tmp_path, "run").acquire()
    with Lock(tmp_path, "run"):
        pass


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match=r"run: the folder of the run cannot be made or locked .* runs_dir"):
        Lock(tmp_path / "run", "run").acquire()


def test_foreign_folder_is_refused_and_not_locked(tmp_path):
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(UserError, match=r"holds thesis\.doc and no manifest\.json.* Choose another run_name"):
        acquire_folder(Lock(tmp_path, "run"), "run_name")
    with Lock(tmp_path, "run"):
        pass


def test_new_folder_and_one_with_a_manifest_or_hidden_files_are_acquired(tmp_path):
    for name in ("manifest.json", ".hidden", None):
        folder = tmp_path / f"with {name}"
        if name is not None:
            folder.mkdir()
            (folder / name).touch()
        lock = Lock(folder, "study")
        acquire_folder(lock, "hydra.sweeper.study_name")
        with pytest.raises(UserError, match="in use"):
            acquire_folder(Lock(folder, "study"), "hydra.sweeper.study_name")
        lock.release()
