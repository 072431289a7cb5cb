"""The one place where observations are scaled from physical units to order 1."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from app.envs.spec import ObservationSpec


class ScaleInputs(nn.Module):
    """Observation tensors in physical units → network inputs of order 1."""

    def __init__(self, spec: ObservationSpec):
        super().__init__()
        sensors = torch.tensor(spec.sensor_scale, dtype=torch.float32)
        history = torch.ones(spec.action_history * spec.action_dim)
        self.register_buffer("floats_gain", 1 / torch.cat([sensors, history]), persistent=False)
        shown = sensors[list(spec.window_sensors)]
        reward = torch.tensor([spec.reward_scale], dtype=torch.float32)
        self.register_buffer(
            "window_gain", 1 / torch.cat([shown, torch.ones(spec.action_dim), reward]), persistent=False
        )
        self.reward_scale = spec.reward_scale

    def floats(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Scaled floats (B, F)."""
        return obs["floats"] * self.floats_gain

    def images(self, obs: Mapping[str, Tensor]) -> Tensor:
        """uint8 images (B, C, H, W) → float32 in [0, 1], channels last (1.5 × faster convolutions on a CPU)."""
        return obs["images"].to(torch.float32, memory_format=torch.channels_last).mul_(1 / 255)

    def window(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Scaled context window (B, K, W)."""
        return obs["window"] * self.window_gain
