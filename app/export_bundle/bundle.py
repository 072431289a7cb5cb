"""Files of an exported folder: the ONNX model, its description in JSON, two Python modules and a model card."""

import hashlib
import inspect
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.core.atomic_files import strict_json
from app.envs import observation
from app.envs.spec import ObservationSpec
from app.export_bundle import driver

OBSERVATION, DRIVER, README = "observation.py", "driver.py", "README.md"
FILES = (driver.MODEL, driver.DESCRIPTION, DRIVER, OBSERVATION, README)

_HEADER = '''"""Observations made step by step from sensors, frames, actions and rewards, as in training."""

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces


'''
_LAST_IMPORT = "from app.envs.spec import ObservationSpec\n"  # the class itself takes the place of this line


def write_bundle(folder: Path, description: Mapping[str, Any], model: bytes, card: str) -> None:
    """Write every file of an exported folder.

    Args:
        folder: Folder that exists.
        description: Contents of ``actor.json`` but for ``format`` and ``sha256``, which are added.
        model: Contents of the ONNX file.
        card: Contents of the README.

    Raises:
        OSError: A file cannot be written.
    """
    description = {"format": driver.FORMAT, "sha256": hashlib.sha256(model).hexdigest(), **description}
    (folder / driver.MODEL).write_bytes(model)
    (folder / driver.DESCRIPTION).write_text(strict_json(description, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(driver.__file__, folder / DRIVER)
    (folder / OBSERVATION).write_text(observation_source(), encoding="utf-8")
    (folder / README).write_text(card, encoding="utf-8")


def observation_source() -> str:
    """Return ``ObservationSpec`` and ``ObservationBuilder`` as one module that imports nothing of this program."""
    _, found, builder = inspect.getsource(observation).partition(_LAST_IMPORT)
    if not found:
        raise RuntimeError(f"{observation.__file__} has no line {_LAST_IMPORT!r}")
    return _HEADER + inspect.getsource(ObservationSpec) + "\n" + builder
