"""Feature-wise linear modulation (Perez et al. 2018) that starts as the identity."""

from torch import Tensor, nn


def film(x: Tensor, params: Tensor) -> Tensor:
    """Modulate features: ``x * (1 + scale) + shift``.

    Args:
        x: features (..., B, width).
        params: (B, 2, width), scale and shift; zeros leave ``x`` unchanged.
    """
    scale, shift = params[:, 0], params[:, 1]
    return x * (1 + scale) + shift


class FiLMGenerator(nn.Module):
    """Context z (B, dim) → scale and shift for every modulated layer (B, layers, 2, width)."""

    def __init__(self, dim: int, hidden_dim: int, layers: int, width: int):
        super().__init__()
        self.shape = (layers, 2, width)
        self.hidden = nn.Sequential(nn.Linear(dim, hidden_dim), nn.SiLU())
        self.out = nn.Linear(hidden_dim, layers * 2 * width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, z: Tensor) -> Tensor:
        """Generate the parameters."""
        return self.out(self.hidden(z)).unflatten(-1, self.shape)
