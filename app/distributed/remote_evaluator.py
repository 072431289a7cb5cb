"""Evaluation by workers, for a trainer that has no access to the game."""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

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
        assigned: dict[bool, dict[str, int]] = {True: {}, False: {}}
        self._number += 1
        self._interface.send_model(actor)
        try:
            while True:
                self._on_step()
                self._assign(wanted, assigned)
                self._interface.idle()
                if self._is_complete(wanted, assigned):
                    break
                time.sleep(_PAUSE_S)
            results = self._interface.results()
        finally:
            self._interface.request_evaluation(0, {})
        # Every episode that was begun counts, including those of a worker that was gone for a while.
        episodes = (tuple(one.episode for one in results if one.deterministic is mode) for mode in (True, False))
        return Evaluation(*episodes)

    def close(self) -> None:
        """Do nothing: the workers belong to the interface."""

    def _finished(self, deterministic: bool) -> Counter[str]:
        """Return how many episodes each worker has finished."""
        results = self._interface.results()
        return Counter(one.worker for one in results if one.deterministic is deterministic)

    def _is_complete(self, wanted: Mapping[bool, int], assigned: Mapping[bool, Mapping[str, int]]) -> bool:
        """Return whether there are enough episodes, and no connected worker drives another one."""
        connected = self._interface.workers()
        for deterministic, count in wanted.items():
            done = self._finished(deterministic)
            if done.total() < count or any(assigned[deterministic].get(one, 0) > done[one] for one in connected):
                return False
        return True

    def _assign(self, wanted: Mapping[bool, int], assigned: dict[bool, dict[str, int]]) -> None:
        workers = self._interface.workers()
        for mode, count in wanted.items():
            assigned[mode] = distribute_episodes(count, assigned[mode], self._finished(mode), workers)
        episodes = {worker: (quota, assigned[False].get(worker, 0)) for worker, quota in assigned[True].items()}
        self._interface.request_evaluation(self._number, episodes)
