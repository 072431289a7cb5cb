"""AdamW with the clipping of the gradient's norm folded into its one pass over the parameters."""

from typing import Any

import torch
from torch import Tensor


def make_adamw(
    parameters: list[Tensor] | list[dict[str, Any]], lr: float, betas: tuple[float, float], decay: float
) -> torch.optim.AdamW:
    """Make a fused AdamW, which updates every parameter in one pass."""
    return torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=decay, fused=True)


def clipped_step(
    optimizer: torch.optim.Optimizer, parameters: list[Tensor], loss: Tensor, max_norm: float | None
) -> Tensor:
    """One step on ``parameters`` alone, with their gradients clipped to a global norm.

    Args:
        optimizer: of the parameters; a fused one if ``max_norm`` is given.
        parameters: what the loss trains.
        loss: scalar.
        max_norm: largest global norm of the gradients; None to leave them as they are.

    Returns:
        The global norm before clipping.
    """
    optimizer.zero_grad()
    loss.backward(inputs=parameters)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if max_norm is not None:
        # torch.amp.GradScaler's protocol: a fused optimiser divides the gradients by this within its pass.
        optimizer.grad_scale = ((norm + 1e-6) / max_norm).clamp(min=1)
    optimizer.step()
    return norm
