"""Training loop: tmrl's ``TorchTrainingOffline`` with an exact ratio of updates to environment steps."""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from app.agents.sac import SACAgent
from app.agents.update_metrics import UpdateMetrics
from app.config.schema import Config
from app.core.tmrl_api import TorchTrainingOffline
from app.envs.spec import ObservationSpec
from app.replay.buffer import ReplayMemory
from app.replay.storage import Storage
from app.reporting.metrics import MetricAverager
from app.training.rollout import RolloutInterface


class _RunningUpdate(NamedTuple):
    """Update whose metrics are not yet in the averages.

    Attributes:
        metrics: Metrics of the networks, which a GPU may still be computing.
        others: Metrics that were known when it was started.
        launched: Seconds that starting it took.
    """

    metrics: UpdateMetrics
    others: dict[str, float]
    launched: float


class TrainingLoop(TorchTrainingOffline):
    """``TorchTrainingOffline`` with our agent, our replay and an epoch that can be stopped between any two updates.

    tmrl's ratio check counts resets as steps, lets one update too many through, and makes all updates of the warm-up
    due at once. Here ``updates <= max_training_steps_per_env_step * (env_steps - start_training)`` holds at any time,
    and no step is collected that the next update does not need.

    Args:
        config: Configuration of the run.
        spec: The observation.
        device: Device of the networks and batches.
        storage: Storage of the replay's rows.
        slack: Rows of the replay beyond its capacity.
        safe_point: Called with the loop between any two updates and after steps have arrived, when the whole state is
            consistent. It may save a checkpoint, and may raise to stop the run.
        on_update: Called after every update with its duration in seconds.
    """

    agent: SACAgent
    memory: ReplayMemory

    def __init__(
        self,
        config: Config,
        spec: ObservationSpec,
        device: str,
        storage: Storage,
        slack: int,
        safe_point: Callable[["TrainingLoop"], None],
        on_update: Callable[[float], None] = lambda seconds: None,
    ):
        training, agent = config.training, config.agent
        self.training, self.safe_point, self.on_update = training, safe_point, on_update
        self.averager = MetricAverager()
        self._running: _RunningUpdate | None = None
        horizons = config.encoder.prediction_horizons if config.model.contextual else ()
        super().__init__(
            env_cls=(spec.observation_space(), spec.action_space()),
            memory_cls=partial(
                ReplayMemory,
                spec,
                config.replay,
                agent.n_step,
                agent.gamma,
                horizons,
                seed=config.seed,
                storage=storage,
                slack=slack,
            ),
            training_agent_cls=partial(SACAgent, config=config, spec=spec),
            epochs=training.epochs,
            rounds=1,
            steps=training.updates_per_epoch,
            update_model_interval=training.update_model_interval,
            update_buffer_interval=1,
            max_training_steps_per_env_step=training.max_training_steps_per_env_step,
            start_training=training.start_training,
            device=device,
        )

    def run_epoch(self, interface: RolloutInterface) -> list:
        """Run the updates that the current epoch still lacks; their metrics go into ``averager``.

        Args:
            interface: Source of environment steps; it also receives the actor.

        Returns:
            An empty list; the loop of tmrl returns statistics here.
        """
        self.check_ratio(interface)
        while self.total_updates < (self.epoch + 1) * self.training.updates_per_epoch:
            self.update_buffer(interface)  # steps that arrived during the last update
            self.update()
            if self.total_updates % self.update_model_interval == 0:
                self.add_metrics()  # an actor that is not finite must not drive
                interface.broadcast_model(self.agent.get_actor())
            self.check_ratio(interface)
        self.add_metrics()
        self.epoch += 1
        return []

    def update(self) -> None:
        """Start one update; on a GPU it is still running when this returns."""
        start = time.perf_counter()
        batch = self.memory.sample()
        sampled = time.perf_counter()
        self.add_metrics()  # of the update before
        begun = time.perf_counter()
        metrics = self.agent.start_update(batch)
        launched = time.perf_counter() - begun
        self._running = _RunningUpdate(
            metrics, {**self._newest_episode(), "sampling_duration": sampled - start}, launched
        )
        if metrics.arrived:
            self.add_metrics()
        self.total_updates += 1

    def add_metrics(self) -> None:
        """Add the metrics of the last update to the averages, unless that is done; wait for a GPU if need be."""
        if self._running is None:
            return
        update, self._running = self._running, None
        start = time.perf_counter()
        metrics = update.metrics.read()
        duration = update.launched + time.perf_counter() - start
        self.averager.add({**metrics, **update.others, "training_step_duration": duration})
        self.on_update(duration)

    def check_ratio(self, interface: RolloutInterface) -> None:
        """Collect steps until the next update is due, with a safe point before and after every collection."""
        self.safe_point(self)
        while self.steps_to_collect() > 0:
            self.update_buffer(interface)
            self.safe_point(self)
        if self.total_updates == 0:
            self.agent.fit_support(**self.memory.reward_range())

    def update_buffer(self, interface: RolloutInterface) -> None:
        """Append the steps that the interface has collected to the replay."""
        self.memory.append(interface.retrieve_buffer())
        self.total_samples = self.memory.env_steps

    def steps_to_collect(self) -> int:
        """Return the environment steps to collect before the next update; 0 once the run has all its updates."""
        return 0 if self.total_updates >= self.training.updates else max(0, self.step_deficit())

    def step_deficit(self) -> int:
        """Return the environment steps that the next update lacks; negative if more have been collected than needed."""
        return self.start_training + self._steps_after_warm_up() - self.memory.env_steps

    def state_dict(self) -> dict[str, Any]:
        """Return the state of agent, replay, averager and schedule: tensors and plain values."""
        self.add_metrics()
        return {
            "agent": self.agent.state_dict(),
            "replay": self.memory.state_dict(),
            "means": self.averager.state_dict(),
            "updates": self.total_updates,
            "start_training": self.start_training,
            "ratio": self.max_training_steps_per_env_step,
        }

    def load_state_dict(self, state: Mapping[str, Any], epoch: int, replay_cleared: bool) -> None:
        """Restore what ``state_dict`` returned.

        Args:
            state: The state; its replay must have been verified.
            epoch: Number of completed epochs, evaluation included.
            replay_cleared: Start with an empty replay, and collect ``start_training`` steps before the next update.
        """
        self.agent.load_state_dict(state["agent"])
        self.averager.load_state_dict(state["means"])
        self.total_updates, self.epoch = state["updates"], epoch
        if replay_cleared:
            self.memory.load_counters(state["replay"])
            self.start_training = self.memory.env_steps - self._steps_after_warm_up() + self.training.start_training
        else:
            self.memory.load_state_dict(state["replay"])
            if self.total_updates:
                self.start_training = state["start_training"]
                if state["ratio"] != self.max_training_steps_per_env_step:
                    # The new ratio counts from here on, or its difference over the past would be due at once.
                    self.start_training = self.memory.env_steps - self._steps_after_warm_up()
        self.total_samples = self.memory.env_steps

    def _steps_after_warm_up(self) -> int:
        """Return the environment steps after the warm-up that make the next update due."""
        return math.ceil((self.total_updates + 1) / self.max_training_steps_per_env_step)

    def _newest_episode(self) -> dict[str, float]:
        """Return the metrics of the newest finished training episode; NaN before the first one has ended."""
        length = self.memory.stat_train_steps
        if not length:
            return {"return_train": math.nan, "episode_length_train": math.nan}
        return {"return_train": self.memory.stat_train_return, "episode_length_train": length}
