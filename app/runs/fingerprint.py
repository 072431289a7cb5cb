"""What makes old data poison for a new run: another environment, another architecture, another set of fixes."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.config.schema import Config
from app.errors import UserError

Flat = dict[str, Any]

# no matter to networks and data that are there
_LEARNING_ONLY = ("encoder.prediction_weight", "critic.initial_q", "value.sigma")
_EVALUATION_ONLY = ("env.eval_tracks", "env.return_range")
_HERE_ONLY = ("env.reward_file", "env.openplanet.host", "env.openplanet.port", "env.openplanet.timeout_s")
_IMAGES_ONLY = ("env.image_size", "env.image_history")


def flatten(value: Any, prefix: str = "") -> Flat:
    """Return nested mappings as dotted keys; lists stay whole, tuples become lists (as JSON has them)."""
    if not isinstance(value, Mapping):
        return {prefix: json.loads(json.dumps(value))}
    return {
        key: item
        for name, part in value.items()
        for key, item in flatten(part, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def fingerprint(config: Config) -> Flat:
    """Return the keys of the configuration that a policy, a replay and a checkpoint depend on.

    Parts that the run does not build are left out: without images no norm and no backbone, without a context
    encoder no ``encoder``.
    """
    sections = ["model", "actor", "critic", "value", "env"]
    images = config.env.images
    if images and config.model.name != "mlp":
        sections += ["norm", "backbone"]
    if config.model.contextual:
        sections.append("encoder")
    flat = flatten({section: asdict(getattr(config, section)) for section in sections})
    flat["log_std_min"] = flat.pop("actor.log_std_min")  # as it is spelt on the command line
    if config.value.kind == "scalar":
        flat = {key: value for key, value in flat.items() if key not in ("value.bins", "value.support")}
    left_out = _LEARNING_ONLY + _EVALUATION_ONLY + _HERE_ONLY + (() if images else _IMAGES_ONLY)
    return {key: value for key, value in sorted(flat.items()) if key not in left_out}


def read_fingerprint(path: Path, ways_out: str) -> Flat:
    """Read the fingerprint that a run or study left in a file.

    Args:
        path: the file.
        ways_out: what to do if it is damaged.

    Raises:
        UserError: it cannot be read, or is no JSON.
    """
    try:
        return flatten(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: is damaged: {str(error).splitlines()[0]}. {ways_out}") from None


def differences(theirs: Mapping[str, Any], yours: Mapping[str, Any]) -> list[str]:
    """Return a line ``key: theirs → yours`` for every key that differs or that one side lacks."""
    keys = sorted(theirs.keys() | yours.keys())
    return [
        f"{key}: {_shown(theirs, key)} → {_shown(yours, key)}"
        for key in keys
        if key not in theirs or key not in yours or theirs[key] != yours[key]
    ]


def refuse_other(what: str, theirs: Mapping[str, Any], yours: Mapping[str, Any], ways_out: str) -> None:
    """Raise unless both fingerprints are the same.

    Args:
        what: what was made under the fingerprint ``theirs``.
        theirs: its fingerprint.
        yours: the fingerprint of this run.
        ways_out: what to do about it.

    Raises:
        UserError: with every difference.
    """
    if found := differences(theirs, yours):
        lines = "\n".join(f"  {line}" for line in found)
        raise UserError(f"{what} was made under other settings (theirs → yours):\n{lines}\n{ways_out}")


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences of two whole configurations that a run may go on with, where it matters to know.

    Args:
        before: the flattened configuration of the checkpoint.
        now: that of this start.
    """
    elsewhere = ("runs_dir", "sweeps_dir", "run_name", "logger.", "restart", "training.init_from")
    told = (*elsewhere, "role", "workers", "network.")

    def relevant(flat: Mapping[str, Any]) -> Flat:
        return {key: value for key, value in flat.items() if not key.startswith(told)}

    return differences(relevant(before), relevant(now))


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key], ensure_ascii=False).strip('"') if key in flat else "(not there)"
