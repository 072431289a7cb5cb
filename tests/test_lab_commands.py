"""The real command in processes of its own: stopped, killed and continued labs; several runs at once."""

import os
import signal
import time

import pytest

from tests.helpers.labs import read_rows, run_lab_command, without_times
from tests.helpers.runs import finish, wait_for

JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
EPOCHS = 3
LONG = "training.epochs=3000"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The evidence of a lab that nothing has stopped."""
    labs = tmp_path_factory.mktemp("whole")
    out = finish(run_lab_command(labs, f"training.epochs={EPOCHS}"))
    assert "fixed-seed1: finished · 3 of 3 epochs" in out and (labs / "smoke" / "evidence.csv").exists()
    return without_times(read_rows(labs / "smoke"))


def wait_until(condition, process) -> None:
    deadline = time.monotonic() + 200
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.e2e
@pytest.mark.parametrize("launcher", [(), JOBLIB], ids=["alone", "joblib"])
def test_killed_and_continued_lab_is_the_same_as_an_uninterrupted_one(whole, tmp_path, launcher):
    process = run_lab_command(tmp_path, *launcher, f"training.epochs={EPOCHS}")
    wait_for(tmp_path / "smoke/runs/collapse-seed0/metrics.jsonl", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -9
    finish(run_lab_command(tmp_path, *launcher, f"training.epochs={EPOCHS}"))
    assert without_times(read_rows(tmp_path / "smoke")) == whole


@pytest.mark.e2e
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("launcher", [(), JOBLIB], ids=["alone", "joblib"])
def test_stopped_lab_has_saved_its_runs(tmp_path, launcher, number, code):
    process = run_lab_command(tmp_path, *launcher, LONG)
    wait_for(tmp_path / "smoke/runs/fixed-seed0/metrics.jsonl", process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # a terminal sends it to the workers, too
    else:
        process.send_signal(number)
    out, err = process.communicate(timeout=200)
    assert process.returncode == code and "Traceback" not in err, out + err
    log = (tmp_path / "smoke/runs/fixed-seed0.log").read_text()
    assert "The same command resumes the run." in log
    rows = read_rows(tmp_path / "smoke")
    assert {row["end"] for row in rows if (row["arm"], row["seed"]) == ("fixed", "0")} == {"running/stopped"}
    assert {row["end"] for row in rows if row["seed"] == "1"} == {"to be done"}
    assert not (tmp_path / "smoke" / "stop").exists()


@pytest.mark.e2e
def test_workers_end_when_the_command_is_killed(tmp_path):
    process = run_lab_command(tmp_path, *JOBLIB, LONG)
    wait_for(tmp_path / "smoke/runs/collapse-seed0/metrics.jsonl", process)
    process.kill()  # the workers are left alone
    log = tmp_path / "smoke/runs/collapse-seed0.log"
    deadline = time.monotonic() + 100
    while "resumes the run" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "The same command resumes the run." in log.read_text()
    process.communicate()


@pytest.mark.e2e
def test_wrong_command_is_refused_without_a_traceback(tmp_path):
    for override, text in (
        ("arms=[fixd]", "arms = [fixd]: this lab has no arm fixd. Did you mean fixed?"),
        ("agent.gama=0.9", "agent.gama: there is no such key. Did you mean agent.gamma"),
        ("lab=fulll", "lab = fulll: must be one of car_racing, full, images, smoke. Did you mean lab=full?"),
    ):
        out, err = run_lab_command(tmp_path, override).communicate(timeout=200)
        assert text in err and "Traceback" not in err and not list(tmp_path.iterdir()), out + err
