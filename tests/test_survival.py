"""Runs that are stopped in every way go on, and end as if they had never been stopped, bit for bit."""

import random
import signal
import time

import pytest

from tests.runs import finish, result, same, start, wait_for

IMAGES = ("env=sim", "env.image_size=16", "replay.batch_size=4")


@pytest.fixture(scope="module", params=[(), IMAGES], ids=["lidar", "images"])
def whole(request, tmp_path_factory):
    """A run that nobody stopped, how long it took, and its overrides."""
    runs = tmp_path_factory.mktemp("whole")
    process = start(runs, "whole", *request.param)
    wait_for(runs / "whole" / "manifest.json", process)
    began = time.monotonic()
    finish(process)
    return result(runs / "whole"), time.monotonic() - began, request.param


def stop_and_go_on(runs, name, number, moment, *overrides):
    """Stop a run some seconds after it has made its folder, go on with the same command, and return the result."""
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
def test_a_stopped_run_goes_on_with_the_same_command(whole, tmp_path, number, code):
    expected, seconds, overrides = whole
    found, returned, out = stop_and_go_on(tmp_path, "stopped", number, 0.5 * seconds, *overrides)
    assert returned == code
    assert same(expected, found) == ""
    if number != signal.SIGKILL:
        assert "The same command goes on from here." in out


@pytest.mark.slow
def test_twenty_kills_at_random_moments(whole, tmp_path):
    expected, seconds, overrides = whole
    differences = {}
    for attempt in range(20):
        moment = random.Random(attempt).uniform(0, seconds)
        found, returned, _ = stop_and_go_on(tmp_path, f"killed{attempt}", signal.SIGKILL, moment, *overrides)
        differences[attempt, round(moment, 2), returned] = same(expected, found)
    assert set(differences.values()) == {""}, differences
    assert sum(returned == -9 for _, _, returned in differences) >= 15  # some end before they are killed


@pytest.mark.slow
def test_a_run_killed_again_and_again_comes_to_the_same_end(whole, tmp_path):
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
    assert same(expected, result(tmp_path / "again")) == ""
