"""Tanh-squashed Gaussian policy (SAC: Haarnoja et al. 2018, arXiv:1812.05905, appendix C)."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

_NODES = 32  # of the quadrature: the error is at most 0.01, because of the kink at 0


def squashed_gaussian(mean: Tensor, log_std: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """Action and log-probability of ``tanh(mean + exp(log_std) * noise)``.

    The log-probability is not clamped.

    Args:
        mean: Mean of the Gaussian (B, A).
        log_std: Logarithm of its standard deviation (B, A).
        noise: Standard normal values (B, A); None for the mode of the Gaussian.

    Returns:
        The action (B, A) in (-1, 1) and its log-probability (B,).
    """
    noise = torch.zeros_like(mean) if noise is None else noise
    u = mean + log_std.exp() * noise
    gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    log_slope = log_tanh_slope(
        u
    )  # before tanh: autograd adds the gradients of u in this order, and rounding follows it
    return u.tanh(), (gaussian - log_slope).sum(-1)


def gauss_hermite() -> tuple[Tensor, Tensor]:
    """Nodes and weights (nodes,) of a quadrature: ``f(nodes) @ weights`` is about E[f(ε)] for a standard normal ε."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    return torch.tensor(nodes, dtype=torch.float32), torch.tensor(weights / weights.sum(), dtype=torch.float32)


def squashed_std(mean: Tensor, log_std: Tensor) -> Tensor:
    """Standard deviation (B, A) of ``tanh(mean + exp(log_std) · ε)`` with a standard normal ε, by quadrature.

    Args:
        mean: Mean of the Gaussian (B, A).
        log_std: Logarithm of its standard deviation (B, A).
    """
    nodes, weights = (part.to(mean.device) for part in gauss_hermite())
    samples = (mean.unsqueeze(-1) + log_std.exp().unsqueeze(-1) * nodes).tanh()
    expected = (samples * weights).sum(-1, keepdim=True)
    return ((samples - expected).square() * weights).sum(-1).sqrt()


def squashed_entropy(mean: Tensor, log_std: Tensor) -> Tensor:
    """Differential entropy (B,) in nats of ``tanh(mean + exp(log_std) · ε)``, by quadrature.

    It is the entropy of the Gaussian and the expected logarithm of the slope of tanh, which is ``1 - tanh(u)²``.

    Args:
        mean: Mean of the Gaussian (B, A).
        log_std: Logarithm of its standard deviation (B, A).
    """
    nodes, weights = (part.to(mean.device) for part in gauss_hermite())
    u = mean.unsqueeze(-1) + log_std.exp().unsqueeze(-1) * nodes
    gaussian = 0.5 * (1 + math.log(2 * math.pi)) + log_std
    return (gaussian + (log_tanh_slope(u) * weights).sum(-1)).sum(-1)


def log_tanh_slope(u: Tensor) -> Tensor:
    """Logarithm of ``1 - tanh(u)²``, in the stable form ``2 (log 2 - u - softplus(-2u))``."""
    return 2 * (math.log(2) - u - functional.softplus(-2 * u))


class DeterministicAction(nn.Module):
    """Deterministic action (B, A) of a squashed Gaussian with mean and log-std (B, A).

    It is ``tanh(mean)``, except for one-sided components, such as a brake that acts above 0 only. There it is the
    expected effect of the sampled actions, ``E[max(0, tanh(mean + std · ε))]``: noise around a released brake brakes
    a little, and the policy learns to rely on that, while ``tanh(mean)`` would not brake at all (docs/lab.md, 12).
    The expectation is computed by Gauss-Hermite quadrature.

    Args:
        action_dim: Number of components A.
        one_sided: Components that act above 0 only.
    """

    def __init__(self, action_dim: int, one_sided: Sequence[int]):
        super().__init__()
        self.any_one_sided = bool(one_sided)
        nodes, weights = gauss_hermite()
        self.register_buffer("nodes", nodes, persistent=False)
        self.register_buffer("weights", weights, persistent=False)
        mask = torch.zeros(action_dim)
        mask[list(one_sided)] = 1
        self.register_buffer("one_sided", mask, persistent=False)

    def forward(self, mean: Tensor, log_std: Tensor) -> Tensor:
        """Compute the action."""
        if not self.any_one_sided:
            return mean.tanh()
        samples = (mean.unsqueeze(-1) + log_std.exp().unsqueeze(-1) * self.nodes).tanh()
        expected_effect = (samples.relu() * self.weights).sum(-1)
        return torch.lerp(mean.tanh(), expected_effect, self.one_sided)
