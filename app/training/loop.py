"""tmrl's training loop with an exact ratio of updates to environment steps."""

import math
from collections.abc import Callable
from functools import partial

from app.agents.droq import DroQAgent
from app.config.schema import Config
from app.envs.spec import ObservationSpec
from app.replay.memory import ReplayMemory
from app.tmrl_api import TorchTrainingOffline


class DrivingTraining(TorchTrainingOffline):
    """``TorchTrainingOffline`` with our agent and replay.

    tmrl's ratio check counts reset rows as steps, lets one update too many through, and owes all updates of the
    warm-up at once. Here, at any time, ``updates <= max_training_steps_per_env_step * (env_steps -
    start_training)``, and never is more than one step collected ahead of it.

    Args:
        config: the run's configuration.
        spec: the observation.
        device: where the networks and batches live.
        on_update: called after every update and whenever steps have arrived.
    """

    agent: DroQAgent
    memory: ReplayMemory

    def __init__(
        self,
        config: Config,
        spec: ObservationSpec,
        device: str,
        on_update: Callable[["DrivingTraining"], None],
    ):
        training, agent = config.training, config.agent
        self.config, self.on_update = config, on_update
        horizons = config.encoder.prediction_horizons if config.model.contextual else ()
        super().__init__(
            env_cls=(spec.space(), spec.action_space()),
            memory_cls=partial(
                ReplayMemory, spec, config.replay, agent.n_step, agent.gamma, horizons, seed=config.seed
            ),
            training_agent_cls=partial(DroQAgent, config=config, spec=spec),
            epochs=training.epochs,
            rounds=training.rounds,
            steps=training.steps,
            update_model_interval=training.update_model_interval,
            update_buffer_interval=1,
            max_training_steps_per_env_step=training.max_training_steps_per_env_step,
            start_training=training.start_training,
            device=device,
        )

    @property
    def updates_wanted(self) -> int:
        """Updates of the whole run."""
        return self.config.training.updates

    def missing_env_steps(self) -> int:
        """Environment steps to collect before the next update is due; 0 when the run has all its updates."""
        if self.total_updates >= self.updates_wanted:
            return 0
        due = math.ceil((self.total_updates + 1) / self.max_training_steps_per_env_step)
        return max(0, self.start_training + due - self.memory.env_steps)

    def update_buffer(self, interface) -> None:
        """Take over what was collected."""
        self.memory.append(interface.retrieve_buffer())
        self.total_samples = self.memory.env_steps

    def check_ratio(self, interface) -> None:
        """Wait until the next update is due."""
        self.on_update(self)
        while self.missing_env_steps() > 0:
            self.update_buffer(interface)
            self.on_update(self)
