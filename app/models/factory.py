"""From config and observation spec to networks: the only place that knows every ``model`` option."""

from app.config.schema import Config
from app.envs.spec import ObservationSpec
from app.models.actor_critic import (
    ContextualDroQHybridActorCritic,
    DroQHybridActorCritic,
    HybridActorCritic,
    MLPActorCritic,
    PolicyNetwork,
    SharedBackboneHybridActorCritic,
)
from app.models.heads import PolicyHead, QHeads
from app.models.trunk import ContextualTrunk, FloatTrunk, HybridTrunk
from app.models.value import make_value

_CLASSES = {
    "mlp": MLPActorCritic,
    "shared_backbone": SharedBackboneHybridActorCritic,
    "droq": DroQHybridActorCritic,
    "droq_contextual": ContextualDroQHybridActorCritic,
}


def _make_trunk(config: Config, spec: ObservationSpec) -> FloatTrunk | HybridTrunk:
    if config.model.name == "mlp":
        return FloatTrunk(spec)
    if config.model.contextual:
        return ContextualTrunk(config, spec)
    return HybridTrunk(config, spec)


def _make_policy(config: Config, spec: ObservationSpec, in_dim: int) -> PolicyHead:
    return PolicyHead(config.actor, in_dim, spec.action_dim, spec.one_sided_actions, modulated=config.model.contextual)


def make_policy_network(config: Config, spec: ObservationSpec) -> PolicyNetwork:
    """Build the part that acts: trunk and policy head, freshly initialised."""
    trunk = _make_trunk(config, spec)
    return PolicyNetwork(trunk, _make_policy(config, spec, trunk.out_dim), config.actor.detach)


def make_actor_critic(config: Config, spec: ObservationSpec) -> HybridActorCritic:
    """Build the actor-critic that ``model`` names, freshly initialised from torch's global generator."""
    trunk = _make_trunk(config, spec)
    policy = _make_policy(config, spec, trunk.out_dim)
    value = make_value(config.value, config.env, config.agent, spec.action_dim)
    q_heads = QHeads(config.critic, value, trunk.out_dim, spec.action_dim, modulated=config.model.contextual)
    return _CLASSES[config.model.name](trunk, policy, q_heads, config.actor.detach)
