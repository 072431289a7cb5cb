"""Histories of runs: the metrics of every epoch, as the health score and the collapse rules read them."""

# One epoch as a healthy run without images has it (seed 0, 4 000 updates).
EPOCH = {
    "updates": 500, "loss_critic": 0.3, "loss_actor": -17.8, "q_mean": 1.0, "alpha": 0.04, "entropy": -0.5,
    "reward_min": 0.0, "reward_max": 1.0, "return_test_det": 260.0, "return_test_stoch": 250.0,
}  # fmt: skip
# Seed 0 of experiment=collapse without images: q_mean, alpha and entropy of its first five epochs.
BROKEN = [(1.05, 0.093, 1.78), (4.09, 0.081, 0.68), (1.18, 0.083, -4.13), (-1.72, 0.092, -2.72), (-3.58, 0.086, 1.95)]


def history(count: int = 0, **columns) -> list[dict]:
    """Epochs like EPOCH, 500 updates each, with a list of values or one value for some metrics."""
    count = count or max(len(column) for column in columns.values() if isinstance(column, list))
    epochs = [EPOCH | {"updates": 500 * number} for number in range(1, count + 1)]
    for name, column in columns.items():
        for epoch, value in zip(epochs, column if isinstance(column, list) else [column] * count, strict=True):
            epoch[name] = value
    return epochs


def broken(*q_means: float) -> list[dict]:
    """The first epochs of a run with all faults; the last of them with other means of Q."""
    measured, alphas, entropies = map(list, zip(*BROKEN, strict=True))
    q = measured[: len(BROKEN) - len(q_means)] + list(q_means)
    return history(q_mean=q, alpha=alphas, entropy=entropies, reward_max=0.24, return_test_det=[1, 9, 2, 7, 3])
