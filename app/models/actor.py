"""The deployable actor: the policy that a tmrl ``RolloutWorker`` runs."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from app.config.schema import Config
from app.core.tmrl_api import TorchActorModule
from app.envs.spec import ObservationSpec
from app.models.actor_critic import ActorCritic, PolicyNetwork
from app.models.factory import make_policy_network


class DrivingActor(TorchActorModule):
    """Copy of trunk and policy head that is always in eval mode.

    The trainer's model stays in train mode and the actor in eval mode for the whole run, so the mode is never
    switched and cannot be left wrong.

    Args:
        observation_space: Given by tmrl.
        action_space: Given by tmrl.
        config: Configuration of the run.
        spec: Format of the observations.
        device: Device that computes the actions.
    """

    def __init__(self, observation_space, action_space, config: Config, spec: ObservationSpec, device: str = "cpu"):
        super().__init__(observation_space, action_space, device)
        # Same memory format as the trainer's model: another one may select other kernels, which round differently.
        self.net: PolicyNetwork = make_policy_network(config, spec).to(memory_format=torch.channels_last)
        self.requires_grad_(False)
        self.eval()
        self.to(device)

    @torch.no_grad()
    def copy_from(self, model: ActorCritic) -> None:
        """Copy the weights and buffers of the trainer's model."""
        source = model.state_dict()
        for name, tensor in self.net.state_dict().items():
            tensor.copy_(source[name])

    @torch.no_grad()
    def actions(self, obs: Mapping[str, Tensor], deterministic: bool | Tensor) -> Tensor:
        """Compute the actions for a batch of observations.

        Args:
            obs: Batch of B observations.
            deterministic: Deterministic actions instead of sampled ones, for all rows or per row (B,).

        Returns:
            Actions (B, A) in [-1, 1].
        """
        features = self.net.forward_features(obs)
        action, _, _ = self.net.actor_from_features(features.features, features.film_params, deterministic)
        return action

    def act(self, obs: Mapping[str, Tensor], test: bool = False) -> np.ndarray:
        """Action (A,) float32 for a batch of one observation; ``test`` is tmrl's word for deterministic."""
        return self.actions(obs, deterministic=test).squeeze(0).cpu().numpy()
