"""Runs in processes of their own that are stopped by signals and resumed end bit-equal to uninterrupted ones."""

import random
import signal
import time

import pytest

from tests.helpers.runs import finish, first_difference, result, start, wait_for

IMAGES = ("env=sim", "env.image_size=16", "replay.batch_size=4")


@pytest.fixture(scope="module", params=[(), IMAGES], ids=["lidar", "images"])
def whole(request, tmp_path_factory):
    """The result of an uninterrupted run, its duration in seconds, and its overrides."""
    runs = tmp_path_factory.mktemp("whole")
    process = start(runs, "whole", *request.param)
    wait_for(runs / "whole" / "manifest.json", process)
    began = time.monotonic()
    finish(process)
    return result(runs / "whole"), time.monotonic() - began, request.param


def stop_and_resume(runs, name, number, moment, *overrides):
    """Stop a run some seconds after it has made its folder, resume it with the same command, and return the result."""
    process = start(runs, name, *overrides)
    wait_for(runs / name / "manifest.json", process)
    time.sleep(moment)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    finish(start(runs, name, *overrides))
    return result(runs / name), process.returncode, out


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_stopped_run_resumes_with_the_same_command_and_ends_bit_equal(whole, tmp_path, number, code):
    expected, seconds, overrides = whole
    found, returned, out = stop_and_resume(tmp_path, "stopped", number, 0.5 * seconds, *overrides)
    assert returned == code
    assert first_difference(expected, found) is None
    if number != signal.SIGKILL:
        assert "The same command resumes the run." in out


@pytest.mark.slow
def test_runs_killed_at_twenty_random_moments_end_bit_equal(whole, tmp_path):
    expected, seconds, overrides = whole
    differences = {}
    for attempt in range(20):
        moment = random.Random(attempt).uniform(0, seconds)
        found, returned, _ = stop_and_resume(tmp_path, f"killed{attempt}", signal.SIGKILL, moment, *overrides)
        differences[attempt, round(moment, 2), returned] = first_difference(expected, found)
    assert set(differences.values()) == {None}, differences
    assert sum(returned == -9 for _, _, returned in differences) >= 15  # some end before they are killed


@pytest.mark.slow
def test_run_killed_again_and_again_ends_bit_equal(whole, tmp_path):
    expected, seconds, overrides = whole
    moments = random.Random(0)
    for _ in range(100):
        process = start(tmp_path, "again", *overrides)
        wait_for(tmp_path / "again" / ".owner.json", process)
        time.sleep(moments.uniform(0, 0.4 * seconds))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == 0:
            break
    finish(start(tmp_path, "again", *overrides))
    assert first_difference(expected, result(tmp_path / "again")) is None
