"""Policy head and ensemble of Q-heads, with and without FiLM."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.config.schema import ActorConfig, CriticConfig
from app.models.distributions import DeterministicAction, squashed_gaussian
from app.models.layers import StackedLayerNorm, StackedLinear, film, spectral_norm
from app.models.value import Value


class PolicyHead(nn.Module):
    """Policy head: features (B, D) → tanh-squashed Gaussian over actions (B, A).

    The log-std is clamped to the range of the configuration: at a minimum of -2 (fault 1) the policy can never
    have less than 13.5 % noise.

    Args:
        cfg: The ``actor`` group.
        in_dim: Width D of the features.
        action_dim: Number of action components A.
        one_sided: Components that act above 0 only, for the deterministic action.
        modulated: Residual layers that FiLM modulates; otherwise a plain MLP. Both use SiLU.
    """

    def __init__(self, cfg: ActorConfig, in_dim: int, action_dim: int, one_sided: Sequence[int], modulated: bool):
        super().__init__()
        self.log_std_min, self.log_std_max, self.modulated = cfg.log_std_min, cfg.log_std_max, modulated
        depth = cfg.num_layers if modulated else cfg.num_layers - 1
        self.embed = nn.Linear(in_dim, cfg.hidden_dim)
        self.hidden = nn.ModuleList(nn.Linear(cfg.hidden_dim, cfg.hidden_dim) for _ in range(depth))
        self.out = nn.Linear(cfg.hidden_dim, 2 * action_dim)
        self.deterministic_action = DeterministicAction(action_dim, one_sided)

    def gaussian(self, features: Tensor, film_params: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and bounded log-std (B, A) of the Gaussian before squashing."""
        x = functional.silu(self.embed(features))
        for i, layer in enumerate(self.hidden):
            y = layer(x)
            x = x + functional.silu(film(y, film_params[:, i])) if self.modulated else functional.silu(y)
        mean, log_std = self.out(x).chunk(2, -1)
        return mean, log_std.clamp(self.log_std_min, self.log_std_max)

    def forward(
        self, features: Tensor, film_params: Tensor | None, deterministic: bool | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute actions for a batch of features.

        Args:
            features: Output of the trunk (B, D).
            film_params: Scale and shift per modulated layer (B, layers, 2, width); None without FiLM.
            deterministic: Deterministic actions instead of sampled ones, for all rows or per row (B,).

        Returns:
            Actions (B, A), their log-probabilities (B,), which are those of the Gaussian's mode for deterministic
            actions, and the log-std (B, A).
        """
        mean, log_std = self.gaussian(features, film_params)
        if deterministic is False:
            return *squashed_gaussian(mean, log_std, torch.randn_like(mean)), log_std
        rows = torch.as_tensor(deterministic, device=mean.device).expand(len(mean))[:, None]
        noise = None if deterministic is True else torch.randn_like(mean).masked_fill(rows, 0.0)
        action, log_prob = squashed_gaussian(mean, log_std, noise)
        return torch.where(rows, self.deterministic_action(mean, log_std), action), log_prob, log_std


class QHeads(nn.Module):
    """Ensemble of n Q-heads: features (B, D) and actions (B, A) → outputs (n, B, value.outputs).

    A layer is Linear → [LayerNorm] → [FiLM] → ReLU → [Dropout], as in DroQ (Hiraoka et al. 2022, arXiv:2110.02034),
    and residual when modulated by FiLM. Until the first update every value is about ``initial_q``, provided that
    ``value`` has a support.

    Args:
        cfg: The ``critic`` group.
        value: Representation of a value by the outputs of a head.
        in_dim: Width D of the features.
        action_dim: Number of action components A.
        modulated: Residual layers that FiLM modulates; otherwise a plain MLP.
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
            self._add_initial_q()

    def set_support(self, low: float, high: float) -> None:
        """Set the support of a categorical value before the first update; values start near ``initial_q`` then."""
        self.value.set_support(low, high)
        self._add_initial_q()

    @torch.no_grad()
    def _add_initial_q(self) -> None:
        self.out.bias += self.value.outputs_for(self.initial_q).to(self.out.bias.device)

    def _activate(self, x: Tensor) -> Tensor:
        x = functional.relu(x)
        return functional.dropout(x, self.dropout, self.training) if self.dropout else x

    def activations(self, features: Tensor, film_params: Tensor | None, action: Tensor) -> list[Tensor]:
        """Activations (n, B, width) of every hidden layer, before they are added to the residual stream."""
        return self._hidden_layers(features, film_params, action)[1]

    def forward(self, features: Tensor, film_params: Tensor | None, action: Tensor) -> Tensor:
        """Evaluate every head; ``value.expectation`` converts the outputs to Q-values (n, B)."""
        return self.out(self._hidden_layers(features, film_params, action)[0])

    def _hidden_layers(
        self, features: Tensor, film_params: Tensor | None, action: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Input of the last layer (n, B, width), and the activations of every hidden one."""
        x = self._activate(self.norms[0](self.embed(torch.cat([features, action], -1))))
        activations = [x]
        for i, layer in enumerate(self.hidden):
            y = self.norms[i + 1](layer(x))
            activations.append(self._activate(film(y, film_params[:, i]) if self.modulated else y))
            x = x + activations[-1] if self.modulated else activations[-1]
        return x, activations
