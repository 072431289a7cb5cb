"""CPU threads of a run: measured when it begins, the same when it goes on, watched while it trains.

Threads of OpenMP wait for each other in a loop that does nothing. On an idle machine that is fast; as soon as another
program holds one of the cores, two threads are several times slower than one.
"""

import copy
import math
import time

import torch
from rich.console import Console
from torch import Tensor, nn

from app.agents.droq import DroQAgent
from app.config.schema import Config
from app.machine import usable_cores
from app.replay.batch import Batch, random_batch
from app.reporting.formatting import tell
from app.training.setup import Setup

_MOST_ROUNDS, _BUDGET_S = 10, 0.3  # of the timing: it ends with whichever comes first
_ADVANTAGE = 0.9  # all cores must take at most this share of one thread's time, or the others are left free
_SLOW = 1 / 3  # of the best rate so far
_WINDOW_S = 20.0  # of updates, over which a rate is taken
_PATIENCE = 3  # slow windows in a row before a person is told


def settle_threads(config: Config, setup: Setup, agent: DroQAgent, recorded: int | None, console: Console) -> None:
    """Set the threads of torch for the rest of the run, and tell why where that is not what the user asked for.

    Args:
        config: of the run; ``threads`` is 0 to measure, or to go on with what was measured.
        setup: of the run.
        agent: whose updates are timed, on a copy of it.
        recorded: threads of the checkpoint from which the run goes on; with another number it would round differently.
        console: where to tell.
    """
    cores = usable_cores()
    if wanted := config.threads or recorded:
        threads = min(wanted, cores)
        if wanted > cores:
            asked = f"threads = {wanted}" if config.threads else f"The run began with {wanted} threads"
            tell(console, f"{asked}: this process may use {_count(cores, 'core')}, so {cores} will be used.", "yellow")
    elif cores == 1 or setup.device != "cpu":  # a GPU computes the layers that would be timed
        threads = cores
    elif more_threads_are_faster(agent, _sample(config, setup), cores):
        threads = cores
        tell(console, f"threads = 0: {cores} threads are faster than 1 here, as measured just now.")
    else:
        threads = 1
        tell(console, f"threads = 0: 1 thread is as fast as {cores} here or faster, as measured just now.")
    torch.set_num_threads(threads)


def more_threads_are_faster(agent: DroQAgent, batch: Batch, threads: int) -> bool:
    """Time the layers of an agent with one and with more threads, in turns; it takes about a second at most.

    Whole updates would show more, but where other programs hold the cores one of them can take a minute, and nothing
    can interrupt it. Agent and random numbers stay as they are.
    """
    before = torch.get_num_threads()
    layers = _layers(agent, batch)
    one = more = 0.0
    try:
        for _ in range(_MOST_ROUNDS):
            seconds = _time(layers, 1, math.inf)
            one += seconds
            more += _time(layers, threads, 2 * seconds)
            if one + more > _BUDGET_S:
                break
    finally:
        torch.set_num_threads(before)
    return more < _ADVANTAGE * one


def _layers(agent: DroQAgent, batch: Batch) -> list[tuple[nn.Module, tuple[Tensor, ...]]]:
    """Return every layer that a forward pass of trunk and Q-heads calls, with its input."""
    model, calls = copy.deepcopy(agent.model), []
    handles = [
        module.register_forward_hook(lambda layer, args, _: calls.append((layer, args)))
        for module in model.modules()
        if not list(module.children()) and not isinstance(module, nn.RNNBase)  # whose one call is many
    ]
    torch.set_num_threads(1)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        seen = model.forward_features(batch.obs)
        model.q_from_features(seen.features, seen.film_params, batch.action)
    for handle in handles:
        handle.remove()
    return calls


@torch.no_grad()
def _time(layers: list[tuple[nn.Module, tuple[Tensor, ...]]], threads: int, limit: float) -> float:
    """Return the seconds that the layers take; infinity beyond a limit."""
    torch.set_num_threads(threads)
    layers[0][0](*layers[0][1])  # starts the threads
    began = time.perf_counter()
    for layer, args in layers:
        layer(*args)
        if time.perf_counter() - began > limit:
            return math.inf
    return time.perf_counter() - began


def _sample(config: Config, setup: Setup) -> Batch:
    horizons = len(config.encoder.prediction_horizons)
    return random_batch(setup.spec, config.replay.batch_size, horizons, setup.device)


class PaceWatch:
    """Says once that updates have become much slower, where fewer threads would help.

    Args:
        console: where to say it.
    """

    def __init__(self, console: Console):
        self._console, self._told = console, False
        self._count, self._seconds = 0, 0.0  # of the present window
        self._best, self._slow_windows = 0.0, 0

    def add(self, seconds: float) -> None:
        """Count one update that took so long."""
        self._count += 1
        self._seconds += seconds
        if self._seconds < _WINDOW_S:
            return
        rate = self._count / self._seconds
        self._count, self._seconds = 0, 0.0
        self._best = max(self._best, rate)
        self._slow_windows = self._slow_windows + 1 if rate < _SLOW * self._best else 0
        if self._slow_windows == _PATIENCE and torch.get_num_threads() > 1 and not self._told:
            self._told = True
            tell(
                self._console,
                f"updates have fallen from {self._best:.1f} to {rate:.1f} a second: other programs hold the cores; "
                "threads=1 is faster here. Stop the run and give the same command with it.",
                "yellow",
            )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
