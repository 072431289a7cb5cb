"""SAC with two separate MLPs, its update as one CUDA graph: the pattern of LeanRL's `sac_continuous_action` scripts.

Written for this comparison from the description in LeanRL's README (https://github.com/meta-pytorch/LeanRL): the whole
update is captured once and replayed. LeanRL also compiles the update with `torch.compile`; ``compiled=True`` does so.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from app.core.cuda_graph import GraphedFunction
from app.models.distributions import squashed_gaussian
from app.replay.batch import Batch


def mlp(in_dim: int, width: int, out_dim: int) -> nn.Sequential:
    """Return a network of two hidden layers."""
    return nn.Sequential(
        nn.Linear(in_dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out_dim)
    )


class LeanSAC:
    """SAC on vector observations with automatic entropy.

    Args:
        obs_dim: Width of the observation.
        action_dim: Number of action components.
        width: Width of the hidden layers.
        compiled: Compile the losses.
    """

    def __init__(self, obs_dim: int, action_dim: int, width: int, compiled: bool):
        self.actor = mlp(obs_dim, width, 2 * action_dim).cuda()
        self.critics = nn.ModuleList(mlp(obs_dim + action_dim, width, 1) for _ in range(2)).cuda()
        self.targets = nn.ModuleList(mlp(obs_dim + action_dim, width, 1) for _ in range(2)).cuda()
        self.targets.load_state_dict(self.critics.state_dict())
        self.log_alpha = torch.zeros((), device="cuda", requires_grad=True)
        self.target_entropy = -float(action_dim)
        options = {"lr": 3e-4, "capturable": True}
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), fused=True, **options)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), fused=True, **options)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], **options)
        wrap: Callable = torch.compile if compiled else lambda function: function
        self.critic_loss, self.actor_loss = wrap(self._critic_loss), wrap(self._actor_loss)
        self._graph = GraphedFunction(LeanSAC._update)

    def update(self, batch: Batch) -> Tensor:
        """Update all networks once, and return the critic's loss; the batch is the same tensors in every call."""
        return self._graph(self, batch)

    def _sample(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(obs).chunk(2, -1)
        return squashed_gaussian(mean, log_std.clamp(-5, 2), torch.randn_like(mean))

    def _q(self, critics: nn.ModuleList, obs: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([obs, action], -1)
        return torch.stack([critic(x).squeeze(-1) for critic in critics])

    def _critic_loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            action, log_prob = self._sample(batch.next_obs["floats"])
            next_q = self._q(self.targets, batch.next_obs["floats"], action).amin(0) - self.log_alpha.exp() * log_prob
            target = batch.reward + batch.discount * (1 - batch.terminated) * next_q
        return (self._q(self.critics, batch.obs["floats"], batch.action) - target).square().mean(1).sum()

    def _actor_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        action, log_prob = self._sample(batch.obs["floats"])
        q = self._q(self.critics, batch.obs["floats"], action).amin(0)
        return (self.log_alpha.exp().detach() * log_prob - q).mean(), log_prob

    def _update(self, batch: Batch) -> Tensor:
        self.critic_optimizer.zero_grad()
        critic_loss = self.critic_loss(batch)
        critic_loss.backward()
        self.critic_optimizer.step()
        self.actor_optimizer.zero_grad()
        loss, log_prob = self.actor_loss(batch)
        loss.backward()
        self.actor_optimizer.step()
        self.alpha_optimizer.zero_grad()
        (-self.log_alpha.exp() * (log_prob.detach() + self.target_entropy).mean()).backward()
        self.alpha_optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.targets.parameters()), list(self.critics.parameters()), 0.005)
        return critic_loss.detach()
