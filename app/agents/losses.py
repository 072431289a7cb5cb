"""The losses of SAC (Haarnoja et al. 2018, arXiv:1812.05905) and DroQ (Hiraoka et al. 2022, arXiv:2110.02034).

Pure functions of tensors: no network, no optimiser, no state.
"""

from torch import Tensor


def bellman_target(
    reward: Tensor, discount: Tensor, terminated: Tensor, next_q: Tensor, next_log_prob: Tensor, alpha: Tensor
) -> Tensor:
    """Soft n-step Bellman target (B,).

    A terminated episode is worth its reward; a truncated one goes on in the eyes of the critic.

    Args:
        reward: discounted sum of the n rewards (B,).
        discount: gamma to the power of the steps really summed (B,).
        terminated: 1 where the last of those steps ended the task (B,).
        next_q: Q-values of the target heads at the next state and action (n, B).
        next_log_prob: log-probability of that action (B,).
        alpha: entropy coefficient, scalar.
    """
    soft_value = next_q.amin(0) - alpha * next_log_prob
    return reward + discount * (1 - terminated) * soft_value


def actor_loss(q: Tensor, log_prob: Tensor, alpha: Tensor) -> Tensor:
    """Entropy-regularised policy loss of SAC: ``mean(alpha · log_prob − min Q)`` for q (n, B), log_prob (B,)."""
    return (alpha * log_prob - q.amin(0)).mean()


def entropy_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Loss whose gradient raises alpha while the policy's entropy is below ``target_entropy``."""
    return -(log_alpha * (log_prob.detach() + target_entropy).mean())


def prediction_loss(predicted: Tensor, rewards: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of predicted rewards (B, H) where ``mask`` (B, H) is 1; 0 if it never is."""
    return ((predicted - rewards).square() * mask).sum() / mask.sum().clamp(min=1)
