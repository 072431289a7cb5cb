"""The actor-critics: one trunk, a policy head, and Q-heads on the same features."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from app.models.heads import PolicyHead, QHeads
from app.models.trunk import ContextualTrunk, Features


class PolicyNetwork(nn.Module):
    """Trunk and policy head: the part that acts, the same code in the worker and in the trainer.

    Args:
        trunk: observation → features.
        policy: features → action.
        detach_actor: keep the policy's gradient out of the trunk (faults 4 and 5).
    """

    def __init__(self, trunk: nn.Module, policy: PolicyHead, detach_actor: bool):
        super().__init__()
        self.trunk, self.policy, self.detach_actor = trunk, policy, detach_actor

    def forward_features(self, obs: Mapping[str, Tensor]) -> Features:
        """Encode a batch of observations once, for every head to use."""
        return self.trunk(obs)

    def shield(self, features: Features) -> Features:
        """The one place of the detach: what the actor loss may see of the trunk.

        With ``actor.detach=true`` the features and every FiLM scale and shift are cut from the graph, so that the
        trunk learns from the critic loss alone. With ``false`` the actor loss rewrites what the critic learned.
        """
        if not self.detach_actor:
            return features
        film = features.film_params
        return Features(features.features.detach(), None if film is None else film.detach(), None)

    def actor_from_features(
        self, features: Tensor, film_params: Tensor | None, test: bool | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Action (B, A), log-probability (B,), log-std (B, A); the deterministic action where ``test``."""
        return self.policy(features, film_params, test)


class HybridActorCritic(PolicyNetwork):
    """A policy network with Q-heads on the same features."""

    def __init__(self, trunk: nn.Module, policy: PolicyHead, q_heads: QHeads, detach_actor: bool):
        super().__init__(trunk, policy, detach_actor)
        self.q_heads = q_heads

    def q_from_features(self, features: Tensor, film_params: Tensor | None, action: Tensor) -> Tensor:
        """Q-values (n, B) of a batch of actions (B, A)."""
        return self.q_heads.value.expectation(self.q_outputs_from_features(features, film_params, action))

    def q_outputs_from_features(self, features: Tensor, film_params: Tensor | None, action: Tensor) -> Tensor:
        """Outputs of the Q-heads (n, B, outputs), which the critic's loss compares with its target."""
        return self.q_heads(features, film_params, action)

    def actor_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters the actor loss trains: the policy head, and the trunk too in the broken setting."""
        yield from self.policy.parameters()
        if not self.detach_actor:
            yield from (p for name, p in self.trunk.named_parameters() if not name.startswith("predict_rewards"))

    def critic_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters the critic loss trains: the trunk and the Q-heads."""
        yield from self.trunk.parameters()
        yield from self.q_heads.parameters()

    def image_parameters(self) -> Iterator[nn.Parameter]:
        """The critic's parameters that only images reach: the backbone and its way into the fusion."""
        prefixes = ("backbone.", "fusion.from_image.", "fusion.gate.")
        yield from (p for name, p in self.trunk.named_parameters() if name.startswith(prefixes))

    def parts(self) -> dict[str, int]:
        """Parameter count of every part, by name."""
        modules = {**dict(self.trunk.named_children()), "policy": self.policy, "q_heads": self.q_heads}
        counts = {name: sum(p.numel() for p in m.parameters()) for name, m in modules.items() if m is not None}
        return {name: count for name, count in counts.items() if count}


class MLPActorCritic(HybridActorCritic):
    """Plain MLPs on the float vector."""


class SharedBackboneHybridActorCritic(HybridActorCritic):
    """A shared CNN and plain Q-heads."""


class DroQHybridActorCritic(HybridActorCritic):
    """A shared CNN and DroQ heads (LayerNorm and dropout)."""


class ContextualDroQHybridActorCritic(HybridActorCritic):
    """A shared CNN, a context encoder, and residual heads that FiLM adapts to the context."""

    trunk: ContextualTrunk

    def predict_rewards(self, context: Tensor) -> Tensor:
        """Rewards (B, H), in units of ``reward_scale``, that z expects at the configured horizons."""
        return self.trunk.predict_rewards(context)
