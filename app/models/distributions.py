"""The tanh-squashed Gaussian policy (Haarnoja et al. 2018, arXiv:1812.05905, appendix C)."""

import math

import torch
from torch import Tensor
from torch.nn import functional


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
