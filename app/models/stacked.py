"""Layers that hold ``n`` independent copies of themselves and run as one batched product.

The two streams of the context encoder and the Q-heads are small: on a CPU most of their cost is the overhead
of many tiny operations, so copies that share a shape share a call.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize


class StackedLinear(nn.Module):
    """``n`` linear layers: (n, B, in) → (n, B, out); an input (B, in) is given to every copy."""

    def __init__(self, n: int, in_features: int, out_features: int):
        super().__init__()
        bound = 1 / math.sqrt(in_features)  # the distribution of torch.nn.Linear
        self.weight = nn.Parameter(torch.empty(n, in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n, 1, out_features).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Apply every copy to its slice of ``x``."""
        weight = self.weight
        if x.dim() == 2:
            x = x.expand(weight.shape[0], -1, -1)
        return torch.baddbmm(self.bias, x, weight)

    def extra_repr(self) -> str:
        """Show the shape in ``print(model)``."""
        n, in_features, out_features = self.weight.shape
        return f"{n} × ({in_features} → {out_features})"


class StackedLayerNorm(nn.Module):
    """``n`` layer norms over the last dimension of (n, B, dim), each with its own scale and shift."""

    def __init__(self, n: int, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n, 1, dim))
        self.bias = nn.Parameter(torch.zeros(n, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, then scale and shift."""
        return torch.addcmul(self.bias, functional.layer_norm(x, x.shape[-1:]), self.weight)


class _StackedSpectralNorm(nn.Module):
    """Divide every copy's weight by its largest singular value (Miyato et al. 2018, one power iteration)."""

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
    """Constrain every copy of ``layer`` to a largest singular value of 1."""
    parametrize.register_parametrization(layer, "weight", _StackedSpectralNorm(layer.weight))
    return layer
