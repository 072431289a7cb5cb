"""From the configuration to an Optuna pruner."""

from optuna import pruners

from app.config.schema_pruner import PrunerConfig


def make_pruner(cfg: PrunerConfig) -> pruners.BasePruner:
    """Return the pruner that a configuration asks for; an epoch is a step of Optuna's."""
    if cfg.kind == "none":
        return pruners.NopPruner()
    return pruners.PercentilePruner(
        cfg.percentile,
        n_startup_trials=cfg.n_startup_trials,
        n_warmup_steps=cfg.n_warmup_epochs,
        interval_steps=cfg.interval_epochs,
        n_min_trials=cfg.n_min_trials,
    )
