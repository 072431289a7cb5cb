"""Conditions on the settings of a run, such as ``agent.gamma=0.95``."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from app.config.describe import known_keys
from app.config.load import unknown_key
from app.config.schema import Config
from app.core.errors import UserError
from app.run_list.find_runs import ListedRun

STATE = "state"  # a fact of the run that a condition may name beside its settings
_OPTION = ("name", "kind")  # keys that say which option of a group was chosen
_ABSENT = object()


@dataclass(frozen=True)
class Condition:
    """A key of the configuration, and the value that it must have.

    Attributes:
        text: The condition as it was written.
        key: Dotted key; a section stands for its ``name`` or ``kind``.
        value: Value with its type in YAML; a list also stands for any of its elements.
    """

    text: str
    key: str
    value: Any

    def holds(self, settings: Mapping[str, Any]) -> bool:
        """Return whether a run with these settings, by dotted key, meets the condition."""
        keys = (self.key, *(f"{self.key}.{name}" for name in _OPTION))
        found = next((settings[key] for key in keys if key in settings), _ABSENT)
        if found is _ABSENT:
            return False
        alternatives = self.value if isinstance(self.value, list) else []
        return any(_same(found, value) for value in (self.value, *alternatives))


def parse_condition(text: str) -> Condition:
    """Return a condition that is written as ``key=value`` or ``key:value``.

    Raises:
        UserError: It is neither, or its value is no YAML.
    """
    match = re.fullmatch(r"\s*([^:=\s]+)\s*[:=]\s*(.*?)\s*", text, re.DOTALL)
    if match is None:
        raise UserError(f"where = {text}: is no condition. Write a key with its value, such as agent.gamma=0.95.")
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={match[2]}"]), resolve=False)["value"]
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"where = {text}: the value cannot be read ({str(error).splitlines()[0]}).") from None
    return Condition(text, match[1], value)


def filter_runs(runs: Sequence[ListedRun], where: Sequence[str]) -> list[ListedRun]:
    """Return the runs that meet every condition; folders without settings meet none.

    Raises:
        UserError: A condition is not one, or names a key that neither this version nor any of the runs has.
    """
    conditions = [parse_condition(text) for text in where]
    settings = {run.name: _settings(run) for run in runs}
    for condition in conditions:
        _require_key(condition, settings.values())
    return [run for run in runs if all(condition.holds(settings[run.name]) for condition in conditions)]


def _settings(run: ListedRun) -> Mapping[str, Any]:
    return {} if run.facts is None else {**run.facts.settings, STATE: run.facts.state}


def _require_key(condition: Condition, settings: Collection[Mapping[str, Any]]) -> None:
    known = {STATE, *known_keys(Config)}.union(*settings)
    if condition.key not in known:
        raise UserError(f"where = {condition.text}: {unknown_key(condition.key, Config)}")


def _same(found: Any, value: Any) -> bool:
    """Return whether two values are the same; true is not 1, and 1 is 1.0."""
    if isinstance(found, list) and isinstance(value, list):
        return len(found) == len(value) and all(map(_same, found, value))
    return found == value and isinstance(found, bool) == isinstance(value, bool)
