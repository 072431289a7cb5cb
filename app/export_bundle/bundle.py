"""The files of a bundle: data as safetensors and JSON, and the two modules that drive with them."""

import inspect
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from safetensors.torch import save_file
from torch import Tensor

from app.envs import observation
from app.envs.spec import ObservationSpec
from app.export_bundle import driver
from app.files import strict_json

OBSERVATION, DRIVER, README, ONNX = "observation.py", "driver.py", "README.md", "actor.onnx"
FILES = (driver.WEIGHTS, driver.DESCRIPTION, DRIVER, OBSERVATION, README, ONNX)

_HEADER = '''"""Makes observations of what a car senses, step by step, as in training."""

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces


'''
_COUPLING = "from app.envs.spec import ObservationSpec\n"  # the line of the module that the class itself replaces
_WIDTH = 118  # of a line of JSON


def write_bundle(folder: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor], onnx: bool) -> None:
    """Write every file but the ONNX one.

    Args:
        folder: where to.
        description: what ``actor.json`` says.
        tensors: by name.
        onnx: whether README.md speaks of the ONNX file.

    Raises:
        OSError: a file cannot be written.
        SafetensorError: the weights cannot be written.
    """
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / driver.WEIGHTS)
    (folder / driver.DESCRIPTION).write_text(_readable(description) + "\n", encoding="utf-8")
    shutil.copyfile(driver.__file__, folder / DRIVER)
    (folder / OBSERVATION).write_text(observation_source(), encoding="utf-8")
    loader = FileSystemLoader(Path(__file__).parent)
    page = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = page.get_template("readme.md.jinja").render(**description, onnx=onnx)
    (folder / README).write_text(text + "\n", encoding="utf-8")


def observation_source() -> str:
    """Return ``ObservationSpec`` and ``ObservationBuilder`` as one module that imports nothing of this program."""
    _, coupling, builder = inspect.getsource(observation).partition(_COUPLING)
    if not coupling:
        raise RuntimeError(f"{observation.__file__} has no line {_COUPLING!r}")
    return _HEADER + inspect.getsource(ObservationSpec) + "\n" + builder


def _readable(value: Any, indent: str = "") -> str:
    """JSON with a line for everything that fits in one."""
    text, inner = strict_json(value), indent + "  "
    if len(indent + text) <= _WIDTH or not _nested(value):
        return text
    if isinstance(value, Mapping):
        rows = [f"{inner}{strict_json(str(key))}: {_readable(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + indent + "}"
    return "[\n" + ",\n".join(inner + _readable(item, inner) for item in value) + "\n" + indent + "]"


def _nested(value: Any) -> bool:
    """Whether a value is more than a number, a text, or a list of them."""
    if isinstance(value, (list, tuple)):
        return any(isinstance(item, (Mapping, list, tuple)) for item in value)
    return isinstance(value, Mapping)
