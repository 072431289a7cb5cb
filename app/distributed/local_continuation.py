"""Local run that continues from a checkpoint of a run over a network."""

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from app.config.schema import Config
from app.core.console import print_line
from app.core.tmrl_api import Buffer, RolloutWorker
from app.distributed.episode_queue import RECEIVED, EpisodeQueue, dropped_episodes
from app.distributed.messages import MessageError
from app.envs.spec import ObservationSpec
from app.evaluation.evaluator import Evaluator, LocalEvaluator
from app.replay.row_format import RowFormat
from app.training.rollout import LocalInterface, RolloutInterface, StepDemand, make_local_worker


class ContinuedInterface(LocalInterface):
    """``LocalInterface`` that first passes on the episodes that a run over a network had received.

    Args:
        worker: See ``LocalInterface``.
        steps_to_collect: See ``LocalInterface``.
        deterministic_share: See ``LocalInterface``.
        row_format: Row format of the run's observation.
        console: Console for messages.
    """

    def __init__(
        self,
        worker: RolloutWorker,
        steps_to_collect: Callable[[], int],
        deterministic_share: float,
        row_format: RowFormat,
        console: Console,
    ):
        super().__init__(worker, steps_to_collect, deterministic_share)
        self._received, self._console = EpisodeQueue(row_format), console

    def retrieve_buffer(self) -> Buffer:
        """Return steps that were received over the network, and collect only when there are none left."""
        return self._received.take() if self._received else super().retrieve_buffer()

    def begin_episode(self) -> None:
        """Start a new episode with the next step; what was received belongs to a replay that was cleared."""
        super().begin_episode()
        self._received.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of ``LocalInterface``, and the received episodes if there are any left."""
        state = super().state_dict()
        return {**state, RECEIVED: self._received.state_dict()} if self._received else state

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Restore what ``state_dict`` of this interface or of the one for a network returned.

        Returns:
            Whether the running episode continues.
        """
        over_network = "pending" in state
        received = state if over_network else state.get(RECEIVED)
        continues = over_network or super().load_state_dict(state)
        if received is None:
            return continues
        try:
            self._received.load_state_dict(received)
        except MessageError:
            print_line(self._console, dropped_episodes(received), "yellow")
            return False
        if self._received:
            print_line(
                self._console,
                f"{len(self._received)} episodes ({self._received.steps:,} steps) had been received over the network "
                "and come first; from then on this process collects.",
                "green",
            )
        return continues


def continue_locally(
    config: Config, spec: ObservationSpec, demand: StepDemand, console: Console, check_stop: Callable[[], None]
) -> tuple[RolloutInterface, Evaluator]:
    """Collect and evaluate in this process, whatever the checkpoint was made by; see ``rollout.Connect``."""
    interface = ContinuedInterface(
        make_local_worker(config, spec),
        demand.steps_to_collect,
        config.agent.deterministic_share,
        RowFormat.of(spec),
        console,
    )
    return interface, LocalEvaluator(config.env, config.seed, check_stop)
