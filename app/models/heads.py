"""The policy head and the ensemble of Q-heads, with and without FiLM."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.config.schema import ActorConfig, CriticConfig
from app.models.distributions import DeterministicAction, squashed_gaussian
from app.models.film import film
from app.models.stacked import StackedLayerNorm, StackedLinear, spectral_norm
from app.models.value import Value


class PolicyHead(nn.Module):
    """Features (B, D) → tanh-squashed Gaussian over actions (B, A).

    With ``modulated`` the layers are residual and take FiLM parameters, otherwise they are a plain SiLU MLP.
    ``one_sided`` names the components that act above 0 only, for the deterministic action. The floor of the log-std
    comes from config: at -2 (fault 1) the policy keeps 13.5 % noise for ever.
    """

    def __init__(self, cfg: ActorConfig, in_dim: int, action_dim: int, one_sided: Sequence[int], modulated: bool):
        super().__init__()
        self.log_std_min, self.log_std_max, self.modulated = cfg.log_std_min, cfg.log_std_max, modulated
        depth = cfg.num_layers if modulated else cfg.num_layers - 1
        self.embed = nn.Linear(in_dim, cfg.hidden_dim)
        self.hidden = nn.ModuleList(nn.Linear(cfg.hidden_dim, cfg.hidden_dim) for _ in range(depth))
        self.out = nn.Linear(cfg.hidden_dim, 2 * action_dim)
        self.deterministic = DeterministicAction(action_dim, one_sided)

    def gaussian(self, features: Tensor, film_params: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and bounded log-std (B, A) of the Gaussian before squashing."""
        x = functional.silu(self.embed(features))
        for i, layer in enumerate(self.hidden):
            y = layer(x)
            x = x + functional.silu(film(y, film_params[:, i])) if self.modulated else functional.silu(y)
        mean, log_std = self.out(x).chunk(2, -1)
        return mean, log_std.clamp(self.log_std_min, self.log_std_max)

    def forward(
        self, features: Tensor, film_params: Tensor | None, test: bool | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Action (B, A), its log-probability (B,) and the log-std (B, A).

        The action is the deterministic one where ``test``, for all or per row (B,); the log-probability is then that
        of the mode.
        """
        mean, log_std = self.gaussian(features, film_params)
        if test is False:
            return *squashed_gaussian(mean, log_std, torch.randn_like(mean)), log_std
        rows = torch.as_tensor(test, device=mean.device).expand(len(mean))[:, None]
        noise = None if test is True else torch.randn_like(mean).masked_fill(rows, 0.0)
        action, log_prob = squashed_gaussian(mean, log_std, noise)
        return torch.where(rows, self.deterministic(mean, log_std), action), log_prob, log_std


class QHeads(nn.Module):
    """(features (B, D), action (B, A)) → outputs (n, B, value.outputs), all heads in batched products.

    Before any update every value is about ``initial_q``, as soon as ``value`` has a support.

    A layer is Linear → [LayerNorm] → [FiLM] → ReLU → [Dropout], as in DroQ (Hiraoka et al. 2022), residual when
    modulated by FiLM.
    """

    def __init__(self, cfg: CriticConfig, value: Value, in_dim: int, action_dim: int, modulated: bool):
        super().__init__()
        self.value, self.initial_q = value, cfg.initial_q
        self.dropout, self.modulated = cfg.dropout, modulated
        n, width = cfg.num_heads, cfg.hidden_dim
        depth = cfg.num_layers if modulated else cfg.num_layers - 1
        self.embed = StackedLinear(n, in_dim + action_dim, width)
        self.hidden = nn.ModuleList(StackedLinear(n, width, width) for _ in range(depth))
        if cfg.spectral_norm:
            for layer in self.hidden:
                spectral_norm(layer)
        norms = [StackedLayerNorm(n, width) if cfg.layer_norm else nn.Identity() for _ in range(depth + 1)]
        self.norms = nn.ModuleList(norms)
        self.out = StackedLinear(n, width, value.outputs)
        if value.has_support:
            self._begin_at_initial_q()

    def set_support(self, low: float, high: float) -> None:
        """Give a categorical value its support, before the first update; values begin near ``initial_q`` then."""
        self.value.set_support(low, high)
        self._begin_at_initial_q()

    @torch.no_grad()
    def _begin_at_initial_q(self) -> None:
        self.out.bias += self.value.bias_of(self.initial_q).to(self.out.bias.device)

    def _activate(self, x: Tensor) -> Tensor:
        return (
            functional.dropout(functional.relu(x), self.dropout, self.training) if self.dropout else functional.relu(x)
        )

    def forward(self, features: Tensor, film_params: Tensor | None, action: Tensor) -> Tensor:
        """Evaluate every head; ``value.expectation`` makes Q-values (n, B) of the outputs."""
        x = self._activate(self.norms[0](self.embed(torch.cat([features, action], -1))))
        for i, layer in enumerate(self.hidden):
            y = self.norms[i + 1](layer(x))
            x = x + self._activate(film(y, film_params[:, i])) if self.modulated else self._activate(y)
        return self.out(x)
