"""The runs of a validation: one for every candidate and seed, each continued from where it was stopped."""

import contextlib
import json
import math
import multiprocessing
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from app.config.schema import Config
from app.errors import UserError
from app.health.collapse import collapse
from app.health.history import History
from app.health.objective import objective
from app.reporting.curves import read_metrics
from app.runs.folder import RunFolder
from app.runs.lock import wait_until_free
from app.training.orphan import watch
from app.training.run import heed, run_in
from app.training.setup import set_up
from app.training.stop import StopRequest
from app.validation.candidates import Candidate
from app.validation.comparison import MEASURES

TO_BE_DONE = "to be done"  # the end of a run that has not ended

_STOPPED = ("interrupted", "terminated")  # such a run goes on
_PATIENCE = 60.0  # s for a run to save whose command was killed
_WIDTH = 120  # of the log


@dataclass(frozen=True)
class Run:
    """One run of a validation.

    Attributes:
        candidate: what is trained.
        seed: on which seed.
        config: the whole configuration.
    """

    candidate: Candidate
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """The candidate and the seed, as a person reads them."""
        return f"{self.candidate.name} seed {self.seed}"

    @property
    def folder(self) -> RunFolder:
        """Where it runs."""
        return RunFolder(Path(self.config.runs_dir) / self.config.run_name)

    @property
    def log(self) -> Path:
        """What the run prints: beside the folder, which is not made before the run is sure to begin."""
        return Path(self.config.runs_dir) / f"{self.config.run_name}.log"


@dataclass(frozen=True)
class Result:
    """What a run has come to.

    Attributes:
        run: which.
        end: "finished", "not finite: ...", "failed: ...", or ``TO_BE_DONE``.
        measures: any of ``MEASURES``.
        remark: what is wrong with it, "" if nothing.
    """

    run: Run
    end: str
    measures: Mapping[str, float]
    remark: str


def plan(
    candidates: Sequence[Candidate], seeds: Sequence[int], place: Path, device: str, threads: int
) -> tuple[Run, ...]:
    """Return every run, seed by seed, so that what is done first can be compared first.

    Args:
        candidates: what to train.
        seeds: to train it on.
        place: folder of the run folders.
        device: as in the configuration.
        threads: of each run.
    """
    return tuple(
        Run(candidate, seed, _config(candidate, seed, place, device, threads))
        for seed in seeds
        for candidate in candidates
    )


def retrain(run: Run) -> None:
    """Train one run to its end, in a process of its own; what it prints goes into its log.

    Raises:
        SystemExit: it was asked to stop, or its parent has gone; it goes on the next time.
        Exception: it failed; the log tells how.
    """
    run.log.parent.mkdir(parents=True, exist_ok=True)
    with (
        run.log.open("a", encoding="utf-8", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        try:
            _train(run.config, run.folder.path, Console(file=file, width=_WIDTH, highlight=False))
        except UserError as error:
            print(error)
            raise
        except Exception:
            traceback.print_exc()
            raise


def read_result(run: Run, trouble: str = "") -> Result:
    """Return what a run has come to.

    Args:
        run: which.
        trouble: why it has just failed, "" if it has not.
    """
    summary = _summary(run.folder)
    if not summary or summary["stop_reason"] in _STOPPED:
        if not trouble:
            return Result(run, TO_BE_DONE, {}, "")
        reached, epochs = _reached(run)
        counts = f"counts with what it reached in {epochs} epochs" if reached else "reached nothing that counts"
        return Result(run, f"failed: {trouble}", reached, f"failed: {trouble} ({counts}; log: {run.log})")
    end = str(summary["stop_reason"])
    measures = {name: float(summary[name]) for name in MEASURES if _is_number(summary, name)}
    return Result(run, end, measures, _sickness(run) if end == "finished" else end)


def _config(candidate: Candidate, seed: int, place: Path, device: str, threads: int) -> Config:
    """The candidate's configuration, without what only a trial has, to be trained elsewhere on another seed."""
    config = candidate.config
    return replace(
        config,
        seed=seed,
        device=device,
        threads=threads,
        run_name=f"{candidate.run_name}-seed{seed}",
        runs_dir=str(place),
        restart=None,
        health=replace(config.health, on_collapse="warn"),
        replay=replace(config.replay, keep=True),
        logger=replace(config.logger, tensorboard=False, progress="plain", curves=False, video=False),
    )


def _train(config: Config, path: Path, console: Console) -> None:
    setup = set_up(config)
    wait_until_free(path, _PATIENCE)
    if (parent := _parent()) is not None:
        watch(parent)
    with StopRequest() as stop, RunFolder.open(config) as folder:
        outcome = run_in(folder, config, setup, console, stop)
    heed(stop, outcome, one_of_many=False)


def _parent() -> int | None:
    """Return the process that began this one, even if it is gone by now; None in that process itself."""
    parent = multiprocessing.parent_process()
    return None if parent is None else parent.pid


def _summary(folder: RunFolder) -> dict[str, Any]:
    """Return the summary of a run; empty if there is none, or not a whole one."""
    try:
        summary = json.loads(folder.summary.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) and "stop_reason" in summary else {}


def _is_number(summary: Mapping[str, Any], name: str) -> bool:
    """Whether there is a value: JSON has null for NaN, and a task may have no laps."""
    return name in summary and isinstance(summary[name], (int, float))


def _reached(run: Run) -> tuple[dict[str, float], int]:
    """Return the objective after the epochs of a run that has not ended well, and their number."""
    history = _history(run)
    score = objective(run.config.objective, history, run.config.health, run.config.env.return_range)
    return ({} if math.isnan(score) else {"objective": score}), len(history)


def _sickness(run: Run) -> str:
    """Return why a finished run looks collapsed at its end, "" if it does not."""
    reason = collapse(_history(run), run.config)
    return f"looks collapsed at its end: {reason}" if reason else ""


def _history(run: Run) -> History:
    try:
        return read_metrics(run.folder.metrics)
    except (OSError, ValueError, KeyError, TypeError):
        return []
