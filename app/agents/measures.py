"""Measures of an agent that show what a fault does to its networks; training needs none of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from app.agents.losses import soft_value
from app.agents.sac import SACAgent
from app.core.torch_rng import forked_rng
from app.envs.spec import STEER
from app.models.actor_critic import ActorCritic
from app.models.distributions import squashed_std
from app.replay.batch import Batch

DORMANT_TAU = 0.025  # of Sokar et al. 2023
RANK_DELTA = 0.01  # of Kumar et al. 2021
MAX_BOOTSTRAP_WEIGHT = 0.5  # of what comes after a truncation in the earned return of a state


def measure(agent: SACAgent, batch: Batch, episodes: Sequence[Batch], seed: int) -> dict[str, float]:
    """Measure the trained networks; neither the agent nor any random generator is changed.

    Args:
        agent: The agent.
        batch: Transitions of the replay.
        episodes: Finished training episodes, each as the batch of its transitions in order.
        seed: Seed of the sampled actions and of dropout.

    Returns:
        The measures by metric name. One that has no meaning for the model or the task, or is not finite, is missing.
    """
    agent = _copied(agent)  # modes are switched, and running statistics change
    with forked_rng(seed):
        measures = {
            **train_eval_gap(agent.model, batch),
            **action_noise(agent, batch),
            **trunk_gradients(agent, batch),
            **q_against_earned(agent, episodes),
            **unit_use(agent.model, batch),
        }
    return {name: number for name, value in measures.items() if math.isfinite(number := float(value))}


# --- pure functions ---


def mean_gap(one: Tensor, other: Tensor) -> Tensor:
    """Mean absolute difference of two tensors of one shape, a scalar."""
    return (one - other).abs().mean()


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Cosine of the angle between two vectors (D,), a scalar; NaN if one of them is zero."""
    return one @ other / (one.norm() * other.norm())


def dormant_share(layers: Iterable[Tensor], tau: float) -> Tensor:
    """Share of the units whose mean activation is at most ``tau`` times the mean of their layer, a scalar.

    Sokar et al. 2023, arXiv:2302.12902, definition 3.1.

    Args:
        layers: Activations (n, B, width) of layers of n networks each; a network's layer is one of its own.
        tau: Threshold.

    Returns:
        The share; NaN if an activation is not finite.
    """
    scores = [layer.abs().mean(1) for layer in layers]  # (n, width)
    if not all(score.isfinite().all() for score in scores):
        return torch.tensor(math.nan)
    dormant = [score <= tau * score.mean(-1, keepdim=True) for score in scores]
    return torch.cat([units.flatten() for units in dormant]).float().mean()


def effective_rank(features: Tensor, delta: float) -> Tensor:
    """Smallest number of singular values whose sum is at least 1 − ``delta`` of the sum of all, a scalar.

    Kumar et al. 2021, arXiv:2010.14498, section 3 (srank).

    Args:
        features: Features (B, D) of B states; NaN if one is not finite or all are zero.
        delta: Share of the sum that may be left out.
    """
    if not features.isfinite().all() or not features.any():
        return torch.tensor(math.nan)
    values = torch.linalg.svdvals(features.double())
    return 1 + (values.cumsum(0) < (1 - delta) * values.sum()).sum()


def soft_returns(reward: Tensor, discount: Tensor, bonus: Tensor, n_step: int, end: float) -> Tensor:
    """Discounted soft return (T,) that followed every step of an episode.

    It is the fixed point of the n-step Bellman target that the critic learns: ``R[t] = reward[t] + discount[t] ·
    (R[t + n] + bonus[t + n])``, so the entropy counts at every n-th step, beginning with the n-th.

    Args:
        reward: Discounted sums of the rewards of at most n steps (T,).
        discount: Gamma to the power of the number of rewards in that sum (T,).
        bonus: Entropy bonus ``−α log π`` in the observation before every step (T,).
        n_step: Number n of steps.
        end: Soft value of the observation after the last step; 0 if it terminated the episode.
    """
    rewards, discounts, bonuses = reward.tolist(), discount.tolist(), bonus.tolist()
    returns: list[float] = []
    for t in reversed(range(len(rewards))):
        later = len(rewards) - 1 - t - n_step  # place in the reversed list of the step n later
        value = returns[later] + bonuses[t + n_step] if later >= 0 else end
        returns.append(rewards[t] + discounts[t] * value)
    return torch.tensor(returns[::-1], device=reward.device)


# --- measures of an agent, whose modes they switch ---


@torch.no_grad()
def train_eval_gap(model: ActorCritic, batch: Batch) -> dict[str, Tensor]:
    """Difference of Q and of the deterministic action between train and eval mode, for the same states.

    Batch norm (fault 2) and dropout (fault 3) make acting another function than the one that was trained.
    """
    (q_eval, action_eval), (q_train, action_train) = (_outputs(model.train(mode), batch) for mode in (False, True))
    return {
        "train_eval_gap_q": mean_gap(q_train, q_eval),
        "train_eval_gap_action": mean_gap(action_train, action_eval),
    }


