"""Layers of the networks: normalisation, FiLM, ensembles of linear layers, convolutions for small feature maps."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from app.config.schema import NormConfig

# --- normalisation ---


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of every pixel of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over C."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def make_norm(cfg: NormConfig, channels: int) -> nn.Module:
    """Build one normalisation layer for feature maps of ``channels`` channels.

    ``batch`` is the broken setting (fault 2): its running statistics follow a replay whose distribution keeps
    moving, so that ``eval()`` computes another function than the one that was trained.
    """
    if cfg.kind == "group":
        return nn.GroupNorm(cfg.groups, channels)
    if cfg.kind == "batch":
        return nn.BatchNorm2d(channels)
    if cfg.kind == "layer":
        return LayerNorm2d(channels)
    return nn.Identity()


# --- FiLM ---


def film(x: Tensor, params: Tensor) -> Tensor:
    """Feature-wise linear modulation, ``x * (1 + scale) + shift`` (FiLM: Perez et al. 2018, arXiv:1709.07871).

    Args:
        x: Features (..., B, width).
        params: Scale and shift (B, 2, width); zeros leave ``x`` unchanged.
    """
    scale, shift = params[:, 0], params[:, 1]
    return x * (1 + scale) + shift


class FiLMGenerator(nn.Module):
    """Network from the context z (B, dim) to scale and shift of every modulated layer (B, layers, 2, width).

    Its last layer starts at zero, so that FiLM is the identity before training.

    Args:
        dim: Width of the context.
        hidden_dim: Width of the hidden layer.
        layers: Number of modulated layers.
        width: Width of each of them.
    """

    def __init__(self, dim: int, hidden_dim: int, layers: int, width: int):
        super().__init__()
        self.shape = (layers, 2, width)
        self.hidden = nn.Sequential(nn.Linear(dim, hidden_dim), nn.SiLU())
        self.out = nn.Linear(hidden_dim, layers * 2 * width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, z: Tensor) -> Tensor:
        """Generate the scales and shifts."""
        return self.out(self.hidden(z)).unflatten(-1, self.shape)


# --- ensembles: n layers of one shape, computed in batched products ---


class StackedLinear(nn.Module):
    """``n`` linear layers: (n, B, in) → (n, B, out); an input (B, in) is given to all of them.

    Args:
        n: Number of layers.
        in_features: Width of the input.
        out_features: Width of the output.
    """

    def __init__(self, n: int, in_features: int, out_features: int):
        super().__init__()
        bound = 1 / math.sqrt(in_features)  # the initial distribution of torch.nn.Linear
        self.weight = nn.Parameter(torch.empty(n, in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n, 1, out_features).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Apply every layer to its slice of ``x``."""
        weight = self.weight
        if x.dim() == 2:
            x = x.expand(weight.shape[0], -1, -1)
        return torch.baddbmm(self.bias, x, weight)

    def extra_repr(self) -> str:
        """Shape, for ``print(model)``."""
        n, in_features, out_features = self.weight.shape
        return f"{n} × ({in_features} → {out_features})"


class StackedLayerNorm(nn.Module):
    """``n`` layer norms over the last dimension of (n, B, dim), each with its own scale and shift.

    Args:
        n: Number of layers.
        dim: Width of the features.
    """

    def __init__(self, n: int, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n, 1, dim))
        self.bias = nn.Parameter(torch.zeros(n, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, then scale and shift."""
        return torch.addcmul(self.bias, functional.layer_norm(x, x.shape[-1:]), self.weight)


class _StackedSpectralNorm(nn.Module):
    """Spectral normalisation of n weights, one power iteration per call (Miyato et al. 2018, arXiv:1802.05957)."""

    def __init__(self, weight: Tensor):
        super().__init__()
        n, in_features, _ = weight.shape
        self.register_buffer("u", functional.normalize(torch.randn(n, 1, in_features), dim=-1))

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            v = functional.normalize(self.u @ weight, dim=-1)
            u = functional.normalize(v @ weight.mT, dim=-1)
            if self.training:
                self.u.copy_(u)
        sigma = (u @ weight * v).sum(-1, keepdim=True)
        return weight / sigma


def spectral_norm(layer: StackedLinear) -> StackedLinear:
    """Constrain the largest singular value of every weight of ``layer`` to 1."""
    parametrize.register_parametrization(layer, "weight", _StackedSpectralNorm(layer.weight))
    return layer


# --- convolutions: on small maps a call to a convolution is mostly overhead, and plain products are faster ---
# The parameters are those of torch.nn.Conv2d. Only the size of the map decides which form is computed, so that the
# actor and the trainer round alike.


class PointwiseConv(nn.Conv2d):
    """1×1 convolution; a linear layer over the channels where the map has at most 16 pixels.

    Args:
        cin: Channels of the input.
        cout: Channels of the output.
        bias: Add a bias.
    """

    def __init__(self, cin: int, cout: int, bias: bool):
        super().__init__(cin, cout, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, cin, H, W) → (B, cout, H, W)."""
        if x.shape[2] * x.shape[3] > 16:
            return super().forward(x)
        return functional.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class DepthwiseConv(nn.Conv2d):
    """3×3 convolution of every channel on its own; a sum of products where the map has at most 2×2 pixels.

    Args:
        channels: Channels of input and output.
        stride: 1 or 2.
        bias: Add a bias.
    """

    def __init__(self, channels: int, stride: int, bias: bool):
        super().__init__(channels, channels, 3, stride, 1, groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H/stride, W/stride)."""
        height, width = x.shape[2:]
        if max(height, width) > 2:
            return super().forward(x)
        if height == width == 1:  # the rest of the kernel lies on the padding
            y = x * self.weight[:, 0, 1, 1, None, None]
        else:
            y = self._sum_of_products(x, range(0, height, self.stride[0]), range(0, width, self.stride[1]))
        return y if self.bias is None else y + self.bias[:, None, None]

    def _sum_of_products(self, x: Tensor, rows: range, columns: range) -> Tensor:
        """Weigh all pixels of the map for every output pixel, centred on one of ``rows`` and ``columns``."""
        height, width = x.shape[2:]
        kernel = self.weight[:, 0].permute(1, 2, 0)
        parts = [kernel[1 - i : 1 - i + height, 1 - j : 1 - j + width] for i in rows for j in columns]
        y = (x.permute(0, 2, 3, 1)[:, None] * torch.stack(parts)).sum((2, 3))  # (B, outputs, H, W, C) → (B, outputs, C)
        return y.unflatten(1, (len(rows), len(columns))).permute(0, 3, 1, 2)
