"""Where the loop's steps come from and who evaluates: one loop, two transports."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from app.config.schema import Config
from app.envs.spec import ObservationSpec
from app.models.actor import DrivingActor
from app.reporting.results import Evaluation
from app.tmrl_api import Buffer
from app.training.evaluation import Evaluator, Start
from app.training.local import AT_ONCE as AT_ONCE
from app.training.local import LocalInterface, make_worker
from app.training.loop import DrivingTraining


class Interface(Protocol):
    """What collects for the loop: the two methods that tmrl's loop calls, and those that a durable run needs."""

    def retrieve_buffer(self) -> Buffer:
        """Return some steps, at most ``AT_ONCE`` and the resets between them."""

    def broadcast_model(self, actor: DrivingActor) -> None:
        """Let whoever collects drive with this actor."""

    def resume(self, make_actor: Callable[[], DrivingActor]) -> None:
        """Let whoever collects go on, in a run that goes on; where their actor is not kept, with this one."""

    def idle(self) -> None:
        """Answer whoever waits; called now and then while the loop does something else."""

    def begin_episode(self) -> None:
        """Go on with a new episode: the replay was cleared."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep: tensors and plain numbers."""

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Go on from what ``state_dict`` returned; returns whether the episode goes on where it was."""

    def saved(self) -> None:
        """Take note that the last ``state_dict`` is in a checkpoint."""

    def close(self, finished: bool) -> None:
        """Let go of everything; ``finished``: the run has all its updates."""


class Evaluates(Protocol):
    """What drives evaluation episodes."""

    def evaluate(self, actor: DrivingActor, det: Sequence[Start], stoch: Sequence[Start]) -> Evaluation:
        """Drive every start once: ``det`` deterministically, ``stoch`` with sampled actions."""

    def close(self) -> None:
        """Let go of everything."""


def connect(
    config: Config,
    spec: ObservationSpec,
    run: Path,
    training: DrivingTraining,
    console: Console,
    check: Callable[[], None],
) -> tuple[Interface, Evaluates]:
    """Return where steps come from, and who evaluates.

    Args:
        config: of the run.
        spec: the observation.
        run: folder of the run.
        training: knows how many steps are missing.
        console: where to tell of workers.
        check: called while waiting and between evaluation steps; may raise to end the run.

    Raises:
        UserError: the network is not as configured.
    """
    if config.role == "local":
        interface = LocalInterface(make_worker(config, spec, run), training.missing_env_steps)
        return interface, Evaluator(config.env, config.seed, check)

    from app.network.evaluator import RemoteEvaluator
    from app.network.interface import NetworkInterface

    interface = NetworkInterface(config, spec, training.due_env_steps, console, check)
    if config.env.real_time:
        return interface, RemoteEvaluator(interface, check)

    def on_step() -> None:
        check()
        interface.idle()

    return interface, Evaluator(config.env, config.seed, on_step)
