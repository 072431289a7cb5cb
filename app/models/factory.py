"""Factory of the networks; the only module that knows every ``model`` option."""

from app.config.schema import Config
from app.envs.spec import ObservationSpec
from app.models.actor_critic import ActorCritic, PolicyNetwork
from app.models.heads import PolicyHead, QHeads
from app.models.trunk import ContextualTrunk, FloatTrunk, HybridTrunk
from app.models.value import make_value


def _make_trunk(config: Config, spec: ObservationSpec) -> FloatTrunk | HybridTrunk:
    if config.model.name == "mlp":
        return FloatTrunk(spec)
    if config.model.contextual:
        return ContextualTrunk(
            spec,
            config.model,
            config.backbone,
            config.norm,
            config.encoder,
            film_layers=config.critic.num_layers,
            film_width=config.critic.hidden_dim,
        )
    return HybridTrunk(spec, config.model, config.backbone, config.norm)


def _make_policy(config: Config, spec: ObservationSpec, in_dim: int) -> PolicyHead:
    return PolicyHead(config.actor, in_dim, spec.action_dim, spec.one_sided_actions, modulated=config.model.contextual)


def make_policy_network(config: Config, spec: ObservationSpec) -> PolicyNetwork:
    """Build trunk and policy head, initialised from torch's global random generator."""
    trunk = _make_trunk(config, spec)
    return PolicyNetwork(trunk, _make_policy(config, spec, trunk.out_dim), config.actor.detach)


def make_actor_critic(config: Config, spec: ObservationSpec) -> ActorCritic:
    """Build the actor-critic that ``model`` names, initialised from torch's global random generator."""
    trunk = _make_trunk(config, spec)
    policy = _make_policy(config, spec, trunk.out_dim)
    value = make_value(config.value, config.env, config.agent, spec.action_dim)
    q_heads = QHeads(config.critic, value, trunk.out_dim, spec.action_dim, modulated=config.model.contextual)
    return ActorCritic(trunk, policy, q_heads, config.actor.detach)
