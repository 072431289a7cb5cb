"""The deployable actor: what a tmrl RolloutWorker drives with."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from app.config.schema import Config
from app.envs.spec import ObservationSpec
from app.models.actor_critic import HybridActorCritic, PolicyNetwork
from app.models.factory import make_policy_network
from app.tmrl_api import TorchActorModule


class DrivingActor(TorchActorModule):
    """A copy of trunk and policy head that is always in eval mode.

    The trainer's model stays in train mode for ever and the actor in eval mode: nobody switches, so nobody
    forgets to switch back.

    Args:
        observation_space: as tmrl passes it.
        action_space: as tmrl passes it.
        config: the run's configuration.
        spec: the observation.
        device: where it acts.
    """

    def __init__(self, observation_space, action_space, config: Config, spec: ObservationSpec, device: str = "cpu"):
        super().__init__(observation_space, action_space, device)
        # The layout of the trainer's model: for another one, other kernels may be chosen, which round differently.
        self.net: PolicyNetwork = make_policy_network(config, spec).to(memory_format=torch.channels_last)
        self.requires_grad_(False)
        self.eval()
        self.to(device)

    @torch.no_grad()
    def copy_from(self, model: HybridActorCritic) -> None:
        """Take over the weights and buffers of the trainer's model."""
        theirs = model.state_dict()
        for name, mine in self.net.state_dict().items():
            mine.copy_(theirs[name])

    @torch.no_grad()
    def actions(self, obs: Mapping[str, Tensor], test: bool | Tensor) -> Tensor:
        """Actions (B, A) for a batch of observations; the deterministic one where ``test``, for all or per row (B,)."""
        features = self.net.forward_features(obs)
        action, _, _ = self.net.actor_from_features(features.features, features.film_params, test)
        return action

    def act(self, obs: Mapping[str, Tensor], test: bool = False) -> np.ndarray:
        """Action (A,) float32 for a batch of one observation, as a tmrl worker asks for it."""
        return self.actions(obs, test).squeeze(0).cpu().numpy()
