"""AdamW with gradient clipping in the same pass over the parameters."""

from typing import Any

import torch
from torch import Tensor


def make_adamw(
    parameters: list[Tensor] | list[dict[str, Any]],
    lr: float,
    betas: tuple[float, float],
    decay: float,
    capturable: bool = False,
) -> torch.optim.AdamW:
    """Build a fused AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101).

    Args:
        parameters: Parameters, or parameter groups.
        lr: Learning rate of the groups that have none of their own.
        betas: Decay rates of both moments.
        decay: Weight decay.
        capturable: Whether its steps are part of a CUDA graph.
    """
    return torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=decay, fused=True, capturable=capturable)


def clipped_step(
    optimizer: torch.optim.Optimizer, parameters: list[Tensor], loss: Tensor, max_norm: float | None
) -> Tensor:
    """Train ``parameters`` by one step, with their gradients clipped to a global norm.

    Args:
        optimizer: Optimiser of the parameters; a fused one if ``max_norm`` is given.
        parameters: Parameters that get gradients; all others get none.
        loss: Loss, a scalar.
        max_norm: Largest global norm of the gradients; None for no clipping.

    Returns:
        The global norm of the gradients before clipping.
    """
    optimizer.zero_grad()
    loss.backward(inputs=parameters)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if max_norm is not None:
        # The protocol of torch.amp.GradScaler: a fused optimiser divides the gradients by this number in its pass.
        optimizer.grad_scale = ((norm + 1e-6) / max_norm).clamp(min=1)
    optimizer.step()
    return norm
