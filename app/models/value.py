"""Value representations: a scalar, or a categorical distribution over bins (HL-Gauss).

With a cross-entropy over bins the gradient of a large error is no larger than that of a medium one (Farebrother et
al. 2024, arXiv:2403.03950), while with the squared error a single crash dominates the gradient of its batch.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from app.config.schema import AgentConfig, ValueConfig
from app.config.schema_env import EnvConfig

_UNIFORM_SHARE = 1e-3  # of the initial distribution, so that every bin starts with some probability

Support = tuple[float, float]


def bin_edges(support: Tensor, bins: int) -> Tensor:
    """Edges (bins + 1,) of equally wide bins over ``support`` (2,)."""
    low, high = support
    return low + (high - low) * torch.linspace(0, 1, bins + 1, device=support.device)


def hl_gauss(target: Tensor, edges: Tensor, sigma: float) -> Tensor:
    """Histogram of a Gaussian around each target.

    HL-Gauss: Imani & White 2018, arXiv:1806.04613; Farebrother et al. 2024, arXiv:2403.03950, section 3.1.

    Args:
        target: Values (B,), clamped to the outer edges.
        edges: Edges of the bins (bins + 1,), equally spaced.
        sigma: Standard deviation of the Gaussian, as a share of the width of a bin.

    Returns:
        Probabilities (B, bins), each row summing to 1.
    """
    width = edges[1] - edges[0]
    target = target.clamp(edges[0], edges[-1])
    cdf = torch.erf((edges - target[:, None]) / (math.sqrt(2) * sigma * width))
    mass = cdf[:, 1:] - cdf[:, :-1]
    return mass / (cdf[:, -1:] - cdf[:, :1])


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of every head's logits (n, B, bins) against target probabilities (B, bins)."""
    return -(target * logits.log_softmax(-1)).sum(-1).mean()


def squared_error(values: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of every head (n, B) against one target (B,), averaged over heads."""
    return (values - target).square().mean()


class ScalarValue(nn.Module):
    """Value as the single output of a head, trained with the squared error."""

    outputs = 1
    has_support = True

    def expectation(self, outputs: Tensor) -> Tensor:
        """Values (n, B) of the heads' outputs (n, B, 1)."""
        return outputs.squeeze(-1)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Squared error of outputs (n, B, 1) against target values (B,)."""
        return squared_error(self.expectation(outputs), target)

    def outputs_for(self, value: float) -> Tensor:
        """Output (1,) that represents ``value``."""
        return torch.tensor([value])

    def contains(self, value: float) -> bool:
        """Tell that every value can be represented."""
        return True

    def target_metrics(self, target: Tensor) -> Mapping[str, Tensor]:
        """No metrics: no target (B,) is ever clipped."""
        return {}


class CategoricalValue(nn.Module):
    """Value as the expectation of a distribution over bins, trained with a cross-entropy against HL-Gauss targets.

    The outputs of a head are the logits of the bins. The support is a buffer, because for tasks of unknown range it is
    set after the warm-up and belongs to the checkpoint; it is NaN until then.

    Args:
        cfg: The ``value`` group.
        support: Lowest and highest value; None if not known yet.
    """

    def __init__(self, cfg: ValueConfig, support: Support | None):
        super().__init__()
        self.outputs, self.sigma = cfg.bins, cfg.sigma
        self.register_buffer("support", torch.tensor(support or (math.nan, math.nan)))

    @property
    def has_support(self) -> bool:
        """True if the support is known."""
        return bool(self.support.isfinite().all())

    def set_support(self, low: float, high: float) -> None:
        """Set the lowest and the highest value."""
        self.support.copy_(torch.tensor((low, high)))

    @property
    def edges(self) -> Tensor:
        """Edges of the bins (bins + 1,)."""
        return bin_edges(self.support, self.outputs)

    def expectation(self, outputs: Tensor) -> Tensor:
        """Values (n, B) of the heads' logits (n, B, bins)."""
        edges = self.edges
        return outputs.softmax(-1) @ ((edges[1:] + edges[:-1]) / 2)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of logits (n, B, bins) against the smoothed target values (B,)."""
        return cross_entropy(outputs, hl_gauss(target, self.edges, self.sigma))

    def outputs_for(self, value: float) -> Tensor:
        """Logits (bins,) whose expectation is about ``value``; about an edge of the support for values beyond it."""
        target = hl_gauss(torch.tensor([value]), self.edges.cpu(), self.sigma)[0]
        return torch.lerp(target, torch.full_like(target, 1 / self.outputs), _UNIFORM_SHARE).log()

    def contains(self, value: float) -> bool:
        """Tell whether a value lies within the support."""
        low, high = self.support.tolist()
        return low <= value <= high

    def target_metrics(self, target: Tensor) -> Mapping[str, Tensor]:
        """Share of the targets (B,) beyond the support, which the loss clips."""
        low, high = self.support
        return {"q_target_clipped": ((target < low) | (target > high)).float().mean()}


Value = ScalarValue | CategoricalValue


def make_value(cfg: ValueConfig, env: EnvConfig, agent: AgentConfig, action_dim: int) -> Value:
    """Build the value representation that the ``value`` group names."""
    if cfg.kind == "scalar":
        return ScalarValue()
    return CategoricalValue(cfg, cfg.support or support_of_env(env, agent, action_dim))


def support_of_env(env: EnvConfig, agent: AgentConfig, action_dim: int) -> Support | None:
    """Return the lowest and highest soft value that the rewards of an environment allow; None if they are unknown.

    The highest value is that of the highest reward at every step without end, because the critic bootstraps from
    truncated episodes. The lowest is that of ``env.return_range``, or 0.
    """
    if env.highest_reward is None:
        return None
    low, _ = env.return_range or (0.0, 0.0)
    return _with_entropy(min(low, 0.0), env.highest_reward / (1 - agent.gamma), agent, action_dim)


def support_of_rewards(lowest: float, highest: float, env: EnvConfig, agent: AgentConfig, action_dim: int) -> Support:
    """Return the lowest and highest soft value, given the lowest and the highest reward of the warm-up.

    Each is the value of such a reward at every step without end, widened to ``env.return_range`` where that is known.
    """
    horizon, (low, high) = 1 / (1 - agent.gamma), env.return_range or (0.0, 0.0)
    return _with_entropy(min(lowest * horizon, low, 0.0), max(highest * horizon, high, 0.0), agent, action_dim)


def _with_entropy(low: float, high: float, agent: AgentConfig, action_dim: int) -> Support:
    """Add the discounted entropy bonus: at least of the target entropy, at most of a uniform policy on [-1, 1]^A."""
    horizon = max(agent.alpha, agent.alpha_min) / (1 - agent.gamma)
    target = -action_dim if agent.target_entropy is None else agent.target_entropy
    return low + horizon * min(target, 0.0), high + horizon * action_dim * math.log(2)
