"""From one observation to one feature vector: the float branch and the two ways of joining it with the image."""

import torch
from torch import Tensor, nn


class FloatBranch(nn.Sequential):
    """Speed, gear, rpm, lidar and past actions (B, F) → (B, dim)."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__(nn.Linear(in_dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())


class ConcatFusion(nn.Module):
    """concat(image, floats) → LayerNorm."""

    def __init__(self, image_dim: int, float_dim: int):
        super().__init__()
        self.out_dim = image_dim + float_dim
        self.norm = nn.LayerNorm(self.out_dim)

    def forward(self, image: Tensor | None, floats: Tensor) -> Tensor:
        """Join (B, image_dim) and (B, float_dim); ``image`` is None where there is no camera."""
        return self.norm(floats if image is None else torch.cat([image, floats], -1))


class GatedFusion(nn.Module):
    """g · W_i(image) + (1 − g) · W_f(floats) → LayerNorm, with a gate g per feature that sees both.

    W_i and the gate start at zero: what an untrained CNN says would be noise to the heads, so the image joins in
    as far as the critic learns to use it (the same idea as FiLM's zero start).
    """

    def __init__(self, image_dim: int, float_dim: int, out_dim: int):
        super().__init__()
        self.out_dim = out_dim
        self.from_floats = nn.Linear(float_dim, out_dim)
        self.norm = nn.LayerNorm(out_dim)
        self.has_image = image_dim > 0
        if self.has_image:
            self.from_image = nn.Linear(image_dim, out_dim)
            self.gate = nn.Linear(image_dim + float_dim, out_dim)
            for parameter in (*self.from_image.parameters(), *self.gate.parameters()):
                nn.init.zeros_(parameter)

    def forward(self, image: Tensor | None, floats: Tensor) -> Tensor:
        """Blend (B, image_dim) and (B, float_dim) to (B, out_dim)."""
        from_floats = self.from_floats(floats)
        if not self.has_image:
            return self.norm(from_floats)
        gate = self.gate(torch.cat([image, floats], -1)).sigmoid()
        return self.norm(torch.lerp(from_floats, self.from_image(image), gate))
