"""Configuration of the best trial as ``best.yaml``, which ``app/train.py`` takes on top of its own configuration."""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from app.config.load import CONF
from app.config.renamed_keys import current_name
from app.config.types import LONGEST_NAME
from app.sweep.report.records import TrialRecord
from app.sweep.study_folder import StudyFolder

OPTION = "best"  # the file is this option of a configuration group, which is the study folder
SCHEDULE = "schedule"  # configuration group below it

# Sections and keys that only trials need; a run keeps its own.
_TRIAL_SECTIONS = (
    "seed", "device", "threads", "run_name", "runs_dir", "sweeps_dir", "logger", "restart", "pruner", "sweep", "hydra"
)  # fmt: skip
_TRIAL_KEYS = ("health.on_collapse", "replay.keep_after_trial")
_DEFAULT_SCHEDULE = "default"  # option of the group ``training`` where a trial chose none


@dataclass(frozen=True)
class BestConfig:
    """Content of ``best.yaml``: what the best trial changed of the default configuration.

    Attributes:
        groups: Chosen options, by group.
        values: Keys below the groups, nested.
        schedule: Section ``training`` if the trials changed some of it, or empty. It replaces one option of the group
            ``training``, so that a run may still choose another option.
    """

    groups: Mapping[str, Any]
    values: Mapping[str, Any]
    schedule: Mapping[str, Any]

    @property
    def schedule_option(self) -> str:
        """Option of the group ``training`` that the schedule replaces."""
        return self.groups.get("training", _DEFAULT_SCHEDULE)


def make_best_config(record: TrialRecord, config: DictConfig) -> BestConfig:
    """Return what a run needs to have the configuration of a trial: its fixed overrides and its parameters.

    Attributes of the trial that are no keys of the configuration, because another program added them, are left out.

    Args:
        record: The trial.
        config: Its configuration with every value as it was used; see ``with_parameters`` if it is not at hand.
    """
    groups, values, schedule = {}, {}, {}
    searched = _searched_keys(record)
    for override in _overrides(record):
        key, value = override.get_key_element().lstrip("+~"), override.value()
        if key in _TRIAL_KEYS or re.split(r"[./@]", key)[0] in _TRIAL_SECTIONS:
            continue
        if _is_group(key, value, config):
            groups[key] = value
        elif key in searched or not key.startswith("training."):
            _copy_value(config, key, values)
        elif OmegaConf.select(config, key) is not None:
            schedule = OmegaConf.to_container(config.training)
    schedule = {key: value for key, value in schedule.items() if key not in values.get("training", {})}
    return BestConfig(groups, values, schedule)


def with_parameters(record: TrialRecord, config: DictConfig) -> DictConfig:
    """Return the configuration of the study with the parameters of a trial, for a trial whose folder is elsewhere.

    An option that was searched is left out: its content is not known here.

    Args:
        record: The trial.
        config: Configuration of the study before anything was searched.
    """
    config, searched = config.copy(), _searched_keys(record)
    for override in _overrides(record):
        key = override.get_key_element().lstrip("+~")
        if key in searched and OmegaConf.select(config, key) is not None:
            OmegaConf.update(config, key, override.value())
    return config


def train_command(folder: StudyFolder) -> str:
    """Return the command that trains with ``best.yaml``, from the root of the repository."""
    name = folder.path.name
    # A study may have the name of a group in conf/; the package then tells Hydra that this is a choice of its own.
    group = f"{name}@_global_" if (CONF / name).is_dir() else name
    return f"python app/train.py --config-dir {shlex.quote(str(folder.base))} +{group}={OPTION}"


def best_yaml(best: BestConfig, folder: StudyFolder, title: str) -> str:
    """Return the text of ``best.yaml``.

    Args:
        best: Content of the file.
        folder: Folder of the study.
        title: Description of the trial, on one line.
    """
    defaults: list[Any] = [{f"override /{key}": value} for key, value in best.groups.items()]
    if best.schedule:
        defaults = [{f"optional /{folder.path.name}/{SCHEDULE}": "${training}"}, *defaults]
        if "training" not in best.groups:
            defaults.append({"override /training": _DEFAULT_SCHEDULE})
    name = folder.path.name[: LONGEST_NAME - len("-best-seed") - 10]  # a seed has up to ten digits
    body = {"defaults": [*defaults, "_self_"], "run_name": f"{name}-best-seed${{seed}}", **best.values}
    lines = [
        "# @package _global_",
        f"# {title}",
        "# Trains with what this trial found; anything can be changed after it, such as training=full seed=1:",
        f"#   {train_command(folder)}",
    ]
    return "\n".join(lines) + f"\n{yaml.safe_dump(body, sort_keys=False, allow_unicode=True)}"


def schedule_yaml(best: BestConfig) -> str:
    """Return the text of the schedule's file."""
    lines = ["# @package _global_", "# The schedule of the trials. Another training=... replaces it."]
    return "\n".join(lines) + f"\n{yaml.safe_dump({'training': dict(best.schedule)}, sort_keys=False)}"


def _overrides(record: TrialRecord) -> Iterator[Override]:
    """Return the attributes and parameters of a trial that are overrides, with the present names of their keys."""
    parser = OverridesParser.create()
    for key, value in {**record.fixed, **record.params}.items():
        try:
            yield parser.parse_override(f"{current_name(key)}={'null' if value is None else value}")
        except HydraException:
            continue


def _searched_keys(record: TrialRecord) -> set[str]:
    return {current_name(key) for key in record.params}


def _is_group(key: str, value: Any, config: DictConfig) -> bool:
    """Return whether an override chooses an option of a group, with a section of its own or without (experiment)."""
    group = key.partition("@")[0]
    if not group.isidentifier() or isinstance(value, dict):
        return False
    return OmegaConf.is_dict(config.get(group)) or (CONF / group).is_dir()


def _copy_value(config: DictConfig, key: str, values: dict[str, Any]) -> None:
    """Copy a value of the configuration into nested values; of a list all of it, because no single item can be set."""
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
