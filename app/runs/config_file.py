"""Configuration file of a run or study: writing it, and reading what this or an older version wrote."""

import io
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from app.config.load import ConfigError, load_recorded
from app.config.schema import Config
from app.core.atomic_files import atomic_write
from app.core.errors import UserError
from app.runs.older_versions import complete

_DEEPEST = 20  # levels of lists and mappings in a file
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # both are safe; the first is eight times as fast


def write_config(path: Path, config: Config) -> None:
    """Write a configuration as YAML, without what belongs to one start only: role, secrets and restart."""
    with atomic_write(path) as temporary:
        content = _with_lists(asdict(config.to_record()))
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def read_config(path: Path) -> Config:
    """Read a configuration that ``write_config`` wrote, in this or an older version.

    Keys that are missing because an older version did not have them get today's defaults, unless they can change what
    a run learns.

    Raises:
        UserError: The file is missing, damaged or not valid, or this version cannot know what it means.
    """
    try:
        cfg = load_yaml(path)
        if not OmegaConf.is_dict(cfg) or not cfg:
            raise ValueError("it holds no keys")
        return _load(str(path), cfg)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except ConfigError as error:
        raise UserError(f"{path}: is not valid, or another version wrote it. {' '.join(error.problems)}") from None
    except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: is damaged: {str(error).splitlines()[0]}.") from None


def load_yaml(path: Path) -> DictConfig | ListConfig:
    """Return the content of a file of YAML that this program wrote.

    Raises:
        OSError: The file cannot be read.
        ValueError: As for ``read_plain_yaml``; the errors of YAML and OmegaConf are others.
    """
    return OmegaConf.load(io.StringIO(read_plain_yaml(path)))


def read_plain_yaml(path: Path) -> str:
    """Return the text of a file of YAML that a loader can read in little time, memory and stack.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no text, has aliases, with which a few lines can stand for terabytes, or is nested too deeply.
        yaml.YAMLError: It is no YAML.
    """
    text, depth = path.read_text(encoding="utf-8"), 0
    for event in yaml.parse(text, Loader=YAML_LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has an alias, which this program never writes")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
    return text


def _load(subject: str, cfg: DictConfig) -> Config:
    try:
        return load_recorded(cfg)
    except ConfigError:
        return load_recorded(OmegaConf.create(complete(subject, OmegaConf.to_container(cfg))))


def _with_lists(value: Any) -> Any:
    """Return nested mappings with every tuple as a list: YAML without Python tags."""
    if isinstance(value, Mapping):
        return {key: _with_lists(item) for key, item in value.items()}
    return [_with_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
