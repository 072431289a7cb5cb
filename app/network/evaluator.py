"""Evaluation where the environment is: workers drive the episodes, because the trainer has no game."""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence

from app.models.actor import DrivingActor
from app.network.interface import NetworkInterface
from app.network.ledger import shares
from app.reporting.results import Evaluation
from app.training.evaluation import Start

_PAUSE_S = 0.05


class RemoteEvaluator:
    """Stands in for ``Evaluator``; a game has no starts to choose from, so only their number counts.

    Args:
        interface: reaches the workers.
        on_step: called while waiting; may raise to end the evaluation.
    """

    def __init__(self, interface: NetworkInterface, on_step: Callable[[], None]):
        self._interface, self._on_step = interface, on_step
        self._number = secrets.randbelow(2**31)  # no answer to an earlier trainer is taken for one to this

    def evaluate(self, actor: DrivingActor, det: Sequence[Start], stoch: Sequence[Start]) -> Evaluation:
        """Have as many episodes driven as there are starts, and wait for them."""
        interface, wanted = self._interface, {True: len(det), False: len(stoch)}
        self._number += 1
        interface.send_model(actor)
        try:
            while True:
                self._on_step()
                results = interface.results()
                done = {test: Counter(one.worker for one in results if one.test is test) for test in wanted}
                if all(done[test].total() >= count for test, count in wanted.items()):
                    break
                there = interface.workers()
                each = {test: shares(count, done[test], there) for test, count in wanted.items()}
                quotas = {worker: (each[True][worker], each[False][worker]) for worker in there}
                interface.evaluate_on(self._number, quotas)
                interface.idle()
                time.sleep(_PAUSE_S)
        finally:
            interface.evaluate_on(0, {})
        episodes = {
            test: tuple(one.episode for one in results if one.test is test)[:count] for test, count in wanted.items()
        }
        return Evaluation(episodes[True], episodes[False])

    def close(self) -> None:
        """Leave the workers to the interface."""
