"""Normalisation of the CNN, chosen by config (fault 2)."""

from torch import Tensor, nn

from app.config.schema import NormConfig


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of every pixel of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over C."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def make_norm(cfg: NormConfig, channels: int) -> nn.Module:
    """Build one normalisation layer for ``channels`` feature maps.

    ``batch`` is the broken setting: its running statistics follow a replay whose distribution keeps moving, so
    that ``eval()`` computes another function than the one that was trained.
    """
    if cfg.kind == "group":
        return nn.GroupNorm(cfg.groups, channels)
    if cfg.kind == "batch":
        return nn.BatchNorm2d(channels)
    if cfg.kind == "layer":
        return LayerNorm2d(channels)
    return nn.Identity()
