"""Configuration keys that must match before a checkpoint or replay is reused."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.config.key_effects import EVALUATION_ONLY, MACHINE_ONLY, PLACE_KEYS, can_change_learning
from app.config.renamed_keys import ADDED_KEYS, ADDED_KEYS_OF_ENV, RENAMED_KEYS
from app.config.schema import Config
from app.core.errors import UserError
from app.core.json_data import read_json

FlatDict = dict[str, Any]

# Keys of the sections in a fingerprint that existing networks and data do not depend on.
_LEARNING_ONLY = ("encoder.prediction_weight", "critic.initial_q", "value.sigma")
_IMAGES_ONLY = ("env.image_size", "env.image_history")
_CATEGORICAL_ONLY = ("value.bins", "value.support")

_WHOLE = ("env.kwargs",)  # mappings that are the value of one key

_ABSENT = "(absent)"
_ABSENT_NOTE = (
    f"A key that is {_ABSENT} belongs to a part that only one of the two has, or another version of this program made "
    "this; that version can still use it."
)


def flatten(value: Any, prefix: str = "") -> FlatDict:
    """Return nested mappings as one mapping with dotted keys.

    Lists stay whole, and tuples become lists as in JSON. The arguments of a task stay one mapping: their names are none
    of this program's keys.
    """
    if not isinstance(value, Mapping) or prefix in _WHOLE:
        return {prefix: json.loads(json.dumps(value))}
    return {
        key: item
        for name, part in value.items()
        for key, item in flatten(part, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys as nested mappings: the inverse of ``flatten``."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        section = nested
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    return nested


def with_current_names(flat: Mapping[str, Any]) -> FlatDict:
    """Return the settings that an older version recorded under the names that their keys have now.

    A key that takes the place of several is their product. If one of these is missing, the others keep their names.
    Keys that were added since have the value that changes nothing, in every section that was recorded.
    """
    renamed = dict(flat)
    for new in dict.fromkeys(RENAMED_KEYS.values()):
        old = [key for key, name in RENAMED_KEYS.items() if name == new]
        if new in flat or not all(key in flat for key in old):
            continue
        if len(old) == 1:
            renamed[new] = renamed.pop(old[0])
        elif all(isinstance(flat[key], int) for key in old):
            renamed[new] = math.prod(renamed.pop(key) for key in old)
    sections = {key.partition(".")[0] for key in renamed}
    added = {key: value for key, value in ADDED_KEYS.items() if key.partition(".")[0] in sections}
    return added | ADDED_KEYS_OF_ENV.get(str(renamed.get("env.kind")), {}) | renamed


def fingerprint(config: Config) -> FlatDict:
    """Return the settings that a policy, a replay and a checkpoint depend on.

    Parts that the run does not build are left out: without images no norm and no backbone, without a context encoder no
    ``encoder``.
    """
    sections = ["model", "actor", "critic", "value", "env"]
    if config.env.images and config.model.name != "mlp":
        sections += ["norm", "backbone"]
    if config.model.contextual:
        sections.append("encoder")
    flat = flatten({section: asdict(getattr(config, section)) for section in sections})
    flat["log_std_min"] = flat.pop("actor.log_std_min")  # as it is spelt on the command line
    return _relevant(flat)


def recorded_fingerprint(flat: Mapping[str, Any]) -> FlatDict:
    """Return a fingerprint that any version recorded as this version would record it, as far as it holds the keys."""
    return _relevant(with_current_names(flat))


def read_fingerprint(path: Path, hint: str) -> FlatDict:
    """Read the fingerprint of a run or study from its file.

    Args:
        path: The file.
        hint: What to do if the file is damaged.

    Raises:
        UserError: The file cannot be read, or holds no fingerprint.
    """
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise ValueError("it holds no settings")
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: is damaged: {str(error).splitlines()[0]}. {hint}") from None
    return recorded_fingerprint(flatten(content))


def differences(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return a line ``key: recorded → current`` for every key that differs or that one side lacks."""
    keys = sorted(recorded.keys() | current.keys())
    return [
        f"{key}: {_as_text(recorded, key)} → {_as_text(current, key)}"
        for key in keys
        if key not in recorded or key not in current or recorded[key] != current[key]
    ]


def require_same_fingerprint(subject: str, recorded: Mapping[str, Any], current: Mapping[str, Any], hint: str) -> None:
    """Raise unless two fingerprints are the same.

    Args:
        subject: What was made under the recorded fingerprint.
        recorded: Its fingerprint.
        current: The fingerprint of this run.
        hint: What to do about differences.

    Raises:
        UserError: With every difference.
    """
    if found := differences(recorded, current):
        lines = "\n".join(f"  {line}" for line in found)
        note = f"{_ABSENT_NOTE}\n" if recorded.keys() ^ current.keys() else ""
        raise UserError(f"{subject} was made under other settings (recorded → current):\n{lines}\n{note}{hint}")


def require_same_keys(subject: str, recorded: Mapping[str, Any], current: Mapping[str, Any], hint: str) -> None:
    """Raise if only one of two versions of this program knows a key that can change what is learned.

    Args:
        subject: What was made under the recorded configuration.
        recorded: Its whole configuration, flattened, with the names of this version.
        current: The whole configuration of this run, flattened.
        hint: What to do about it.

    Raises:
        UserError: With every such key.
    """
    keys = [key for key in recorded.keys() ^ current.keys() if can_change_learning(key)]
    only_recorded, only_current = ({key: flat[key] for key in keys if key in flat} for flat in (recorded, current))
    require_same_fingerprint(subject, only_recorded, only_current, hint)


def changed_settings(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return the differences between two whole configurations that are worth telling when a run continues.

    Keys that one side lacks are left out: ``require_same_keys`` refuses those that matter.

    Args:
        recorded: The flattened configuration of the checkpoint.
        current: The flattened configuration of this start.
    """
    shared = [key for key in current if key in recorded and not key.startswith(PLACE_KEYS)]
    return differences(*({key: flat[key] for key in shared} for flat in (recorded, current)))


def learning_differences(recorded: Config, current: Config) -> list[str]:
    """Return the differences between two configurations that can change what is learned.

    Args:
        recorded: Configuration of a run.
        current: Another configuration.
    """
    flats = [flatten(asdict(config.to_record())) for config in (recorded, current)]
    return differences(*({key: flat[key] for key in flat if can_change_learning(key)} for flat in flats))


def fingerprint_json(config: Config) -> str:
    """Return the fingerprint of a configuration as JSON."""
    return json.dumps(fingerprint(config), sort_keys=True, allow_nan=False)


def fingerprint_digest(text: str) -> str:
    """Return a short hash of a fingerprint's JSON."""
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _relevant(flat: Mapping[str, Any]) -> FlatDict:
    """Return the settings without those that no network and no data depend on, sorted by key."""
    left_out = {*_LEARNING_ONLY, *EVALUATION_ONLY, *MACHINE_ONLY}
    if not flat.get("env.images", True):
        left_out.update(_IMAGES_ONLY)
    if flat.get("value.kind") == "scalar":
        left_out.update(_CATEGORICAL_ONLY)
    return {key: value for key, value in sorted(flat.items()) if key not in left_out}


def _as_text(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key], ensure_ascii=False).strip('"') if key in flat else _ABSENT
