"""The configuration of a run or study, kept beside what was made under it."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from app.config.load import ConfigError, load_kept
from app.config.schema import Config
from app.errors import UserError
from app.files import replacing


def write_config(path: Path, config: Config) -> None:
    """Write a configuration as YAML for ``read_config``; role, secrets and a restart are of one start only."""
    with replacing(path) as temporary:
        plain = _plain(asdict(config.to_keep()))
        temporary.write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")


def read_config(path: Path) -> Config:
    """Read a configuration that ``write_config`` wrote.

    Raises:
        UserError: it is not there, damaged, or not valid in this version.
    """
    try:
        cfg = OmegaConf.load(path)
        if not OmegaConf.is_dict(cfg):
            raise ValueError("it holds no keys")
        return load_kept(cfg)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except ConfigError as error:
        raise UserError(f"{path}: is not valid, or another version wrote it. {' '.join(error.problems)}") from None
    except (ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: is damaged: {str(error).splitlines()[0]}.") from None


def _plain(value: Any) -> Any:
    """Tuples become lists: YAML without Python tags."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
