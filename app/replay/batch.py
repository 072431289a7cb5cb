"""What one sample of the replay hands to the update."""

from typing import NamedTuple

import torch
from torch import Tensor

from app.envs.spec import ObservationSpec


class Batch(NamedTuple):
    """A batch of transitions; float32 unless said otherwise.

    The first six fields stand in tmrl's order. ``obs`` and ``next_obs`` may be overlapping views of one
    tensor: read them, do not write into them.

    Attributes:
        obs: "floats" (B, F), "images" (B, history, H, W) uint8 and "window" (B, K, W), as far as the spec
            has them.
        action: (B, A), the action taken in ``obs``.
        reward: (B,), the discounted sum of the rewards of the m steps that follow ``obs``. m is n_step, or
            less where the episode or the stored stream ends earlier.
        next_obs: The observation after those m steps.
        terminated: (B,), 1 where the last of the m steps terminated the episode.
        truncated: (B,), 1 where it truncated the episode.
        discount: (B,), gamma^m; the target bootstraps with ``discount * (1 - terminated)``.
        future_rewards: (B, H), the reward that comes that many steps after ``obs`` (horizon 1: the first of
            the m); 0 where the mask is.
        future_mask: (B, H), 1 where that step exists in the same episode.
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


def random_batch(spec: ObservationSpec, size: int, horizons: int, device: str) -> Batch:
    """Make a batch of noise, always the same, of the shapes that the replay delivers.

    Args:
        spec: the observation.
        size: B.
        horizons: H.
        device: where it lies.
    """
    generator = torch.Generator(device).manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.rand(size, *shape, device=device, generator=generator)

    obs = {"floats": noise(spec.float_dim)}
    if spec.image_shape:
        obs["images"] = (255 * noise(*spec.image_shape)).to(torch.uint8)
    if spec.window:
        obs["window"] = noise(spec.window, spec.window_dim)
    none, all_ahead = torch.zeros(size, device=device), torch.ones(size, horizons, device=device)
    return Batch(obs, noise(spec.action_dim), noise(), obs, none, none, noise(), noise(horizons), all_ahead)
