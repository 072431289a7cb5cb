"""Losses of SAC (Haarnoja et al. 2018, arXiv:1812.05905) as pure functions of tensors."""

from torch import Tensor


def bellman_target(
    reward: Tensor, discount: Tensor, terminated: Tensor, next_q: Tensor, next_log_prob: Tensor, alpha: Tensor
) -> Tensor:
    """Soft n-step Bellman target (B,): Haarnoja et al. 2018, equations 2 and 3, with the minimum over the heads.

    The minimum counters overestimation (clipped double Q: Fujimoto et al. 2018, arXiv:1802.09477). A terminated
    episode ends with its reward; a truncated one is bootstrapped.

    Args:
        reward: Discounted sum of the n rewards (B,).
        discount: Gamma to the power of the number of rewards in that sum (B,).
        terminated: 1 where the last of those steps terminated the episode (B,).
        next_q: Q-values of the target heads for the next state and action (n, B).
        next_log_prob: Log-probability of that action (B,).
        alpha: Entropy coefficient, a scalar.
    """
    return reward + discount * (1 - terminated) * soft_value(next_q, next_log_prob, alpha)


def soft_value(q: Tensor, log_prob: Tensor, alpha: Tensor) -> Tensor:
    """Soft value of a state (B,): Haarnoja et al. 2018, equation 3, with the minimum over the heads.

    Args:
        q: Q-values of the heads for a sampled action (n, B).
        log_prob: Log-probability of that action (B,).
        alpha: Entropy coefficient, a scalar.
    """
    return q.amin(0) - alpha * log_prob


def actor_loss(q: Tensor, log_prob: Tensor, alpha: Tensor) -> Tensor:
    """Policy loss ``mean(alpha · log_prob − min Q)``, Haarnoja et al. 2018, equation 7.

    Args:
        q: Q-values of the heads for the sampled actions (n, B).
        log_prob: Log-probability of these actions (B,).
        alpha: Entropy coefficient, a scalar.
    """
    return (alpha * log_prob - q.amin(0)).mean()


def entropy_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Loss of the entropy coefficient: Haarnoja et al. 2018, equation 18, with log alpha in place of alpha.

    Its gradient raises alpha while the entropy of the policy is below ``target_entropy``.

    Args:
        log_alpha: Logarithm of the entropy coefficient, a scalar.
        log_prob: Log-probability of the sampled actions (B,); no gradient passes through it.
        target_entropy: Entropy to reach, in nats.
    """
    return -(log_alpha * (log_prob.detach() + target_entropy).mean())


def prediction_loss(predicted: Tensor, rewards: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of predicted rewards (B, H) where ``mask`` (B, H) is 1; 0 if it is 0 everywhere."""
    return ((predicted - rewards).square() * mask).sum() / mask.sum().clamp(min=1)
