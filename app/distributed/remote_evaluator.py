"""Evaluation by workers, for a trainer that has no access to the game."""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence

from app.distributed.flow_control import distribute_episodes
from app.distributed.trainer_interface import NetworkTrainerInterface
from app.evaluation.episodes import Start
from app.evaluation.results import Evaluation
from app.models.actor import DrivingActor

_PAUSE_S = 0.05


class RemoteEvaluator:
    """Evaluator whose episodes are driven by workers; a game cannot begin at a chosen start, so starts only count.

    Args:
        interface: Connection to the workers.
        on_step: Called while waiting; may raise to end the evaluation.
    """

    def __init__(self, interface: NetworkTrainerInterface, on_step: Callable[[], None]):
        self._interface, self._on_step = interface, on_step
        self._number = secrets.randbelow(2**31)  # so that results for an earlier trainer are not taken for ours

    def evaluate(self, actor: DrivingActor, deterministic: Sequence[Start], stochastic: Sequence[Start]) -> Evaluation:
        """Have workers drive as many episodes as there are starts, and wait for the results.

        Args:
            actor: Policy to evaluate.
            deterministic: Starts of the deterministic episodes.
            stochastic: Starts of the episodes with sampled actions.
        """
        wanted = {True: len(deterministic), False: len(stochastic)}  # by "deterministic", as below
        self._number += 1
        self._interface.send_model(actor)
        try:
            while True:
                self._on_step()
                self._request(wanted)
                self._interface.idle()
                if self._is_complete(wanted):
                    break
                time.sleep(_PAUSE_S)
            results = self._interface.results()
        finally:
            self._interface.request_evaluation(0, {})
        episodes = {
            deterministic: tuple(one.episode for one in results if one.deterministic is deterministic)[:count]
            for deterministic, count in wanted.items()
        }
        return Evaluation(episodes[True], episodes[False])

    def close(self) -> None:
        """Do nothing: the workers belong to the interface."""

    def _finished(self, deterministic: bool) -> Counter[str]:
        """Return how many episodes each worker has finished."""
        results = self._interface.results()
        return Counter(one.worker for one in results if one.deterministic is deterministic)

    def _is_complete(self, wanted: dict[bool, int]) -> bool:
        return all(self._finished(deterministic).total() >= count for deterministic, count in wanted.items())

    def _request(self, wanted: dict[bool, int]) -> None:
        workers = self._interface.workers()
        quotas = {
            deterministic: distribute_episodes(count, self._finished(deterministic), workers)
            for deterministic, count in wanted.items()
        }
        episodes = {worker: (quotas[True][worker], quotas[False][worker]) for worker in workers}
        self._interface.request_evaluation(self._number, episodes)
