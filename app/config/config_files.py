"""Sentences for YAML files below ``conf/`` or ``--config-dir`` that cannot be read."""

import contextlib
import traceback
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra._internal.utils import get_args_parser  # private, but the parser that Hydra itself uses


def explain_config_file(error: Exception, words: Sequence[str]) -> str | None:
    """Return the message for a file that Hydra could not read; None if the error has another cause.

    Args:
        error: The error.
        words: The command line, without the name of the program.
    """
    modules = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)]
    if "hydra.core.config_loader" not in modules and "hydra._internal.config_repository" not in modules:
        return None
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: is no valid YAML: {error.problem}. Correct the file."
    if isinstance(error, yaml.reader.ReaderError):
        return f"{error.name}: is no valid YAML: {error.reason} at position {error.position}. Correct the file."
    if isinstance(error, UnicodeDecodeError):
        name = _file_in_other_encoding(words) or "A configuration file"
        return f"{name}: is no text in UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: cannot be read ({error.strerror})."
    return None


def _file_in_other_encoding(words: Sequence[str]) -> Path | None:
    """Return the first file of the command's configuration that is not in UTF-8."""
    from app.config.load import CONF  # imported here, because a correct command line does not need it

    named = get_args_parser().parse_known_args(list(words))[0].config_dir
    for folder in [CONF] if named is None else [Path(named), CONF]:
        for path in sorted(folder.rglob("*.yaml")):
            with contextlib.suppress(OSError):
                if not _is_utf8(path.read_bytes()):
                    return path
    return None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
