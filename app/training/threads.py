"""CPU threads of a run: measured when it starts, the same when it resumes, and monitored while it trains.

Threads of OpenMP wait for each other in a busy loop. That is fast on an idle machine; as soon as another program
occupies one of the cores, two threads are several times slower than one.
"""

import copy
import math
import time

import torch
from rich.console import Console
from torch import Tensor, nn

from app.agents.sac import SACAgent
from app.config.schema import Config
from app.core.console import print_line
from app.core.system import usable_cores
from app.replay.batch import Batch, random_batch
from app.training.setup import Setup

_MAX_ROUNDS, _TIME_BUDGET_S = 10, 0.3  # of the measurement, which ends with whichever comes first
_CLEARLY_FASTER = 0.9  # all cores must take at most this share of one thread's time
_WINDOW_S = 20.0  # seconds of updates over which a rate is taken
_SLOW_RATE = 1 / 3  # share of the best rate so far
_SLOW_WINDOWS = 3  # consecutive slow windows before the warning

Layer = tuple[nn.Module, tuple[Tensor, ...]]  # a layer and its input


def set_threads(config: Config, setup: Setup, agent: SACAgent, recorded: int | None, console: Console) -> None:
    """Set the threads of torch for the rest of the run; print why where that is not what the user asked for.

    Args:
        config: Configuration of the run; ``threads=0`` measures, or takes what was measured at the run's first start.
        setup: Device and observation of the run.
        agent: Agent whose layers are timed; it stays as it is.
        recorded: Threads of the checkpoint from which the run resumes: another number would round differently.
        console: Console for messages.
    """
    cores = usable_cores()
    if wanted := config.threads or recorded:
        threads = min(wanted, cores)
        if wanted > cores:
            asked = f"threads = {wanted}" if config.threads else f"The run began with {wanted} threads"
            print_line(
                console, f"{asked}: this process may use {_count(cores, 'core')}, so {cores} will be used.", "yellow"
            )
    elif cores == 1 or setup.device != "cpu":  # a GPU computes the layers that would be timed
        threads = cores
    elif more_threads_are_faster(agent, _random_batch(config, setup), cores):
        threads = cores
        print_line(console, f"threads = 0: {cores} threads are faster than 1 here, as measured just now.")
    else:
        threads = 1
        print_line(console, f"threads = 0: 1 thread is as fast as {cores} here or faster, as measured just now.")
    torch.set_num_threads(threads)


def more_threads_are_faster(agent: SACAgent, batch: Batch, threads: int) -> bool:
    """Time the layers of an agent with one and with more threads, in turns; this takes about a second at most.

    Whole updates would be more accurate, but where other programs occupy the cores one of them can take a minute, and
    it cannot be interrupted. Agent and random numbers stay as they are.

    Args:
        agent: The agent.
        batch: A batch of the run's shapes.
        threads: The number of threads to compare with one.
    """
    before = torch.get_num_threads()
    layers = _layers(agent, batch)
    one = more = 0.0
    try:
        for _ in range(_MAX_ROUNDS):
            seconds = _time(layers, 1, math.inf)
            one += seconds
            more += _time(layers, threads, 2 * seconds)
            if one + more > _TIME_BUDGET_S:
                break
    finally:
        torch.set_num_threads(before)
    return more < _CLEARLY_FASTER * one


def _layers(agent: SACAgent, batch: Batch) -> list[Layer]:
    """Return every layer that a forward pass of trunk and Q-heads calls, with its input."""
    model, calls = copy.deepcopy(agent.model), []
    handles = [
        module.register_forward_hook(lambda layer, args, _: calls.append((layer, args)))
        for module in model.modules()
        if not list(module.children()) and not isinstance(module, nn.RNNBase)  # one call of which does many steps
    ]
    torch.set_num_threads(1)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        features = model.forward_features(batch.obs)
        model.q_from_features(features.features, features.film_params, batch.action)
    for handle in handles:
        handle.remove()
    return calls


@torch.no_grad()
def _time(layers: list[Layer], threads: int, limit: float) -> float:
    """Return the seconds that the layers take; infinity as soon as they exceed a limit."""
    torch.set_num_threads(threads)
    layers[0][0](*layers[0][1])  # starts the threads
    start = time.perf_counter()
    for layer, args in layers:
        layer(*args)
        if time.perf_counter() - start > limit:
            return math.inf
    return time.perf_counter() - start


def _random_batch(config: Config, setup: Setup) -> Batch:
    horizons = len(config.encoder.prediction_horizons)
    generator = torch.Generator(setup.device).manual_seed(0)  # leaves the random numbers of the run alone
    return random_batch(setup.spec, config.replay.batch_size, horizons, setup.device, generator)


class PaceMonitor:
    """Warns once if updates have become much slower and fewer threads would help.

    Args:
        console: Console for the warning.
    """

    def __init__(self, console: Console):
        self._console, self._warned = console, False
        self._updates, self._seconds = 0, 0.0  # of the current window
        self._best_rate, self._slow_windows = 0.0, 0

    def add(self, seconds: float) -> None:
        """Count one update.

        Args:
            seconds: Duration of the update.
        """
        self._updates += 1
        self._seconds += seconds
        if self._seconds < _WINDOW_S:
            return
        rate = self._updates / self._seconds
        self._updates, self._seconds = 0, 0.0
        self._best_rate = max(self._best_rate, rate)
        self._slow_windows = self._slow_windows + 1 if rate < _SLOW_RATE * self._best_rate else 0
        if self._slow_windows == _SLOW_WINDOWS and torch.get_num_threads() > 1 and not self._warned:
            self._warned = True
            print_line(
                self._console,
                f"Updates have slowed down from {self._best_rate:.1f} to {rate:.1f} per second, because other programs "
                "use the cores. Stop the run and resume it with threads=1, which is faster here.",
                "yellow",
            )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
