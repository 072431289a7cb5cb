"""What makes the trials of a study comparable."""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from app.config.schema import Config
from app.runs.fingerprint import Flat, fingerprint, flatten, refuse_other

WAYS_OUT = (
    "Add +restart=clean to remove the study with what its trials left (restart.dry_run=true shows it first), "
    "or keep it and choose another hydra.sweeper.study_name."
)
SEARCHED = "hydra.sweeper.params"
_SECTIONS = ("agent", "replay", "training", "health")
_FREE = (  # change no score
    "training.checkpoint_interval_s",
    "training.eval_episodes_other",
    "replay.keep",
    "health.on_collapse",
    "health.clipped_targets",
)


def study_fingerprint(config: Config, searched: Collection[str], directions: Collection[str]) -> Flat:
    """Return what the trials of a study have in common: environment, architecture, fixes, schedule, and what is judged.

    Args:
        config: before anything is searched.
        searched: keys and groups whose values belong to the trials.
        directions: of the objective.
    """
    settings = flatten({section: asdict(getattr(config, section)) for section in _SECTIONS})
    flat = {"objective": config.objective, "seed": config.seed, **settings, **fingerprint(config)}
    kept = {key: value for key, value in flat.items() if key not in _FREE and not _is_part(key, searched)}
    return kept | {"hydra.sweeper.direction": list(directions), SEARCHED: sorted(searched)}


def refuse_other_study(what: str, theirs: Mapping[str, Any], mine: Flat) -> None:
    """Raise unless the trials of two sweeps are comparable: what either of them searches may differ.

    Args:
        what: the study, in words.
        theirs: the fingerprint that it was made under.
        mine: that of this sweep.

    Raises:
        UserError: with every difference.
    """
    searched = {*mine[SEARCHED], *(theirs[SEARCHED] if SEARCHED in theirs else ()), SEARCHED}
    fixed = ({key: value for key, value in flat.items() if not _is_part(key, searched)} for flat in (theirs, mine))
    refuse_other(what, *fixed, WAYS_OUT)


def widened(theirs: Mapping[str, Any] | None, mine: Flat) -> Flat:
    """Return what a study is known by after another launch: as it was made, but for what is searched as well.

    Args:
        theirs: what it was known by; None for a new one.
        mine: of the launch.
    """
    if theirs is None or SEARCHED not in theirs:
        return mine
    searched = sorted({*theirs[SEARCHED], *mine[SEARCHED]})
    return {key: value for key, value in theirs.items() if not _is_part(key, searched)} | {SEARCHED: searched}


def _is_part(key: str, of: Collection[str]) -> bool:
    """Whether a key is one of some keys and groups, or lies below one."""
    return any(f"{key}.".startswith(f"{part}.") for part in of)
