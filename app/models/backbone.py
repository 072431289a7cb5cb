"""The CNN backbone: EfficientNetV2 (Tan & Le 2021, arXiv:2104.00298) at the size that the config asks for."""

from torch import Tensor, nn

from app.config.schema import BackboneConfig, NormConfig, StageConfig
from app.models.convolutions import DepthwiseConv, PointwiseConv
from app.models.norms import make_norm


def _conv(norm: NormConfig, cin: int, cout: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(cin, cout, 3, stride, 1, bias=_needs_bias(norm)), make_norm(norm, cout)]


def _pointwise(norm: NormConfig, cin: int, cout: int) -> list[nn.Module]:
    return [PointwiseConv(cin, cout, _needs_bias(norm)), make_norm(norm, cout)]


def _depthwise(norm: NormConfig, channels: int, stride: int) -> list[nn.Module]:
    return [DepthwiseConv(channels, stride, _needs_bias(norm)), make_norm(norm, channels)]


def _needs_bias(norm: NormConfig) -> bool:
    return norm.kind == "none"  # every other norm has a shift of its own


class SqueezeExcite(nn.Module):
    """Channel attention from the global average (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.reduce = nn.Linear(channels, squeezed)
        self.expand = nn.Linear(squeezed, channels)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of (B, C, H, W)."""
        scale = self.expand(self.act(self.reduce(x.mean((2, 3))))).sigmoid()
        return x * scale[:, :, None, None]


class Block(nn.Module):
    """Inverted residual: fused 3×3 expansion without SE, depthwise with SE."""

    def __init__(self, cfg: StageConfig, norm: NormConfig, cin: int, stride: int):
        super().__init__()
        wide, cout = cin * cfg.expand, cfg.channels
        if cfg.se:
            layers = [*_pointwise(norm, cin, wide), nn.SiLU(), *_depthwise(norm, wide, stride), nn.SiLU()]
            layers += [SqueezeExcite(wide, max(1, cin // 4)), *_pointwise(norm, wide, cout)]
        elif cfg.expand == 1:
            layers = [*_conv(norm, cin, cout, stride), nn.SiLU()]
        else:
            layers = [*_conv(norm, cin, wide, stride), nn.SiLU(), *_pointwise(norm, wide, cout)]
        self.layers = nn.Sequential(*layers)
        self.identity = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        """(B, cin, H, W) → (B, cout, H/stride, W/stride)."""
        y = self.layers(x)
        return x + y if self.identity else y


class Backbone(nn.Module):
    """Stem, stages, 1×1 head, global average pool, linear: (B, C, H, W) → (B, out_dim)."""

    def __init__(self, cfg: BackboneConfig, norm: NormConfig, in_channels: int, out_dim: int):
        super().__init__()
        layers = [*_conv(norm, in_channels, cfg.stem_channels, 2), nn.SiLU()]
        channels = cfg.stem_channels
        for stage in cfg.stages:
            for i in range(stage.blocks):
                layers.append(Block(stage, norm, channels, stage.stride if i == 0 else 1))
                channels = stage.channels
        layers += [*_pointwise(norm, channels, cfg.head_channels), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        self.out = nn.Linear(cfg.head_channels, out_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (B, C, H, W), float32 in channels-last memory for speed, to (B, out_dim)."""
        return self.out(self.features(images).mean((2, 3)))
