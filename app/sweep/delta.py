"""From a trial to a configuration that ``train.py`` takes on top of its own: ``best.yaml``."""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from app.config.fields import LONGEST_NAME
from app.sweep.folder import StudyFolder
from app.sweep.records import Record

OPTION = "best"  # the file is an option of a group that is the study folder
SCHEDULE = "schedule"  # a group below it

_CONF = Path(__file__).resolve().parents[2] / "conf"
# What a trial has for its own sake, and no run should take from it.
_SECTIONS_OF_TRIALS = (
    "seed", "device", "threads", "run_name", "runs_dir", "sweeps_dir", "logger", "restart", "pruner", "sweep", "hydra"
)  # fmt: skip
_KEYS_OF_TRIALS = ("health.on_collapse", "replay.keep")
_DEFAULT_SCHEDULE = "default"  # the option of training that the trials' own values take the place of


@dataclass(frozen=True)
class Delta:
    """A configuration in two parts.

    Attributes:
        groups: the options that are chosen, by group.
        values: keys below them, nested.
        schedule: section ``training`` where the trials changed some of it; empty if not. It belongs to one option of
            the group, so that another option takes its place.
    """

    groups: Mapping[str, Any]
    values: Mapping[str, Any]
    schedule: Mapping[str, Any]

    @property
    def schedule_option(self) -> str:
        """The option of training that the schedule belongs to."""
        return self.groups.get("training", _DEFAULT_SCHEDULE)


def make_delta(record: Record, config: DictConfig) -> Delta:
    """Return what makes a run of the trial's configuration: its fixed overrides and its parameters.

    Args:
        record: the trial.
        config: its configuration, which shows every value as it was used; see ``as_trial`` where it is not at hand.

    An attribute that is no key of the configuration was noted by somebody else and is left out.
    """
    groups, values, schedule = {}, {}, {}
    for override in _overrides(record):
        key, value = override.get_key_element().lstrip("+~"), override.value()
        if key in _KEYS_OF_TRIALS or re.split(r"[./@]", key)[0] in _SECTIONS_OF_TRIALS:
            continue
        if _is_group(key, value, config):
            groups[key] = value
        elif key in record.params or not key.startswith("training."):
            _take(config, key, values)
        elif OmegaConf.select(config, key) is not None:
            schedule = OmegaConf.to_container(config.training)
    return Delta(groups, values, {key: schedule[key] for key in schedule if key not in values.get("training", {})})


def as_trial(record: Record, config: DictConfig) -> DictConfig:
    """Return the configuration of the study with the parameters of a trial put in.

    For a trial whose folder is on another machine. An option that was searched is not put in: what it brings is not
    known here.
    """
    config = config.copy()
    for override in _overrides(record):
        key = override.get_key_element().lstrip("+~")
        if key in record.params and OmegaConf.select(config, key) is not None:
            OmegaConf.update(config, key, override.value())
    return config


def command(folder: StudyFolder) -> str:
    """Return the command that trains with ``best.yaml``, from the root of the repository."""
    name = folder.path.name
    # A study may be called as a group of conf/ is; the package then tells Hydra that this is a choice of its own.
    group = f"{name}@_global_" if (_CONF / name).is_dir() else name
    return f"python app/train.py --config-dir {shlex.quote(str(folder.base))} +{group}={OPTION}"


def as_yaml(delta: Delta, folder: StudyFolder, about: str) -> str:
    """Return the text of ``best.yaml``.

    Args:
        delta: what it holds.
        folder: of the study.
        about: the trial, on one line.
    """
    defaults: list[Any] = [{f"override /{key}": value} for key, value in delta.groups.items()]
    if delta.schedule:
        defaults = [{f"optional /{folder.path.name}/{SCHEDULE}": "${training}"}, *defaults]
        if "training" not in delta.groups:
            defaults.append({"override /training": _DEFAULT_SCHEDULE})
    name = folder.path.name[: LONGEST_NAME - len("-best-seed") - 10]  # a seed has up to ten digits
    body = {"defaults": [*defaults, "_self_"], "run_name": f"{name}-best-seed${{seed}}", **delta.values}
    lines = [
        "# @package _global_",
        f"# {about}",
        "# A run with what it found; anything can be changed after it, such as training=full seed=1:",
        f"#   {command(folder)}",
    ]
    return "\n".join(lines) + f"\n{yaml.safe_dump(body, sort_keys=False, allow_unicode=True)}"


def schedule_as_yaml(delta: Delta) -> str:
    """Return the text of the schedule's file."""
    lines = ["# @package _global_", "# The schedule of the trials. Another training=... takes its place."]
    return "\n".join(lines) + f"\n{yaml.safe_dump({'training': dict(delta.schedule)}, sort_keys=False)}"


def _overrides(record: Record) -> Iterator[Override]:
    """Return the overrides of a trial, without what is none."""
    parser = OverridesParser.create()
    for key, value in {**record.fixed, **record.params}.items():
        try:
            yield parser.parse_override(f"{key}={'null' if value is None else value}")
        except HydraException:
            continue


def _is_group(key: str, value: Any, config: DictConfig) -> bool:
    """Whether an override chooses an option: of a section, or of a group that has none, such as experiment."""
    group = key.partition("@")[0]
    if not group.isidentifier() or isinstance(value, dict):
        return False
    return OmegaConf.is_dict(config.get(group)) or (_CONF / group).is_dir()


def _take(config: DictConfig, key: str, values: dict[str, Any]) -> None:
    """Copy a value to where it stands in the configuration; of a list, all of it: one element cannot be set."""
    node, parts = config, key.split(".")
    for depth, part in enumerate(parts):
        if not OmegaConf.is_dict(node) or part not in node:
            return
        node = node[part]
        if OmegaConf.is_list(node) or depth == len(parts) - 1:
            for section in parts[:depth]:
                values = values.setdefault(section, {})
            values[part] = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
            return
