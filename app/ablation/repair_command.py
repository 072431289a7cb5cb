"""Commands of ``app/train.py`` that repeat a run with a switch repaired."""

import contextlib
import functools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from app.config.faults import FAULTS, Fault
from app.config.load import CONF, load
from app.config.schema import Config
from app.config.types import LONGEST_NAME
from app.core.errors import UserError
from app.runs.fingerprint import FlatDict, can_change_learning, flatten

# Beginnings of keys that do not change what is learned, and belong to a repetition all the same.
_KEPT = ("training.init_from", "training.eval_episodes", "env.eval_tracks", "env.return_range", "health.")
_SPELT = {path: key for fault in FAULTS if fault.switch for key, path in fault.switch.keys.items()}  # by path in Config


def repair_command(config: Config, faults: Sequence[Fault]) -> str | None:
    """Return the command that repeats a run without some of its faults.

    Args:
        config: Configuration of the run.
        faults: The faults, which have a switch each.

    Returns:
        The command; None if no overrides of the configuration in ``conf/`` give that of the run.
    """
    try:
        overrides = _overrides(config)
    except (UserError, OSError):  # such as a reward file that is not on this machine
        return None
    if overrides is None:
        return None
    switched = {key for fault in faults for key in fault.switch.keys}
    words = [f"{key}={value}" for key, value in overrides.items() if key not in switched]
    name = f"run_name={repaired_name(config.run_name, faults)}"
    return f"python app/train.py {shlex.join([*words, *repair_overrides(faults), name])}"


def repair_overrides(faults: Sequence[Fault]) -> list[str]:
    """Return the overrides that repair faults which have a switch each."""
    return list(dict.fromkeys(f"{key}={fault.switch.fixed}" for fault in faults for key in fault.switch.keys))


def repaired_name(name: str, faults: Sequence[Fault]) -> str:
    """Return the name of a run without some faults."""
    suffix = f"-without-fault-{'-'.join(str(fault.number) for fault in faults)}"
    return f"{name[: LONGEST_NAME - len(suffix)]}{suffix}"


@functools.lru_cache(maxsize=1)  # of the run, whose every fault needs them
def _overrides(config: Config) -> dict[str, str] | None:
    """Return the overrides that make a configuration, by key; None if they would make another one."""
    groups = _groups(config)
    asked, made = _comparable(config), _comparable(_compose(groups))
    changed = {key: value for key, value in asked.items() if key in made and made[key] != value}
    default = _comparable(_compose({}))
    needed = {key: option for key, option in groups.items() if key in ("model", "env") or _differs(key, asked, default)}
    overrides = {**needed, **{_SPELT.get(key, key): _as_word(value) for key, value in changed.items()}}
    return overrides if _comparable(_compose(overrides)) == asked else None


def _groups(config: Config) -> dict[str, str]:
    """Return the options of the groups that have sections of different kinds."""
    env = config.env.name if (CONF / "env" / f"{config.env.name}.yaml").is_file() else config.env.kind
    return {"model": config.model.name, "env": env, "value": config.value.kind, "norm": config.norm.kind}


def _differs(group: str, asked: FlatDict, default: FlatDict) -> bool:
    return asked.get(f"{group}.kind") != default.get(f"{group}.kind")


def _compose(overrides: Mapping[str, str]) -> Config:
    is_hydra_running = GlobalHydra.instance().is_initialized()  # as in every command
    with contextlib.nullcontext() if is_hydra_running else initialize_config_dir(str(CONF)):
        return load(compose("config", [f"{key}={value}" for key, value in overrides.items()]))


def _comparable(config: Config) -> FlatDict:
    flat = flatten(asdict(config.to_record()))
    flat.pop("log_std_min", None)  # actor.log_std_min copies it
    return {key: value for key, value in flat.items() if can_change_learning(key) or key.startswith(_KEPT)}


def _as_word(value: Any) -> str:
    """Return a value in Hydra's spelling."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(_as_word, value))}]"
    if isinstance(value, str) and re.fullmatch(r"[\w./-]+", value):
        return value
    return json.dumps(value)