@torch.no_grad()
def action_noise(agent: SACAgent, batch: Batch) -> dict[str, Tensor]:
    """Standard deviation of the sampled action in a state, averaged over states and components (fault 1).

    Cars have that of the steering alone, too.
    """
    model = agent.model.eval()
    features, film_params, _ = model.forward_features(batch.obs)
    std = squashed_std(*model.policy.gaussian(features, film_params))
    steering = {} if agent.env.plain_vector else {"steering_noise": std[:, STEER].mean()}
    return {"action_noise": std.mean(), **steering}


def trunk_gradients(agent: SACAgent, batch: Batch) -> dict[str, Tensor]:
    """Norms of the gradients of critic and actor loss on the shared trunk, and their cosine (faults 4 and 5).

    The actor's is the one that the trunk would get without ``actor.detach``. Empty for a trunk without parameters.
    """
    agent.model.train()
    shared = list(agent.model.shared_parameters())
    if not shared:
        return {}
    critic_loss, features, _ = agent.critic_loss(batch)
    actor_loss, *_ = agent.policy_loss(features)
    critic, actor = (_gradient(loss, shared) for loss in (critic_loss, actor_loss))
    return {
        "grad_trunk_critic": critic.norm(),
        "grad_trunk_actor": actor.norm(),
        "grad_trunk_cosine": cosine(critic, actor),
    }


@torch.no_grad()
def q_against_earned(agent: SACAgent, episodes: Sequence[Batch]) -> dict[str, Tensor]:
    """Mean Q of what was done in some episodes, and the mean soft return that it really earned (faults 6 and 8).

    The difference is the bias of Q (REDQ: Chen et al. 2021, arXiv:2101.05982, section 3). Where an episode was
    truncated, as by a time limit or at the end of a lap, the critic bootstraps, and so does the earned return, with the
    target network. That part of it, γ to the power of the steps left, shows no bias, so only states count for which it
    is less than ``MAX_BOOTSTRAP_WEIGHT``: those with at least 69 steps left for γ = 0.99. Every state of a terminated
    episode counts. Empty if no state does.

    Args:
        agent: The agent.
        episodes: Finished episodes, each as the batch of its transitions in order.
    """
    agent.model.eval()
    agent.target.eval()
    pairs = [_predicted_and_earned(agent, episode) for episode in episodes]
    if not sum(len(earned) for _, earned in pairs):
        return {}
    predicted, earned = map(torch.cat, zip(*pairs, strict=True))
    return {"q_predicted": predicted.mean(), "q_earned": earned.mean()}


@torch.no_grad()
def unit_use(model: ActorCritic, batch: Batch) -> dict[str, Tensor]:
    """Share of dormant units in the Q-heads, and effective rank of the features unless they are the bare inputs."""
    features, film_params, _ = model.eval().forward_features(batch.obs)
    layers = model.q_heads.activations(features, film_params, batch.action)
    learned = any(True for _ in model.shared_parameters())
    rank = {"feature_rank": effective_rank(features, RANK_DELTA)} if learned else {}
    return {"dormant_share": dormant_share(layers, DORMANT_TAU), **rank}


def _copied(agent: SACAgent) -> SACAgent:
    """Return a copy whose recurrent weights are in one piece, as cuDNN wants them."""
    copied = deepcopy(agent)
    for network in (copied.model, copied.target):
        for layer in network.modules():
            if isinstance(layer, nn.RNNBase):
                layer.flatten_parameters()
    return copied


def _outputs(model: ActorCritic, batch: Batch) -> tuple[Tensor, Tensor]:
    """Q-values (n, B) of the actions that were taken, and the deterministic actions (B, A)."""
    features, film_params, _ = model.forward_features(batch.obs)
    action, *_ = model.actor_from_features(features, film_params, deterministic=True)
    return model.q_from_features(features, film_params, batch.action), action


def _gradient(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Gradient of a loss as one vector; the graph is kept. A parameter that it does not depend on has zeros."""
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def _predicted_and_earned(agent: SACAgent, episode: Batch) -> tuple[Tensor, Tensor]:
    """Mean Q over the heads, and the soft return, of the states of an episode that count."""
    model, gamma, n_step = agent.model, agent.cfg.gamma, agent.cfg.n_step
    features, film_params, _ = model.forward_features(episode.obs)
    _, log_prob, _ = model.actor_from_features(features, film_params, deterministic=False)
    predicted = model.q_from_features(features, film_params, episode.action).mean(0)
    terminated = bool(episode.terminated[-1])
    end = 0.0 if terminated else float(_soft_value(agent, {name: part[-1:] for name, part in episode.next_obs.items()}))
    earned = soft_returns(episode.reward, episode.discount, -agent.alpha * log_prob, n_step, end)
    steps_left = torch.arange(len(earned), 0, -1, device=earned.device)
    counts = torch.full_like(earned, terminated, dtype=torch.bool) | (gamma**steps_left < MAX_BOOTSTRAP_WEIGHT)
    return predicted[counts], earned[counts]


def _soft_value(agent: SACAgent, obs: Mapping[str, Tensor]) -> Tensor:
    """Soft values (B,) of observations by the target network, as the Bellman target computes them."""
    features, film_params, _ = agent.target.forward_features(obs)
    action, log_prob, _ = agent.model.actor_from_features(features, film_params, deterministic=False)
    q = agent.target.q_from_features(features, film_params, action)
    return soft_value(q, log_prob, agent.alpha)
