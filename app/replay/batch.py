"""Batches of transitions, as the replay delivers them to the update."""

from typing import NamedTuple

import torch
from torch import Tensor

from app.envs.spec import ObservationSpec


class Batch(NamedTuple):
    """Batch of B transitions; float32 unless said otherwise.

    The first six fields are in tmrl's order. ``obs`` and ``next_obs`` may be overlapping views of one tensor, so they
    must not be written to.

    Attributes:
        obs: "floats" (B, F), "images" (B, history, H, W) uint8 and "window" (B, K, W), as far as the spec has them.
        action: Action taken in ``obs`` (B, A).
        reward: Discounted sum of the m rewards that follow ``obs`` (B,). m is n_step, or less where the episode or
            the stored stream ends earlier.
        next_obs: Observation after those m steps.
        terminated: 1 where the last of the m steps terminated the episode (B,).
        truncated: 1 where it truncated the episode (B,).
        discount: gamma^m (B,); the target bootstraps with ``discount * (1 - terminated)``.
        future_rewards: Reward that comes so many steps after ``obs`` as each horizon says (B, H); horizon 1 is the
            first of the m. 0 where the mask is.
        future_mask: 1 where that step exists in the same episode (B, H).
    """

    obs: dict[str, Tensor]
    action: Tensor
    reward: Tensor
    next_obs: dict[str, Tensor]
    terminated: Tensor
    truncated: Tensor
    discount: Tensor
    future_rewards: Tensor
    future_mask: Tensor


def random_observations(
    spec: ObservationSpec, size: int, device: str = "cpu", generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Make observations of noise.

    Args:
        spec: Format of the observations.
        size: Batch size B.
        device: Device of the tensors.
        generator: Random generator on that device; None for torch's global one.
    """
    obs = {"floats": torch.randn(size, spec.float_dim, device=device, generator=generator)}
    if spec.image_shape:
        shape = (size, *spec.image_shape)
        obs["images"] = torch.randint(0, 256, shape, dtype=torch.uint8, device=device, generator=generator)
    if spec.window:
        obs["window"] = torch.randn(size, spec.window, spec.window_dim, device=device, generator=generator)
    return obs


def random_batch(
    spec: ObservationSpec, size: int, horizons: int, device: str = "cpu", generator: torch.Generator | None = None
) -> Batch:
    """Make a batch of noise, of the shapes that the replay delivers; no episode ends in it.

    Args:
        spec: Format of the observations.
        size: Batch size B.
        horizons: Number of prediction horizons H.
        device: Device of the tensors.
        generator: Random generator on that device; None for torch's global one.
    """
    noise = {"device": device, "generator": generator}
    zeros = torch.zeros(size, device=device)
    return Batch(
        obs=random_observations(spec, size, **noise),
        action=torch.rand(size, spec.action_dim, **noise) * 2 - 1,
        reward=torch.randn(size, **noise),
        next_obs=random_observations(spec, size, **noise),
        terminated=zeros,
        truncated=zeros,
        discount=zeros + 0.99,
        future_rewards=torch.randn(size, horizons, **noise),
        future_mask=torch.ones(size, horizons, device=device),
    )
