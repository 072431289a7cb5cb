"""CPU threads: measured without side effects, kept by a resumed run, and monitored."""

import copy
import io

import pytest
import torch
from rich.console import Console

from app.envs.env_factory import make_spec
from app.replay.batch import random_batch
from app.runs.checkpoint import read_checkpoint
from app.training import run as run_module
from app.training import threads as threads_module
from app.training.setup import Setup
from app.training.threads import PaceMonitor, more_threads_are_faster, set_threads
from tests.helpers.make import compose, make_agent
from tests.helpers.stopped_runs import PENDULUM, configure


@pytest.fixture(autouse=True)
def _one_thread_afterwards():
    yield
    torch.set_num_threads(1)


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


def threads_set(monkeypatch, console, *overrides, recorded=None, cores=4, times=None) -> int:
    """Return the threads that are set if the layers take these times with one and with all cores."""
    measured = []
    monkeypatch.setattr(threads_module, "usable_cores", lambda: cores)
    monkeypatch.setattr(threads_module, "_layers", lambda *_: measured.append(1))
    monkeypatch.setattr(threads_module, "_time", lambda _, threads, limit: times[threads > 1])
    config = compose("env=sim_lidar", *overrides)
    set_threads(config, Setup("cpu", make_spec(config.env), None), None, recorded, console)
    assert bool(measured) == (times is not None)
    return torch.get_num_threads()


@pytest.mark.parametrize(("times", "expected"), [((1.0, 0.5), 4), ((1.0, 0.95), 1), ((1.0, 8.0), 1)])
def test_all_cores_are_used_where_they_are_clearly_faster(monkeypatch, console, times, expected):
    assert threads_set(monkeypatch, console, times=times) == expected
    assert "threads = 0" in console.file.getvalue()


def test_explicit_number_is_used_and_clamped_to_the_usable_cores(monkeypatch, console):
    assert threads_set(monkeypatch, console, "threads=2", recorded=3) == 2
    assert console.file.getvalue() == ""
    assert threads_set(monkeypatch, console, "threads=9") == 4
    assert "threads = 9: this process may use 4 cores, so 4 will be used." in console.file.getvalue()


def test_number_of_the_checkpoint_is_used_where_the_cores_allow_it(monkeypatch, console):
    assert threads_set(monkeypatch, console, recorded=3) == 3
    assert console.file.getvalue() == ""
    assert threads_set(monkeypatch, console, recorded=3, cores=2) == 2
    assert "The run began with 3 threads" in console.file.getvalue()


def test_nothing_is_measured_on_a_single_core(monkeypatch, console):
    assert threads_set(monkeypatch, console, cores=1) == 1


@pytest.mark.parametrize("overrides", [("env=sim", "norm=batch"), ("env=sim_lidar", "model=droq")])
def test_measuring_changes_neither_agent_nor_random_numbers(overrides):
    agent = make_agent(*overrides)
    batch, state = random_batch(agent.spec, 4, 3), copy.deepcopy(agent.state_dict())
    rng = torch.get_rng_state()
    more_threads_are_faster(agent, batch, 1)
    assert torch.equal(torch.get_rng_state(), rng)
    for part in ("model", "target"):
        assert all(map(torch.equal, agent.state_dict()[part].values(), state[part].values()))
    assert not any(module._forward_hooks for module in agent.model.modules())


def test_measuring_ends_early_where_more_threads_are_much_slower(monkeypatch):
    began, calls = iter(range(1000)), []
    monkeypatch.setattr(threads_module.time, "perf_counter", lambda: next(began))
    layers = [(lambda x: calls.append(x), (number,)) for number in range(10)]
    assert threads_module._time(layers, 1, limit=3) == float("inf")
    assert len(calls) < 8


def test_resumed_run_uses_the_threads_that_were_measured_at_its_start(monkeypatch, tmp_path):
    monkeypatch.setattr(threads_module, "usable_cores", lambda: 2)
    for epochs, faster in ((1, False), (2, True)):  # the second start must not measure again
        monkeypatch.setattr(threads_module, "more_threads_are_faster", lambda *_, faster=faster: faster)
        run_module.train(configure(tmp_path, *PENDULUM, "threads=0", f"training.epochs={epochs}"))
        state = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
        assert (state["threads"], state["epochs_done"], torch.get_num_threads()) == (1, epochs, 1)


def test_lasting_slowness_is_warned_about_once(console):
    torch.set_num_threads(2)
    monitor = PaceMonitor(console)
    for seconds in [1.0] * 40 + [10.0] * 40:  # windows of 20 seconds
        monitor.add(seconds)
    assert console.file.getvalue().count("resume it with threads=1") == 1


def test_short_slowness_and_a_single_thread_cause_no_warning(console):
    for threads, slow_updates in ((2, 4), (1, 40)):
        torch.set_num_threads(threads)
        monitor = PaceMonitor(console)
        for seconds in (*[1.0] * 40, *[10.0] * slow_updates, *[1.0] * 40):
            monitor.add(seconds)
    assert console.file.getvalue() == ""
