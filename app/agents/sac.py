"""Soft actor-critic (SAC: Haarnoja et al. 2018, arXiv:1812.05905) with a trunk that actor and critic share.

DroQ is a configuration of it: dropout and layer norm in the Q-heads, and more than one update per step.
"""

import logging
import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from app.agents.finite_check import check_finite
from app.agents.losses import actor_loss, bellman_target, entropy_loss, prediction_loss
from app.agents.optimizer import clipped_step, make_adamw
from app.agents.update_metrics import PackedMetrics, UpdateMetrics, pack
from app.config.schema import Config
from app.core.cuda_graph import GraphedFunction
from app.core.tmrl_api import TrainingAgent
from app.envs.spec import ObservationSpec
from app.models.actor import DrivingActor
from app.models.actor_critic import ActorCritic
from app.models.factory import make_actor_critic
from app.models.graphed_actor import make_actor
from app.models.trunk import Features
from app.models.value import support_of_rewards
from app.replay.batch import Batch

_LOG = logging.getLogger(__name__)


class SACAgent(TrainingAgent):
    """SAC as a tmrl ``TrainingAgent``.

    An update encodes every observation once and trains the critic, then the actor, then the entropy coefficient.

    Args:
        observation_space: Given by tmrl.
        action_space: Given by tmrl.
        device: Device of the networks.
        config: Configuration of the run.
        spec: Format of the observations.

    Attributes:
        model: Networks that the losses train.
        target: Slowly following copy, for the Bellman targets.
        averaged: Moving average of the weights, for evaluation and export.
        updates: Number of updates done.
    """

    def __init__(self, observation_space, action_space, device: str, config: Config, spec: ObservationSpec):
        super().__init__(observation_space, action_space, device)
        self.cfg, cfg, self.env = config.agent, config.agent, config.env
        self.model: ActorCritic = make_actor_critic(config, spec).to(device, memory_format=torch.channels_last)
        self.target = deepcopy(self.model).to(device).requires_grad_(False)
        self.averaged = deepcopy(self.model).to(device).requires_grad_(False)
        self.prediction_weight, self.reward_scale = config.encoder.prediction_weight, spec.reward_scale
        self.target_entropy = -float(spec.action_dim) if cfg.target_entropy is None else cfg.target_entropy
        initial_log_alpha = math.log(max(cfg.alpha, cfg.alpha_min))
        self.log_alpha = torch.tensor(initial_log_alpha, device=device, requires_grad=cfg.auto_alpha)
        self.critic_params = list(self.model.critic_parameters())
        self.actor_params = list(self.model.actor_parameters())
        graphed = config.cuda_graphs and torch.device(device).type == "cuda"
        self.critic_optimizer = make_adamw(
            self._critic_groups(), cfg.lr_critic, cfg.betas_critic, cfg.weight_decay_critic, graphed
        )
        self.actor_optimizer = make_adamw(
            self.actor_params, cfg.lr_actor, cfg.betas_actor, cfg.weight_decay_actor, graphed
        )
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=cfg.lr_entropy, capturable=graphed)
        self.updates = 0
        self._target_pairs = _parameter_pairs(self.target, self.model)
        self._averaged_pairs = _float_pairs(self.averaged, self.model)
        self._graph = GraphedFunction(SACAgent._update_networks) if graphed else None
        self._actor = make_actor(config, spec, device)
        if self.model.q_heads.value.has_support:
            self._warn_of_clipped_initial_q()

    def _critic_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the critic; the image branch has its own learning rate."""
        images = list(self.model.image_parameters())
        ids = {id(p) for p in images}
        rest = [p for p in self.critic_params if id(p) not in ids]
        return [{"params": rest}, *([{"params": images, "lr": self.cfg.lr_backbone}] if images else [])]

    @property
    def alpha(self) -> Tensor:
        """Entropy coefficient, a scalar without gradient."""
        return self.log_alpha.detach().exp()

    def get_actor(self) -> DrivingActor:
        """Return the deployable actor with the current weights, always the same object."""
        self._actor.copy_from(self.model)
        return self._actor

    @property
    def policies(self) -> dict[str, ActorCritic]:
        """Networks that can be deployed: the trained weights ("raw") and their moving average ("averaged")."""
        return {"raw": self.model, "averaged": self.averaged}

    def fit_support(self, reward_min: float, reward_max: float) -> None:
        """Set the support of a categorical value that has none yet, from the rewards of the warm-up.

        Args:
            reward_min: Lowest reward seen.
            reward_max: Highest reward seen.
        """
        if self.model.q_heads.value.has_support:
            return
        support = support_of_rewards(reward_min, reward_max, self.env, self.cfg, self.action_space.shape[0])
        for network in (self.model, self.target, self.averaged):
            network.q_heads.set_support(*support)
        self._warn_of_clipped_initial_q()

    def _warn_of_clipped_initial_q(self) -> None:
        heads = self.model.q_heads
        if not heads.value.contains(heads.initial_q):
            low, high = heads.value.support.tolist()
            _LOG.warning(
                "critic.initial_q = %g lies beyond the values from %.4g to %.4g that the rewards allow, so Q starts at "
                "the nearest of them. Choose an initial_q in between, or set value.support.",
                *(heads.initial_q, low, high),
            )

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training changes: tensors and plain numbers."""
        return {
            "model": self.model.state_dict(),
            "target": self.target.state_dict(),
            "averaged": self.averaged.state_dict(),
            "log_alpha": self.log_alpha.detach(),
            "optimizers": {name: optimizer.state_dict()["state"] for name, optimizer in self._optimizers().items()},
            "updates": self.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned; learning rates, betas and decays stay those of the configuration."""
        self.model.load_state_dict(state["model"])
        self.target.load_state_dict(state["target"])
        self.averaged.load_state_dict(state["averaged"])
        if self.cfg.auto_alpha:  # otherwise it is the configured one
            self.log_alpha.data.copy_(state["log_alpha"])
        self.updates = state["updates"]
        for name, optimizer in self._optimizers().items():
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state["optimizers"][name], "param_groups": groups})
        if self._graph is not None:
            self._graph.forget()  # the states of the optimisers are other tensors now

    def load_weights(self, model: Mapping[str, Tensor]) -> None:
        """Start from the networks of another run, for model, target and average alike; optimisers stay fresh."""
        for network in (self.model, self.target, self.averaged):
            network.load_state_dict(model)

    def check_weights(self) -> None:
        """Raise NonFiniteError if a parameter is NaN or infinite, so that such networks are not saved."""
        for policy, network in self.policies.items():
            parts = network.named_parameters()
            check_finite(
                {f"{policy} weights of {name}": float(part.detach().sum()) for name, part in parts}, self.updates
            )

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"critic": self.critic_optimizer, "actor": self.actor_optimizer, "alpha": self.alpha_optimizer}

    def train(self, batch: Batch) -> dict[str, float]:
        """Update critic, actor, entropy coefficient, target and average once.

        Args:
            batch: Sample of the replay on this agent's device.

        Returns:
            Metrics to be logged, all finite.

        Raises:
            NonFiniteError: An input or a metric is NaN or infinite; it names the first one.
        """
        return self.start_update(batch).read()

    def start_update(self, batch: Batch) -> UpdateMetrics:
        """Update critic, actor, entropy coefficient, target and average once, without waiting for a GPU.

        Args:
            batch: Sample of the replay on this agent's device. With CUDA graphs the next update is fastest if it is
                given the same tensors with new contents.

        Returns:
            The metrics, to be read when they are needed.
        """
        self.updates += 1
        packed = self._update_networks(batch) if self._graph is None else self._graph(self, batch)
        self.update_averaged()
        return UpdateMetrics(packed, self.updates)

    def _update_networks(self, batch: Batch) -> PackedMetrics:
        """Do the part of an update that is the same in every update, so that a CUDA graph can repeat it."""
        features, metrics = self.update_critic(batch)
        metrics |= self.update_actor(features if self.model.detach_actor else self.model.forward_features(batch.obs))
        self.update_target()
        return pack(_input_means(batch), metrics)

    def update_critic(self, batch: Batch) -> tuple[Features, dict[str, Tensor]]:
        """Train trunk and Q-heads.

        Args:
            batch: Sample of the replay.

        Returns:
            Features of ``batch.obs``, for the actor to reuse, and metrics.
        """
        loss, features, metrics = self.critic_loss(batch)
        metrics["grad_norm_critic"] = clipped_step(self.critic_optimizer, self.critic_params, loss, self.cfg.grad_clip)
        return features, metrics

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Features, dict[str, Tensor]]:
        """Loss of trunk and Q-heads.

        Args:
            batch: Sample of the replay.

        Returns:
            The loss, the features of ``batch.obs`` with their graph, and metrics.
        """
        model, alpha = self.model, self.alpha
        with torch.no_grad():
            # The policy, too, reads the target's features of the next observation, so that it is encoded once.
            next_features = self.target.forward_features(batch.next_obs)
            action, log_prob, _ = model.actor_from_features(
                next_features.features, next_features.film_params, deterministic=False
            )
            next_q = self.target.q_from_features(next_features.features, next_features.film_params, action)
            target = bellman_target(batch.reward, batch.discount, batch.terminated, next_q, log_prob, alpha)
        features = model.forward_features(batch.obs)
        value = model.q_heads.value
        outputs = model.q_outputs_from_features(features.features, features.film_params, batch.action)
        critic_loss = loss = value.loss(outputs, target)
        q = value.expectation(outputs.detach())
        metrics = {"reward": batch.reward.mean(), "q_target_mean": target.mean(), "q_mean": q.mean(), "q_max": q.max()}
        metrics |= {"loss_critic": critic_loss, "td_error": (q - target).abs().mean()} | value.target_metrics(target)
        if features.context is not None:
            predicted, rewards = model.predict_rewards(features.context), batch.future_rewards / self.reward_scale
            reward_loss = prediction_loss(predicted, rewards, batch.future_mask)
            loss = critic_loss + self.prediction_weight * reward_loss
            metrics |= {"loss_prediction": reward_loss, "film_scale": features.film_params[:, :, 0].abs().mean()}
        return loss, features, metrics

    def update_actor(self, features: Features) -> dict[str, Tensor]:
        """Train the policy head on the features of ``detach_for_actor``, then the entropy coefficient.

        Args:
            features: Features of the observations.

        Returns:
            Metrics.
        """
        loss, log_prob, log_std = self.policy_loss(self.model.detach_for_actor(features))
        norm = clipped_step(self.actor_optimizer, self.actor_params, loss, self.cfg.grad_clip)
        metrics = {"loss_actor": loss, "grad_norm_actor": norm, "entropy": -log_prob.mean()}
        metrics |= {"log_std_mean": log_std.mean(), "alpha": self.alpha}
        if self.cfg.auto_alpha:
            metrics["loss_entropy"] = entropy_loss(self.log_alpha, log_prob, self.target_entropy)
            clipped_step(self.alpha_optimizer, [self.log_alpha], metrics["loss_entropy"], None)
            if self.cfg.alpha_min:
                self.log_alpha.data.clamp_(min=math.log(self.cfg.alpha_min))
        return metrics

    def policy_loss(self, features: Features) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of the policy, the log-probability (B,) of the sampled actions, and the log-std (B, A).

        Args:
            features: Features of the observations; the gradient passes through them unless they are detached.
        """
        inputs, film_params, _ = features
        action, log_prob, log_std = self.model.actor_from_features(inputs, film_params, deterministic=False)
        q = self.model.q_from_features(inputs, film_params, action)
        return actor_loss(q, log_prob, self.alpha), log_prob, log_std

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target's parameters towards the model's by ``1 - polyak``, and copy its buffers."""
        _follow(self._target_pairs, self.cfg.polyak)

    @torch.no_grad()
    def update_averaged(self) -> None:
        """Move the averaged weights towards the model's; the first updates weigh more, as in a running mean."""
        _follow(self._averaged_pairs, min(self.cfg.policy_ema, self.updates / (self.updates + 10)))


def _input_means(batch: Batch) -> dict[str, Tensor]:
    """Means of the inputs of an update, by name; they are checked for NaN and not logged."""
    observations = {"obs": batch.obs, "next_obs": batch.next_obs}
    parts = {f"{name}.{key}": part for name, obs in observations.items() for key, part in obs.items()}
    means = {name: part.mean() for name, part in parts.items() if part.is_floating_point()}
    return means | {"action": batch.action.mean()}


class _Pairs(NamedTuple):
    """Tensors of a network that follows another one: (followers, sources), equally long lists."""

    averaged: tuple[list[Tensor], list[Tensor]]
    copied: tuple[list[Tensor], list[Tensor]]


def _follow(pairs: _Pairs, keep: float) -> None:
    """Set the averaged followers to ``keep · follower + (1 − keep) · source`` and the copied ones to their source."""
    torch._foreach_lerp_(*pairs.averaged, 1 - keep)
    if pairs.copied[0]:
        torch._foreach_copy_(*pairs.copied)


def _parameter_pairs(target: ActorCritic, model: ActorCritic) -> _Pairs:
    """Pairs that average the parameters and copy the buffers."""
    parameters = list(target.parameters()), list(model.parameters())
    return _Pairs(parameters, (list(target.buffers()), list(model.buffers())))


def _float_pairs(average: ActorCritic, model: ActorCritic) -> _Pairs:
    """Pairs that average all floats, so that running statistics fit the averaged weights, and copy the counters."""
    pairs = list(zip(average.state_dict().values(), model.state_dict().values(), strict=True))
    floats = [pair for pair in pairs if pair[0].is_floating_point()]
    others = [pair for pair in pairs if not pair[0].is_floating_point()]
    return _Pairs(*(([follower for follower, _ in kind], [source for _, source in kind]) for kind in (floats, others)))
