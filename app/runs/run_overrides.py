"""Overrides of ``app/train.py`` that make the configuration of a run again, and what they change of ``conf/``."""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from app.config.composition import compose_settings
from app.config.faults import FAULTS
from app.config.key_effects import can_change_learning
from app.config.load import CONF, load
from app.config.schema import Config
from app.core.errors import UserError
from app.runs.fingerprint import FlatDict, flatten

# Beginnings of keys that do not change what is learned, and belong to a repetition all the same.
_KEPT = ("training.init_from", "training.eval_episodes", "env.eval_tracks", "env.return_range", "health.")
_SPELT = {path: key for fault in FAULTS if fault.switch for key, path in fault.switch.keys.items()}  # by path in Config


@dataclass(frozen=True)
class RunOverrides:
    """Overrides that make the configuration of a run, without those of its place, execution and output.

    Attributes:
        groups: Option of every group that has to be chosen, such as "sim_lidar" for "env".
        defaults: Value of every changed key as these options have it.
        changed: Value of every changed key in the run.
    """

    groups: Mapping[str, str]
    defaults: FlatDict
    changed: FlatDict

    def words(self) -> dict[str, str]:
        """Return every override by its key, as it is spelt on the command line."""
        return {**self.groups, **{_SPELT.get(key, key): spell(value) for key, value in self.changed.items()}}


@functools.lru_cache(maxsize=1)  # every report of a run asks for the same
def run_overrides(config: Config) -> RunOverrides | None:
    """Return the overrides that make a configuration; None if they would make another one.

    Other settings than the last ones are composed: once for a run without changed keys, and twice or three times for
    another one.

    Args:
        config: Configuration of the run.
    """
    try:
        return _find(config)
    except (UserError, OSError, HydraException):  # such as a reward file that is not on this machine
        return None


def spell(value: Any) -> str:
    """Return a value in Hydra's spelling."""
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{name}:{spell(item)}' for name, item in value.items())}}}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(spell, value))}]"
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w./-]+", value, re.ASCII) else _quote(value)
    return json.dumps(value)


def _quote(text: str) -> str:
    """Return a text in quotes; in Hydra's grammar, a backslash escapes quotes, and itself before a quote only."""
    return QuotedString(text.replace("${", r"\${"), Quote.double).with_quotes()  # no interpolation


def _find(config: Config) -> RunOverrides | None:
    asked, groups = _comparable(config), _needed_groups(config)
    made = _comparable(_compose(groups))
    kinds = {"value": config.value.kind, "norm": config.norm.kind}
    if others := {group: kind for group, kind in kinds.items() if made[f"{group}.kind"] != kind}:
        groups |= others
        made = _comparable(_compose(groups))
    changed = {key: value for key, value in asked.items() if key in made and made[key] != value}
    found = RunOverrides(groups, {key: made[key] for key in changed}, changed)
    if changed:
        made = _comparable(_compose(found.words()))
    return found if made == asked else None


def _needed_groups(config: Config) -> dict[str, str]:
    """Return the options of the groups that decide which keys there are."""
    env = config.env.name if (CONF / "env" / f"{config.env.name}.yaml").is_file() else config.env.kind
    return {"model": config.model.name, "env": env}


def _compose(overrides: Mapping[str, str]) -> Config:
    return load(compose_settings(tuple(f"{key}={value}" for key, value in overrides.items())))


def _comparable(config: Config) -> FlatDict:
    flat = flatten(asdict(config.to_record()))
    flat.pop("log_std_min", None)  # actor.log_std_min copies it
    return {key: value for key, value in flat.items() if can_change_learning(key) or key.startswith(_KEPT)}
