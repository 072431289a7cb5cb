"""tmrl's training loop with an exact ratio of updates to environment steps, to be stopped and continued anywhere."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from app.agents.droq import DroQAgent
from app.config.schema import Config
from app.envs.spec import ObservationSpec
from app.replay.memory import ReplayMemory
from app.replay.storage import Storage
from app.tmrl_api import TorchTrainingOffline
from app.training.means import Means


class DrivingTraining(TorchTrainingOffline):
    """``TorchTrainingOffline`` with our agent and replay.

    tmrl's ratio check counts reset rows as steps, lets one update too many through, and owes all updates of the
    warm-up at once. Here, at any time, ``updates <= max_training_steps_per_env_step * (env_steps -
    start_training)``, and never is more than one step collected ahead of it.

    ``run_epoch`` does what is left of the present epoch, as one round of tmrl's: an epoch that was stopped between
    two updates goes on there. Its metrics are added up in ``means``, which a checkpoint can keep.

    Args:
        config: the run's configuration.
        spec: the observation.
        device: where the networks and batches live.
        storage: where the replay keeps its rows.
        slack: rows of the replay beyond its capacity.
        on_update: called between any two updates and whenever steps have arrived; all state is whole then.
    """

    agent: DroQAgent
    memory: ReplayMemory

    def __init__(
        self,
        config: Config,
        spec: ObservationSpec,
        device: str,
        storage: Storage,
        slack: int,
        on_update: Callable[["DrivingTraining"], None],
    ):
        training, agent = config.training, config.agent
        self.config, self.on_update, self.means = config, on_update, Means()
        horizons = config.encoder.prediction_horizons if config.model.contextual else ()
        super().__init__(
            env_cls=(spec.space(), spec.action_space()),
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
            training_agent_cls=partial(DroQAgent, config=config, spec=spec),
            epochs=training.epochs,
            rounds=1,
            steps=training.updates_per_epoch,
            update_model_interval=training.update_model_interval,
            update_buffer_interval=1,
            max_training_steps_per_env_step=training.max_training_steps_per_env_step,
            start_training=training.start_training,
            device=device,
        )
        self._counted = 0

    @property
    def updates_wanted(self) -> int:
        """Updates of the whole run."""
        return self.config.training.updates

    def missing_env_steps(self) -> int:
        """Environment steps to collect before the next update is due; 0 when the run has all its updates."""
        return 0 if self.total_updates >= self.updates_wanted else max(0, self.due_env_steps())

    def due_env_steps(self) -> int:
        """The same without regard to the run's end; negative: so many steps are there that no update needs yet."""
        due = math.ceil((self.total_updates + 1) / self.max_training_steps_per_env_step)
        return self.start_training + due - self.memory.env_steps

    def run_epoch(self, interface) -> list:
        """Do the updates that the present epoch still lacks."""
        self.memory.nb_steps = (self.epoch + 1) * self.config.training.updates_per_epoch - self.total_updates
        return super().run_epoch(interface)

    def update_buffer(self, interface) -> None:
        """Take over what was collected."""
        self.memory.append(interface.retrieve_buffer())
        self.total_samples = self.memory.env_steps

    def check_ratio(self, interface) -> None:
        """Wait until the next update is due."""
        if self.total_updates > self._counted:  # tmrl has added its own values to the agent's by now
            self.means.add(self.agent.metrics)
            self._counted = self.total_updates
        self.on_update(self)
        while self.missing_env_steps() > 0:
            self.update_buffer(interface)
            self.on_update(self)
        if self.total_updates == 0:
            self.agent.fit_support(**self.memory.reward_range())

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a continued run needs of agent, replay and schedule."""
        return {
            "agent": self.agent.state_dict(),
            "replay": self.memory.state_dict(),
            "means": self.means.state_dict(),
            "updates": self.total_updates,
            "start_training": self.start_training,
            "ratio": self.max_training_steps_per_env_step,
        }

    def load_state_dict(self, state: Mapping[str, Any], epoch: int, replay_cleared: bool) -> None:
        """Go on from what ``state_dict`` returned.

        Args:
            state: the state; its replay must have been verified.
            epoch: epochs that are wholly done, evaluation included.
            replay_cleared: go on with an empty replay, and collect ``start_training`` steps before the next update.
        """
        self.agent.load_state_dict(state["agent"])
        self.means.load_state_dict(state["means"])
        self.total_updates = self._counted = state["updates"]
        self.epoch = epoch
        due = math.ceil((self.total_updates + 1) / self.max_training_steps_per_env_step)
        if replay_cleared:
            self.memory.load_counters(state["replay"])
            self.start_training = self.memory.env_steps - due + self.config.training.start_training
        else:
            self.memory.load_state_dict(state["replay"])
            if self.total_updates:
                self.start_training = state["start_training"]
                if state["ratio"] != self.max_training_steps_per_env_step:
                    # Reckon with the new ratio from here on, or its difference over the past would be due at once.
                    self.start_training = self.memory.env_steps - due
        self.total_samples = self.memory.env_steps
