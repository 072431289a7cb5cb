"""Demonstrations: whole driven episodes in a file, which a new run puts into its replay before the first update."""

import stat
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.config.schema_env import EnvConfig
from app.core.atomic_files import atomic_write, strict_json
from app.core.errors import UserError
from app.core.json_data import parse_json
from app.envs.spec import ObservationSpec
from app.replay.row_format import RowFormat, StoredStep, array_kinds
from app.runs.fingerprint import FlatDict, flatten, require_same_fingerprint

SUFFIX = ".npz"
_FORMAT = 1
_HOW_TO_MAKE = f"python app/play.py record=my_laps{SUFFIX} makes one."
_HINT = "Set these keys as they were; both commands have them. Or record laps under the settings of this run."
# Settings of an environment that no row depends on: histories are rebuilt when the replay is sampled, and where and how
# long is driven changes which rows there are, not what is in them.
_NOT_IN_ROWS = (
    "name", "window", "image_history", "action_history", "train_tracks", "eval_tracks", "random_start", "max_steps",
    "return_range",
)  # fmt: skip
_UNREADABLE = (  # what reading a damaged or hostile file raises
    OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class Demonstrations:
    """Rows of whole episodes, one behind the other.

    Attributes:
        arrays: By name, N rows as ``RowFormat.encode`` returns them.
        resets: ``(N,)`` bool, whether a row begins an episode.
    """

    arrays: Mapping[str, np.ndarray]
    resets: np.ndarray

    @property
    def steps(self) -> int:
        """Number of environment steps, resets not counted."""
        return int(np.count_nonzero(~self.resets))

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return int(np.count_nonzero(self.resets))


def write_demonstrations(
    path: Path,
    env: EnvConfig,
    spec: ObservationSpec,
    episodes: Sequence[Sequence[StoredStep]],
    about: Sequence[Mapping[str, Any]],
) -> None:
    """Write whole episodes, atomically; nothing in the file can be executed.

    Args:
        path: The file, with the suffix of ``SUFFIX``.
        env: Configuration of the environment that was driven.
        spec: Its observation contract.
        episodes: Steps of every episode, the reset first and an end of the episode last.
        about: Facts about every episode, for people.
    """
    steps = [step for episode in episodes for step in episode]
    arrays = RowFormat.of(spec).encode(steps)
    resets = np.array([step.action is None for step in steps])
    text = strict_json({"format": _FORMAT, "made_under": _made_under(env), "episodes": about})
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, about=np.array(text), resets=resets, **arrays)


def read_demonstrations(path: Path, env: EnvConfig, spec: ObservationSpec) -> Demonstrations:
    """Read the episodes of a file, or of all files in a folder.

    Args:
        path: The file or folder.
        env: Configuration of the environment that learns from them.
        spec: Its observation contract.

    Raises:
        UserError: There is none, one is damaged, or one was made under other settings; every difference is named.
    """
    files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"training.demonstrations = {path}: the folder holds no file *{SUFFIX}. {_HOW_TO_MAKE}")
    found = [_read_file(file, env, spec) for file in files]
    names = found[0].arrays
    return Demonstrations(
        {name: np.concatenate([one.arrays[name] for one in found]) for name in names},
        np.concatenate([one.resets for one in found]),
    )


def _read_file(path: Path, env: EnvConfig, spec: ObservationSpec) -> Demonstrations:
    key = f"training.demonstrations = {path}"
    try:
        content = _load_arrays(path)
        if "about" not in content:
            raise ValueError("it does not say how it was made")
        about = parse_json(str(content.pop("about")))
        made_under = about["made_under"]
        if about["format"] != _FORMAT:
            raise ValueError(f"its format is {about['format']!r}, and this version reads {_FORMAT}")
        if not isinstance(made_under, dict):
            raise ValueError("it does not say what it was made under")
    except FileNotFoundError:
        raise UserError(f"{key}: there is no such file. {_HOW_TO_MAKE}") from None
    except _UNREADABLE as error:
        raise UserError(f"{key}: holds no demonstrations that can be read ({_reason(error)}). {_HOW_TO_MAKE}") from None
    require_same_fingerprint(key, flatten(made_under), _made_under(env), _HINT)
    if problem := _find_problem(content, spec):
        raise UserError(f"{key}: is damaged: {problem}. {_HOW_TO_MAKE}")
    return Demonstrations(content, content.pop("resets"))


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a regular file, none of which is larger than the file itself."""
    if not stat.S_ISREG(path.stat().st_mode):  # a device or a pipe has no end
        raise ValueError("it is no regular file")
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise ValueError("its arrays are compressed, and those of app/play.py are not")
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _find_problem(content: Mapping[str, np.ndarray], spec: ObservationSpec) -> str | None:
    """Return why arrays are no whole episodes of an environment; None if they are."""
    row_format, rows = RowFormat.of(spec), content.get("rows")
    count = len(rows) if rows is not None and rows.ndim == 2 else 0
    kinds = {name: kind for name, kind in array_kinds(spec, count).items() if name != "age"}
    kinds["resets"] = ((count,), np.dtype(np.bool_))
    if content.keys() != kinds.keys():
        return f"it must hold the arrays {', '.join(kinds)}"
    for name, (shape, dtype) in kinds.items():
        if content[name].shape != shape or content[name].dtype != dtype:
            return f"{name} must be {dtype} of the shape {shape}"
    resets, ended = content["resets"], content["ends"].any(axis=1)
    if count < 2 or not resets[0] or not ended[-1] or (resets[1:] != ended[:-1]).any() or (resets & ended).any():
        return "its rows are no whole episodes"
    if not np.isfinite(rows).all() or (np.abs(rows[:, row_format.action]) > 1.0).any():
        return "a number is not finite, or an action outside [-1, 1]"
    if rows[resets, row_format.action.start : row_format.reward + 1].any():
        return "the row of a reset has an action or a reward"
    return None


def _made_under(env: EnvConfig) -> FlatDict:
    """Return the settings of an environment that its rows depend on."""
    unused = _NOT_IN_ROWS if env.images else (*_NOT_IN_ROWS, "image_size")
    return flatten({"env": {name: value for name, value in asdict(env).items() if name not in unused}})


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
