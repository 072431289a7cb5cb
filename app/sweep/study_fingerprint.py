"""Settings that must match before trials are compared with those of an existing study."""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from app.config.renamed_keys import current_name
from app.config.schema import Config
from app.runs.fingerprint import FlatDict, fingerprint, flatten, recorded_fingerprint, require_same_fingerprint

HINT = (
    "Add +restart=clean to remove the study with what its trials left (restart.dry_run=true shows it first), "
    "or keep it and choose another hydra.sweeper.study_name."
)
SEARCHED = "hydra.sweeper.params"
_SECTIONS = ("agent", "replay", "training", "health")
_WITHOUT_EFFECT = (  # on the score of a trial
    "training.checkpoint_interval_s",
    "training.eval_episodes_other",
    "replay.keep_after_trial",
    "health.on_collapse",
    "health.clipped_targets",
    "health.measure_states",
)


def study_fingerprint(config: Config, searched: Collection[str], directions: Collection[str]) -> FlatDict:
    """Return the settings that the trials of a study have in common: task, architecture, fixes, schedule and objective.

    Args:
        config: Configuration before anything is searched.
        searched: Keys and groups whose values differ between the trials.
        directions: Directions of the objectives, "minimize" or "maximize".
    """
    settings = flatten({section: asdict(getattr(config, section)) for section in _SECTIONS})
    flat = {"objective": config.objective, "seed": config.seed, **settings, **fingerprint(config)}
    kept = {key: value for key, value in flat.items() if key not in _WITHOUT_EFFECT}
    return _without_searched(kept, searched) | {"hydra.sweeper.direction": list(directions), SEARCHED: sorted(searched)}


def recorded_study_fingerprint(flat: Mapping[str, Any]) -> FlatDict:
    """Return a fingerprint that any version recorded under the names that its keys have now."""
    known = recorded_fingerprint(flat)
    if SEARCHED in known:
        known[SEARCHED] = sorted(current_name(key) for key in known[SEARCHED])
    return known


def require_same_study(subject: str, recorded: Mapping[str, Any], current: FlatDict) -> None:
    """Raise unless the trials of two sweeps are comparable; keys that either of them searches may differ.

    Args:
        subject: Description of the study, such as "study mine in sqlite:///study.db".
        recorded: Fingerprint of the study.
        current: Fingerprint of this sweep.

    Raises:
        UserError: With every difference.
    """
    searched = {*current[SEARCHED], *(recorded[SEARCHED] if SEARCHED in recorded else ()), SEARCHED}
    require_same_fingerprint(subject, *(_without_searched(flat, searched) for flat in (recorded, current)), HINT)


def merged_fingerprint(recorded: Mapping[str, Any] | None, current: FlatDict) -> FlatDict:
    """Return the fingerprint of a study after another launch: the recorded one, less the keys that are now searched.

    Args:
        recorded: Fingerprint of the study; None for a new one.
        current: Fingerprint of the launch.
    """
    if recorded is None or SEARCHED not in recorded:
        return current
    searched = sorted({*recorded[SEARCHED], *current[SEARCHED]})
    return _without_searched(recorded, searched) | {SEARCHED: searched}


def is_part(key: str, wholes: Collection[str]) -> bool:
    """Return whether a key is one of some keys and groups, or lies below one."""
    return any(f"{key}.".startswith(f"{whole}.") for whole in wholes)


def _without_searched(flat: Mapping[str, Any], searched: Collection[str]) -> FlatDict:
    """Return settings without the searched ones; of a list with a searched item, the other items stay as keys."""
    items = {
        key: {f"{key}.{index}": item for index, item in enumerate(value)}
        if isinstance(value, list) and any(is_part(part, [key]) for part in searched)
        else {key: value}
        for key, value in flat.items()
    }
    return {key: value for group in items.values() for key, value in group.items() if not is_part(key, searched)}
