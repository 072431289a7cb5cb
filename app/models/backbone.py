"""CNN backbone: EfficientNetV2 (Tan & Le 2021, arXiv:2104.00298) in the configured size."""

from torch import Tensor, nn

from app.config.schema import BackboneConfig, NormConfig, StageConfig
from app.models.layers import DepthwiseConv, PointwiseConv, make_norm


def _conv(norm: NormConfig, cin: int, cout: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(cin, cout, 3, stride, 1, bias=_needs_bias(norm)), make_norm(norm, cout)]


def _pointwise(norm: NormConfig, cin: int, cout: int) -> list[nn.Module]:
    return [PointwiseConv(cin, cout, _needs_bias(norm)), make_norm(norm, cout)]


def _depthwise(norm: NormConfig, channels: int, stride: int) -> list[nn.Module]:
    return [DepthwiseConv(channels, stride, _needs_bias(norm)), make_norm(norm, channels)]


def _needs_bias(norm: NormConfig) -> bool:
    return norm.kind == "none"  # every other norm adds a shift itself


class SqueezeExcite(nn.Module):
    """Channel attention from the global average (Hu et al. 2018, arXiv:1709.01507).

    Args:
        channels: Channels of the feature map.
        squeezed: Width of the bottleneck.
    """

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
    """Inverted residual: a fused 3×3 expansion without squeeze-and-excitation, a depthwise one with it.

    Args:
        cfg: Stage that the block belongs to.
        norm: Normalisation of the feature maps.
        cin: Channels of the input.
        stride: Stride of the 3×3 convolution.
    """

    def __init__(self, cfg: StageConfig, norm: NormConfig, cin: int, stride: int):
        super().__init__()
        expanded, cout = cin * cfg.expand, cfg.channels
        if cfg.se:
            layers = [*_pointwise(norm, cin, expanded), nn.SiLU(), *_depthwise(norm, expanded, stride), nn.SiLU()]
            layers += [SqueezeExcite(expanded, max(1, cin // 4)), *_pointwise(norm, expanded, cout)]
        elif cfg.expand == 1:
            layers = [*_conv(norm, cin, cout, stride), nn.SiLU()]
        else:
            layers = [*_conv(norm, cin, expanded, stride), nn.SiLU(), *_pointwise(norm, expanded, cout)]
        self.layers = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        """(B, cin, H, W) → (B, cout, H/stride, W/stride)."""
        y = self.layers(x)
        return x + y if self.has_shortcut else y


class Backbone(nn.Module):
    """Stem, stages, 1×1 head, global average pool and linear layer: (B, C, H, W) → (B, out_dim).

    Args:
        cfg: Channels and blocks.
        norm: Normalisation of the feature maps.
        in_channels: Channels C of the images.
        out_dim: Width of the output.
    """

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
        """Encode float32 images (B, C, H, W), fastest in channels-last memory, to (B, out_dim)."""
        return self.out(self.features(images).mean((2, 3)))
