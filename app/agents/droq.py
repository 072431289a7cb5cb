"""The SAC/DroQ agent: encode once per update, train the critic, then the actor, then the entropy coefficient."""

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from app.agents.guard import check_finite
from app.agents.losses import (
    actor_loss,
    bellman_target,
    entropy_loss,
    prediction_loss,
)
from app.agents.optimizer import clipped_step, make_adamw
from app.config.schema import Config
from app.envs.spec import ObservationSpec
from app.models.actor import DrivingActor
from app.models.actor_critic import HybridActorCritic
from app.models.factory import make_actor_critic
from app.models.trunk import Features
from app.models.value import support_of_rewards
from app.replay.batch import Batch
from app.tmrl_api import TrainingAgent


class DroQAgent(TrainingAgent):
    """Soft actor-critic with a shared trunk, as a tmrl TrainingAgent.

    Args:
        observation_space: as tmrl passes it.
        action_space: as tmrl passes it.
        device: where the networks live.
        config: the run's configuration.
        spec: the observation.
    """

    def __init__(self, observation_space, action_space, device: str, config: Config, spec: ObservationSpec):
        super().__init__(observation_space, action_space, device)
        self.cfg, cfg, self.env = config.agent, config.agent, config.env
        self.model: HybridActorCritic = make_actor_critic(config, spec).to(device, memory_format=torch.channels_last)
        self.target = deepcopy(self.model).to(device).requires_grad_(False)
        self.averaged = deepcopy(self.model).to(device).requires_grad_(False)
        self.prediction_weight, self.reward_scale = config.encoder.prediction_weight, spec.reward_scale
        self.target_entropy = -float(spec.action_dim) if cfg.target_entropy is None else cfg.target_entropy
        start = math.log(max(cfg.alpha, cfg.alpha_floor))
        self.log_alpha = torch.tensor(start, device=device, requires_grad=cfg.learn_entropy_coef)
        self.critic_params = list(self.model.critic_parameters())
        self.actor_params = list(self.model.actor_parameters())
        self.critic_optimizer = make_adamw(
            self._critic_groups(), cfg.lr_critic, cfg.betas_critic, cfg.weight_decay_critic
        )
        self.actor_optimizer = make_adamw(self.actor_params, cfg.lr_actor, cfg.betas_actor, cfg.weight_decay_actor)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=cfg.lr_entropy)
        self.updates = 0
        self.metrics: dict[str, float] = {}  # of the newest update
        self._target_pairs = _pairs(self.target, self.model)
        self._averaged_pairs = _float_pairs(self.averaged, self.model)
        self._actor = DrivingActor(observation_space, action_space, config, spec)

    def _critic_groups(self) -> list[dict[str, Any]]:
        """The critic's parameters, the image branch with a learning rate of its own."""
        images = list(self.model.image_parameters())
        ids = {id(p) for p in images}
        rest = [p for p in self.critic_params if id(p) not in ids]
        return [{"params": rest}, *([{"params": images, "lr": self.cfg.lr_backbone}] if images else [])]

    @property
    def alpha(self) -> Tensor:
        """The entropy coefficient, a scalar outside every graph."""
        return self.log_alpha.detach().exp()

    def get_actor(self) -> DrivingActor:
        """The deployable actor with the newest weights, always the same object."""
        self._actor.copy_from(self.model)
        return self._actor

    @property
    def policies(self) -> dict[str, HybridActorCritic]:
        """The networks that can be deployed: with the newest weights, and with their moving average."""
        return {"raw": self.model, "averaged": self.averaged}

    def fit_support(self, reward_min: float, reward_max: float) -> None:
        """Fix the support of a categorical value that has none by the rewards of the warm-up."""
        if not self.model.q_heads.value.has_support:
            dim = self.action_space.shape[0]
            support = support_of_rewards(reward_min, reward_max, self.env, self.cfg, dim)
            for network in (self.model, self.target, self.averaged):
                network.q_heads.set_support(*support)

    def state_dict(self) -> dict[str, Any]:
        """Everything that learning has changed: tensors and plain numbers."""
        return {
            "model": self.model.state_dict(),
            "target": self.target.state_dict(),
            "averaged": self.averaged.state_dict(),
            "log_alpha": self.log_alpha.detach(),
            "optimizers": {name: optimizer.state_dict()["state"] for name, optimizer in self._optimizers().items()},
            "updates": self.updates,
        }

    def check_weights(self) -> None:
        """Raise NonFiniteError if a parameter is NaN or infinite: such networks must not become a checkpoint."""
        for policy, network in self.policies.items():
            parts = network.named_parameters()
            check_finite(
                {f"{policy} weights of {name}": float(part.detach().sum()) for name, part in parts}, self.updates
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned; learning rates, betas and decays are those of the configuration."""
        self.model.load_state_dict(state["model"])
        self.target.load_state_dict(state["target"])
        self.averaged.load_state_dict(state["averaged"])
        if self.cfg.learn_entropy_coef:  # one that is not learned is the configuration's
            self.log_alpha.data.copy_(state["log_alpha"])
        self.updates = state["updates"]
        for name, optimizer in self._optimizers().items():
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state["optimizers"][name], "param_groups": groups})

    def load_weights(self, model: Mapping[str, Tensor]) -> None:
        """Begin with the networks of another run: targets and averages are copies of them, optimisers stay fresh."""
        for network in (self.model, self.target, self.averaged):
            network.load_state_dict(model)

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"critic": self.critic_optimizer, "actor": self.actor_optimizer, "alpha": self.alpha_optimizer}

    def train(self, batch: Batch) -> dict[str, float]:
        """One update of critic, actor, entropy coefficient and target.

        Args:
            batch: as the replay gives it, on this agent's device.

        Returns:
            Metrics, every one finite.

        Raises:
            NonFiniteError: naming the first quantity that is NaN or infinite.
        """
        self.updates += 1
        features, metrics = self.update_critic(batch)
        metrics |= self.update_actor(features if self.model.detach_actor else self.model.forward_features(batch.obs))
        self.update_target()
        self.update_averaged()
        values = torch.stack([value.detach() for value in metrics.values()]).tolist()  # one sync per update
        self.metrics = dict(zip(metrics, values, strict=True))
        check_finite(self.metrics, self.updates)
        return self.metrics

    def update_critic(self, batch: Batch) -> tuple[Features, dict[str, Tensor]]:
        """Train trunk and Q-heads; return the features of ``batch.obs`` for the actor to reuse."""
        model, alpha = self.model, self.alpha
        with torch.no_grad():
            # Policy and Q-heads read the target's features of o′, so that o′ is encoded once.
            coming = self.target.forward_features(batch.next_obs)
            action, log_prob, _ = model.actor_from_features(coming.features, coming.film_params, test=False)
            next_q = self.target.q_from_features(coming.features, coming.film_params, action)
            target = bellman_target(batch.reward, batch.discount, batch.terminated, next_q, log_prob, alpha)
        seen = model.forward_features(batch.obs)
        value = model.q_heads.value
        outputs = model.q_outputs_from_features(seen.features, seen.film_params, batch.action)
        bellman = loss = value.loss(outputs, target)
        q = value.expectation(outputs.detach())
        metrics = _means("obs", batch.obs) | _means("next_obs", batch.next_obs) | {"action": batch.action.mean()}
        metrics |= {"reward": batch.reward.mean(), "q_target_mean": target.mean(), "q_mean": q.mean()}
        metrics |= {"q_max": q.max(), "loss_critic": bellman, "td_error": (q - target).abs().mean()}
        metrics |= value.clipped_share(target)
        if seen.context is not None:
            predicted = model.predict_rewards(seen.context)
            surprise = prediction_loss(predicted, batch.future_rewards / self.reward_scale, batch.future_mask)
            loss = loss + self.prediction_weight * surprise
            metrics |= {"loss_prediction": surprise, "film_scale": seen.film_params[:, :, 0].abs().mean()}
        metrics["grad_norm_critic"] = clipped_step(self.critic_optimizer, self.critic_params, loss, self.cfg.grad_clip)
        return seen, metrics

    def update_actor(self, seen: Features) -> dict[str, Tensor]:
        """Train the policy head on features that ``shield`` lets it see, then the entropy coefficient."""
        model, alpha = self.model, self.alpha
        features, film_params, _ = model.shield(seen)
        action, log_prob, log_std = model.actor_from_features(features, film_params, test=False)
        q = model.q_from_features(features, film_params, action)
        loss = actor_loss(q, log_prob, alpha)
        norm = clipped_step(self.actor_optimizer, self.actor_params, loss, self.cfg.grad_clip)
        metrics = {"loss_actor": loss, "grad_norm_actor": norm, "entropy": -log_prob.mean()}
        metrics |= {"log_std_mean": log_std.mean(), "alpha": alpha}
        if self.cfg.learn_entropy_coef:
            metrics["loss_entropy"] = entropy_loss(self.log_alpha, log_prob, self.target_entropy)
            clipped_step(self.alpha_optimizer, [self.log_alpha], metrics["loss_entropy"], None)
            if self.cfg.alpha_floor:
                self.log_alpha.data.clamp_(min=math.log(self.cfg.alpha_floor))
        return metrics

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target's parameters towards the model's (polyak) and copy its buffers."""
        _follow(self._target_pairs, self.cfg.polyak)

    @torch.no_grad()
    def update_averaged(self) -> None:
        """Move the averaged weights towards the model's; they reach back over a tenth of the updates at most."""
        _follow(self._averaged_pairs, min(self.cfg.policy_ema, self.updates / (self.updates + 10)))


def _means(name: str, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Means of the float parts of an observation, for the guard against NaN."""
    return {f"{name}.{key}": part.mean() for key, part in obs.items() if part.is_floating_point()}


def _follow(pairs: tuple, keep: float) -> None:
    """Keep a share of the following parameters, take the rest from the others, and copy the buffers."""
    (followers, sources), (follower_buffers, buffers) = pairs
    torch._foreach_lerp_(followers, sources, 1 - keep)
    if buffers:
        torch._foreach_copy_(follower_buffers, buffers)


def _pairs(target: HybridActorCritic, model: HybridActorCritic) -> tuple:
    """Return what follows and what it follows: first the parameters, then the buffers."""
    parameters = list(target.parameters()), list(model.parameters())
    return parameters, (list(target.buffers()), list(model.buffers()))


def _float_pairs(average: HybridActorCritic, model: HybridActorCritic) -> tuple:
    """Return the same with running statistics among the parameters, as they belong to the weights; then counters."""
    followers, sources = list(average.state_dict().values()), list(model.state_dict().values())
    pairs = list(zip(followers, sources, strict=True))
    kinds = ([pair for pair in pairs if pair[0].is_floating_point() is averaged] for averaged in (True, False))
    return tuple(([ours for ours, _ in kind], [theirs for _, theirs in kind]) for kind in kinds)
