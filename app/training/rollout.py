"""Sources of environment steps for the training loop: the interface, and tmrl's worker in this process."""

import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
from rich.console import Console

from app.config.schema import Config
from app.core.tmrl_api import Buffer, RolloutWorker
from app.envs.env_factory import make_env
from app.envs.spec import ObservationSpec
from app.evaluation.evaluator import Evaluator, LocalEvaluator
from app.models.actor import DrivingActor
from app.replay.row_format import SampleCompressor
from app.training.serialization import as_arrays, as_tensors

MAX_STEPS_PER_BUFFER = 20  # so that progress and stop requests are seen while steps are collected


class RolloutInterface(Protocol):
    """Source of environment steps: two methods of tmrl's interfaces, and those that an exact resume needs."""

    def retrieve_buffer(self) -> Buffer:
        """Return new steps, at most ``MAX_STEPS_PER_BUFFER`` and the resets between them."""

    def broadcast_model(self, actor: DrivingActor) -> None:
        """Collect with this actor from now on."""

    def resume(self, make_actor: Callable[[], DrivingActor]) -> None:
        """Continue to collect after a resume or an evaluation, with this actor unless the state contains one."""

    def idle(self) -> None:
        """Exchange messages with workers; called while the training does something else."""

    def begin_episode(self) -> None:
        """Start a new episode with the next step, because the replay was cleared."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint: tensors and plain values."""

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Restore what ``state_dict`` returned; return whether the running episode continues."""

    def saved(self) -> None:
        """Note that the last ``state_dict`` is in a checkpoint."""

    def close(self, finished: bool) -> None:
        """Free all resources; ``finished`` means that the run has all its updates."""


class StepDemand(Protocol):
    """Number of environment steps that a training loop needs."""

    def steps_to_collect(self) -> int:
        """Return the environment steps to collect before the next update; 0 once the run has all its updates."""

    def step_deficit(self) -> int:
        """Return the environment steps that the next update lacks; negative if more were collected than needed."""


class Connect(Protocol):
    """Makes the source of environment steps and the evaluator of a run."""

    def __call__(
        self,
        config: Config,
        spec: ObservationSpec,
        demand: StepDemand,
        console: Console,
        check_stop: Callable[[], None],
    ) -> tuple[RolloutInterface, Evaluator]:
        """Connect a training loop with its environments.

        Args:
            config: Configuration of the run.
            spec: The observation.
            demand: The training loop, asked for the number of steps that it needs.
            console: Console for messages.
            check_stop: Called while waiting and between evaluation steps; it may raise to end the run.

        Raises:
            UserError: A part cannot be made as configured.
        """


def connect_locally(
    config: Config, spec: ObservationSpec, demand: StepDemand, console: Console, check_stop: Callable[[], None]
) -> tuple[RolloutInterface, Evaluator]:
    """Collect and evaluate in this process; see ``Connect``."""
    worker = make_local_worker(config, spec)
    interface = LocalInterface(worker, demand.steps_to_collect, config.agent.deterministic_share)
    return interface, LocalEvaluator(config.env, config.seed, check_stop)


def make_local_worker(config: Config, spec: ObservationSpec) -> RolloutWorker:
    """Make a standalone worker on the training tracks; ``broadcast_model`` replaces the actor that it builds.

    Args:
        config: Configuration of the run.
        spec: The observation.
    """
    return RolloutWorker(
        env_cls=partial(make_env, config.env, config.env.train_tracks, config.seed),
        actor_module_cls=partial(DrivingActor, config=config, spec=spec),
        sample_compressor=SampleCompressor(spec),
        model_path=os.devnull,  # there are no weights to load, and a standalone worker writes none
        standalone=True,
    )


def is_deterministic_episode(number: int, share: float) -> bool:
    """Return whether the deterministic action drives a training episode: evenly spread, without random numbers.

    Args:
        number: Number of the episode, from 1.
        share: Share of the episodes that are deterministic, in [0, 1).
    """
    return math.floor(number * share) > math.floor((number - 1) * share)


class LocalInterface:
    """Source of steps that drives a worker in this process exactly as far as the loop needs.

    Args:
        worker: A standalone worker; its episode continues from call to call.
        steps_to_collect: Returns the number of environment steps that the loop needs now.
        deterministic_share: Share of the episodes that the deterministic action drives.
    """

    def __init__(self, worker: RolloutWorker, steps_to_collect: Callable[[], int], deterministic_share: float):
        self.worker, self.steps_to_collect = worker, steps_to_collect
        self._deterministic_share, self._episodes = deterministic_share, 0  # episodes that have begun
        self._obs: Mapping[str, np.ndarray] | None = None  # None: the next step starts an episode
        self._return, self._length = 0.0, 0

    def retrieve_buffer(self) -> Buffer:
        """Collect the steps that the loop needs, at most ``MAX_STEPS_PER_BUFFER``, and the resets between them."""
        worker = self.worker
        for _ in range(min(self.steps_to_collect(), MAX_STEPS_PER_BUFFER)):
            self._step()
        buffer, worker.buffer = worker.buffer, Buffer()
        worker.buffer.stat_train_return = buffer.stat_train_return
        worker.buffer.stat_train_steps = buffer.stat_train_steps
        return buffer

    def broadcast_model(self, actor: DrivingActor) -> None:
        """Collect with this actor from now on."""
        self.worker.actor = actor

    def resume(self, make_actor: Callable[[], DrivingActor]) -> None:
        """Do nothing: the actor is part of the state."""

    def idle(self) -> None:
        """Do nothing: there is no other process."""

    def begin_episode(self) -> None:
        """Start a new episode with the next step."""
        self._obs = None

    def saved(self) -> None:
        """Do nothing: no steps are kept elsewhere."""

    def close(self, finished: bool) -> None:
        """Close the environment."""
        self.worker.env.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the running episode, the environment and the actor: tensors and plain values."""
        buffer = self.worker.buffer
        return {
            "actor": self.worker.actor.state_dict(),
            "env": as_tensors(self.worker.env.get_state()),
            "obs": as_tensors(self._obs),
            "return": self._return,
            "length": self._length,
            "episodes": self._episodes,
            "finished": [buffer.stat_train_return, buffer.stat_train_steps],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Restore what ``state_dict`` returned.

        Returns:
            Whether the running episode continues. If not, because the task is not deterministic or the steps came over
            the network, a new one starts.
        """
        worker = self.worker
        if "env" not in state:  # written by another kind of interface
            return False
        worker.actor.load_state_dict(state["actor"])
        worker.buffer.stat_train_return, worker.buffer.stat_train_steps = state["finished"]
        self._return, self._length = state["return"], state["length"]
        self._episodes = state.get("episodes", 0)  # older versions had no deterministic episodes to count
        self._obs = as_arrays(state["obs"])
        restored = worker.env.set_state(as_arrays(state["env"]))
        if self._obs is None or _equal(self._obs, restored):
            return True
        self.begin_episode()
        return False

    def _step(self) -> None:
        worker = self.worker
        if self._obs is None:
            self._obs, _ = worker.reset(collect_samples=True)
            self._return, self._length = 0.0, 0
            self._episodes += 1
        deterministic = is_deterministic_episode(self._episodes, self._deterministic_share)
        self._obs, reward, terminated, truncated, _ = worker.step(self._obs, deterministic, collect_samples=True)
        self._return += reward
        self._length += 1
        if terminated or truncated:
            self._obs = None
            worker.buffer.stat_train_return, worker.buffer.stat_train_steps = self._return, self._length


def _equal(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray] | None) -> bool:
    return other is not None and all(np.array_equal(one[name], other[name]) for name in one)
