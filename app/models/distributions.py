"""The tanh-squashed Gaussian policy (Haarnoja et al. 2018, arXiv:1812.05905, appendix C)."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

_NODES = 32  # of the quadrature; the kink at 0 leaves an error of 0.01 at most


def squashed_gaussian(mean: Tensor, log_std: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """Action and log-probability of ``tanh(mean + exp(log_std) * noise)``.

    The log-probability is not clamped; the change of variables uses the stable form
    ``log(1 - tanh(u)²) = 2 (log 2 - u - softplus(-2u))``.

    Args:
        mean: (B, A).
        log_std: (B, A).
        noise: standard normal (B, A), or None for the mode of the Gaussian.

    Returns:
        The action (B, A) in (-1, 1) and its log-probability (B,).
    """
    noise = torch.zeros_like(mean) if noise is None else noise
    u = mean + log_std.exp() * noise
    gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    log_det = 2 * (math.log(2) - u - functional.softplus(-2 * u))
    return u.tanh(), (gaussian - log_det).sum(-1)


class DeterministicAction(nn.Module):
    """Mean and log-std of the Gaussian (B, A) → the action (B, A) that a deterministic driver takes.

    It is the mode, ``tanh(mean)``, but for one-sided components, such as a brake that acts above 0 only: there it is
    the mean of what the sampled actions do, ``E[max(0, tanh(mean + std · ε))]``. Noise around a brake that is off
    brakes a little, and the policy learns to count on it; its mode would not brake at all (docs/lab.md, 12).

    Args:
        action_dim: A.
        one_sided: components that act above 0 only.
    """

    def __init__(self, action_dim: int, one_sided: Sequence[int]):
        super().__init__()
        self.any_one_sided = bool(one_sided)
        nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)  # Gauss-Hermite: exact for polynomials
        self.register_buffer("nodes", torch.tensor(nodes, dtype=torch.float32), persistent=False)
        weights = torch.tensor(weights / weights.sum(), dtype=torch.float32)
        self.register_buffer("weights", weights, persistent=False)
        chosen = torch.zeros(action_dim)
        chosen[list(one_sided)] = 1
        self.register_buffer("one_sided", chosen, persistent=False)

    def forward(self, mean: Tensor, log_std: Tensor) -> Tensor:
        """Return the action."""
        if not self.any_one_sided:
            return mean.tanh()
        samples = (mean.unsqueeze(-1) + log_std.exp().unsqueeze(-1) * self.nodes).tanh()
        acting = (samples.relu() * self.weights).sum(-1)
        return torch.lerp(mean.tanh(), acting, self.one_sided)
