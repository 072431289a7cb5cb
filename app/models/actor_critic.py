"""Policy network and actor-critic: one trunk with a policy head, and with Q-heads on the same features."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from app.models.heads import PolicyHead, QHeads
from app.models.trunk import Features


class PolicyNetwork(nn.Module):
    """Trunk and policy head, the same code in the worker and in the trainer.

    Args:
        trunk: Module from observations to features.
        policy: Head from features to actions.
        detach_actor: Keep the gradient of the actor loss out of the trunk (faults 4 and 5).
    """

    def __init__(self, trunk: nn.Module, policy: PolicyHead, detach_actor: bool):
        super().__init__()
        self.trunk, self.policy, self.detach_actor = trunk, policy, detach_actor

    def forward_features(self, obs: Mapping[str, Tensor]) -> Features:
        """Encode a batch of observations once, for all heads."""
        return self.trunk(obs)

    def detach_for_actor(self, features: Features) -> Features:
        """Features for the actor loss; the only place where its gradient is cut.

        With ``actor.detach=true`` the features and every FiLM scale and shift are detached, so that the trunk
        learns from the critic loss alone. With ``false`` the actor loss changes the features of the critic.
        """
        if not self.detach_actor:
            return features
        film = features.film_params
        return Features(features.features.detach(), None if film is None else film.detach(), None)

    def actor_from_features(
        self, features: Tensor, film_params: Tensor | None, deterministic: bool | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Action (B, A), its log-probability (B,) and the log-std (B, A); see ``PolicyHead.forward``."""
        return self.policy(features, film_params, deterministic)


class ActorCritic(PolicyNetwork):
    """Policy network with Q-heads on the same features.

    Args:
        trunk: Module from observations to features.
        policy: Head from features to actions.
        q_heads: Ensemble of heads from features and actions to values.
        detach_actor: Keep the gradient of the actor loss out of the trunk (faults 4 and 5).
    """

    def __init__(self, trunk: nn.Module, policy: PolicyHead, q_heads: QHeads, detach_actor: bool):
        super().__init__(trunk, policy, detach_actor)
        self.q_heads = q_heads

    def q_from_features(self, features: Tensor, film_params: Tensor | None, action: Tensor) -> Tensor:
        """Q-values (n, B) of a batch of actions (B, A)."""
        return self.q_heads.value.expectation(self.q_outputs_from_features(features, film_params, action))

    def q_outputs_from_features(self, features: Tensor, film_params: Tensor | None, action: Tensor) -> Tensor:
        """Outputs of the Q-heads (n, B, outputs), which the critic loss compares with its target."""
        return self.q_heads(features, film_params, action)

    def predict_rewards(self, context: Tensor) -> Tensor:
        """Rewards (B, H) at the configured horizons, in units of ``reward_scale``, predicted from the context."""
        return self.trunk.predict_rewards(context)

    def actor_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that the actor loss trains: the policy head, and without ``detach_actor`` the trunk, too."""
        yield from self.policy.parameters()
        if not self.detach_actor:
            yield from self.shared_parameters()

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the trunk that policy and Q-heads build on."""
        yield from (p for name, p in self.trunk.named_parameters() if not name.startswith("predict_rewards"))

    def critic_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that the critic loss trains: the trunk and the Q-heads."""
        yield from self.trunk.parameters()
        yield from self.q_heads.parameters()

    def image_parameters(self) -> Iterator[nn.Parameter]:
        """Critic parameters that only images reach: the backbone and its input to the fusion."""
        prefixes = ("backbone.", "fusion.from_image.", "fusion.gate.")
        yield from (p for name, p in self.trunk.named_parameters() if name.startswith(prefixes))

    def parameter_counts(self) -> dict[str, int]:
        """Number of parameters of every part, by name."""
        modules = {**dict(self.trunk.named_children()), "policy": self.policy, "q_heads": self.q_heads}
        counts = {name: sum(p.numel() for p in m.parameters()) for name, m in modules.items() if m is not None}
        return {name: count for name, count in counts.items() if count}
