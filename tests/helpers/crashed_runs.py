"""Runs that are recorded for power cuts, and what the same command does with the folder that one has left."""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.config.schema import Config
from app.core.errors import UserError
from app.runs.checkpoint import Checkpoints
from app.runs.run_folder import RunFolder
from app.training import run as run_module
from app.training import trainer as trainer_module
from app.training.trainer import Trainer
from tests.helpers.crash_disk import Recorder
from tests.helpers.runs import TIMES, result
from tests.helpers.stopped_runs import PENDULUM, configure

# The rows take several sectors and pages, and go one and a half times around.
SMALL = (
    *PENDULUM, "actor.hidden_dim=8", "critic.hidden_dim=8", "training.max_training_steps_per_env_step=0.05",
    "replay.capacity=100",
)  # fmt: skip
SLACK = 300  # rows
_NOT_COMPARED = {"fingerprint", "config", "wall_s", "rows_at_epoch"}


@dataclass(frozen=True)
class Saving:
    """A checkpoint is about to be written, or (``done``) has been; the rest as in ``Resumed``."""

    digest: str
    progress: tuple[int, ...]
    networks: str
    done: bool


@dataclass(frozen=True)
class EpochDone:
    """An epoch is complete: metrics and best policy are written; the rest as in ``Resumed``."""

    epoch: int
    metrics: tuple[str, ...]
    best: str


@dataclass(frozen=True)
class Resumed:
    """What a start found in a folder, when it was about to train.

    Attributes:
        digest: Hash of networks, optimisers, random states, and of all rows that can be sampled.
        epochs: Completed epochs.
        progress: Updates, steps and epochs.
        networks: Hash of networks and optimisers alone.
        rows: Rows that can be sampled.
        metrics: Lines of ``metrics.jsonl``, without times.
        best: Hash of the result of the best policy.
    """

    digest: str
    epochs: int
    progress: tuple[int, ...]
    networks: str
    rows: int
    metrics: tuple[str, ...]
    best: str


@dataclass(frozen=True)
class Refused:
    """The start refused the folder."""

    message: str


@dataclass(frozen=True)
class Finished:
    """The run had finished before; everything of its result."""

    result: dict[str, Any]


class _Ready(BaseException):
    """Ends a start where the training would begin."""


def digest(value: Any) -> str:
    """Return a hash of nested tensors, arrays and plain values."""
    found = hashlib.sha256()
    _feed(found, value)
    return found.hexdigest()[:16]


def record(recorder: Recorder, config: Config) -> None:
    """Run a command while its file operations are recorded, with marks for checkpoints and epochs.

    Raises:
        Killed: As ``recorder.kill_after`` asks for.
    """
    running: list[Trainer] = []
    start, save, complete = Trainer.start, Checkpoints.save, Trainer._complete_epoch

    def started(self, *args):
        running.append(self)
        start(self, *args)

    def saving(self, state):
        found = Saving(_state_digest(running[-1], state), _progress(state), _networks(state), done=False)
        recorder.mark(found)
        save(self, state)
        recorder.mark(replace(found, done=True))

    def completed(self):
        complete(self)
        recorder.mark(EpochDone(self.epochs_done, comparable_lines(self.folder.metrics), digest(self.best)))

    with recorder.recording(), pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(Trainer, "start", started)
        patch.setattr(Checkpoints, "save", saving)
        patch.setattr(Trainer, "_complete_epoch", completed)
        run_module.train(config)


def resume(folder: Path, *overrides: str) -> Resumed | Refused | Finished:
    """Start a command on a copy of a run folder, up to the moment where it would train.

    Args:
        folder: Folder of the run, named "run"; it is changed.
        *overrides: Settings of the run.
    """
    found: list[Resumed] = []

    def ready(self):
        found.append(_resumed(self))
        raise _Ready

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(Trainer, "run_epochs", ready)
        patch.setattr("os.fsync", lambda handle: None)  # no power cut follows
        try:
            run_module.train(configure(folder.parent, *overrides))
        except _Ready:
            return found[0]
        except UserError as error:
            return Refused(str(error))
    return Finished(whole_result(folder))


def train_on(folder: Path, *overrides: str) -> dict[str, Any]:
    """Train to the end in a folder, and return everything of the result."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr("os.fsync", lambda handle: None)
        run_module.train(configure(folder.parent, *overrides))
    return whole_result(folder)


def whole_result(folder: Path) -> dict[str, Any]:
    """Return everything of a finished run that must not depend on how often it was stopped, all files of the best."""
    run = RunFolder(folder)
    best = json.loads(run.best_result.read_text())
    assert best == run.read_best_result()
    return result(folder) | {"best result": best}


@contextlib.contextmanager
def little_slack() -> Iterator[None]:
    """Let the files of the replay wrap after few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "slack_rows", lambda _: SLACK)
        yield


def comparable_lines(path: Path) -> tuple[str, ...]:
    """Return the lines of ``metrics.jsonl`` without times; none if there is no file."""
    if not path.is_file():
        return ()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return tuple(json.dumps({key: value for key, value in line.items() if key not in TIMES}) for line in lines)


def _resumed(trainer: Trainer) -> Resumed:
    state = trainer._state()
    return Resumed(
        digest=_state_digest(trainer, state),
        epochs=trainer.epochs_done,
        progress=_progress(state),
        networks=_networks(state),
        rows=len(trainer.loop.memory),
        metrics=comparable_lines(trainer.folder.metrics),
        best=digest(trainer.best),
    )


def _networks(state: dict[str, Any]) -> str:
    return digest(state["training"]["agent"])


def _progress(state: dict[str, Any]) -> tuple[int, ...]:
    return state["training"]["updates"], state["training"]["replay"]["env_steps"], state["epochs_done"]


def _state_digest(trainer: Trainer, state: dict[str, Any]) -> str:
    ring = trainer.loop.memory._ring
    positions = np.arange(ring.oldest, ring.appended) % ring.rows
    training = state["training"] | {"replay": state["training"]["replay"] | {"segments": None}}
    parts = {key: value for key, value in state.items() if key not in _NOT_COMPARED}
    return digest([parts | {"training": training}, {name: array[positions] for name, array in ring.arrays.items()}])


def _feed(found: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        found.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            found.update(str(key).encode())
            _feed(found, value[key])
    elif isinstance(value, (list, tuple)):
        found.update(f"[{len(value)}".encode())
        for item in value:
            _feed(found, item)
    else:
        found.update(repr(value).encode() + b";")
