"""Costs that ``sweep.py`` measures in its own process: of a trial beside its training, and of a study's results."""

import contextlib
import io
import pkgutil
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import optuna
from hydra import compose, initialize_config_dir
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from app.config.load import load
from app.config.schema import Config
from app.runs.run_folder import RunFolder
from app.sweep import trial as trial_module
from app.sweep.report.writer import write_results
from app.sweep.study_folder import find_study
from app.sweep.study_store import END, EPOCHS, FOLDER
from app.sweep.trial import make_pruner
from app.training.stop import StopKind, StopReason, StopRequest
from benchmarks.common import ROOT

STUDY = "bench"
SHORT = ("env=sim_lidar", "training=smoke", "logger=quiet", "threads=1")
TRAIN, REPORT, SUGGEST, TELL = "train", "report the scores", "suggest, assign", "record the result, tell"
# Parts of a trial, in their order, with their functions. Reports are made during the training, all else beside it.
PARTS = {
    "ask": ("optuna.Study.ask",),
    SUGGEST: ("hydra_plugins.hydra_optuna_sweeper._impl.OptunaSweeperImpl._configure_trials",),
    "compose": ("hydra._internal.config_loader_impl.ConfigLoaderImpl.load_sweep_config",),
    "validate": ("app.config.load.load",),
    "find the trial": ("app.sweep.trial.StudyTrial.find",),
    "set up, open the folder": ("app.sweep.trial.set_up", "app.sweep.trial.RunFolder.open"),
    TRAIN: ("app.sweep.trial.train_in_folder",),
    REPORT: ("app.sweep.trial.StudyTrial.report", "app.sweep.trial.StudyTrial.stop_reason"),
    "clear the replay": ("app.sweep.trial.remove",),
    TELL: ("app.sweep.trial.StudyTrial.record_result", "optuna.Study.tell"),
}
PARTS_OF_PLAIN = (  # the same parts in plain Optuna
    (SUGGEST, "optuna.Trial._suggest"),
    (REPORT, "benchmarks.sweep_costs.PlainTrial.report"),
    (REPORT, "benchmarks.sweep_costs.PlainTrial.stop_reason"),
    (TELL, "optuna.study._optimize._tell_with_warning"),
)
ASK = next(iter(PARTS))  # first part of a trial
REPEATS = 5  # of writing the results
EPOCHS_OF_COPY = 10  # reported by each trial of a large study


class Span(NamedTuple):
    """One call of a part: start and end in seconds of one clock."""

    part: str
    start: float
    end: float


class PlainTrial:
    """Epoch callback that reports to plain Optuna as a trial of a sweep does."""

    def __init__(self, trial: optuna.Trial):
        self._trial = trial

    def report(self, epoch: int, score: float) -> None:
        """Report the score after an epoch to the study."""
        self._trial.report(score, epoch)

    def stop_reason(self) -> StopReason | None:
        """Return the reason to end the trial now, or None."""
        return StopReason(StopKind.PRUNED) if self._trial.should_prune() else None


@contextlib.contextmanager
def timed(*more: tuple[str, str]) -> Iterator[list[Span]]:
    """Measure every call of a part in this process; yields the list to which each call is added.

    Args:
        more: Further functions, each as its part and its dotted name.
    """
    spans: list[Span] = []
    functions = [(part, name) for part, names in PARTS.items() for name in names]
    with contextlib.ExitStack() as stack:
        for part, name in [*functions, *more]:
            stack.enter_context(mock.patch(name, _measured(part, pkgutil.resolve_name(name), spans)))
        yield spans


def _measured(part: str, function: Callable[..., Any], spans: list[Span]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spans.append(Span(part, began, time.perf_counter()))

    return call


def split(spans: Sequence[Span]) -> list[dict[str, float]]:
    """Return the seconds of each trial beside its training: of every part, of the rest, and in all.

    Args:
        spans: Calls in trials that ran one after the other; the last trial ends with its last call.
    """
    begins = sorted(span.start for span in spans if span.part == ASK)
    bounds = [*begins, max(span.end for span in spans)]
    trials = []
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        parts = dict.fromkeys(PARTS, 0.0)
        for span in spans:
            if begin <= span.start < end:
                parts[span.part] += span.end - span.start
        in_all = end - begin - parts.pop(TRAIN) + parts[REPORT]
        trials.append({**parts, "the rest": in_all - sum(parts.values()), "in all": in_all})
    return trials


def summarize(trials: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return median and maximum of the seconds per trial, and the median of each part; None for one never called."""
    medians = {part: statistics.median(trial[part] for trial in trials) or None for part in trials[0]}
    in_all = medians.pop("in all")
    return {
        "trials": len(trials),
        "median_s": in_all,
        "max_s": max(trial["in all"] for trial in trials),
        "parts_s": medians,
    }


def sweep_here(base: Path, trials: int, *overrides: str) -> None:
    """Run the command of a sweep of tiny trials in this process, until the study has that many.

    Raises:
        SystemExit: The sweep failed.
    """
    command = ["-m", "hydra/sweeper=optuna", f"hydra.sweeper.study_name={STUDY}", f"sweeps_dir='{base}'"]
    arguments = ["app/train.py", *command, f"hydra.sweeper.n_trials={trials}", *SHORT, *overrides]
    with mock.patch.object(sys, "argv", arguments), contextlib.redirect_stdout(io.StringIO()):
        try:
            runpy.run_path(str(ROOT / "app" / "train.py"), run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise


def finished_trials(base: Path, wanted: int) -> list[FrozenTrial]:
    """Return the trials of the study, after a check of their number and states.

    Raises:
        SystemExit: The study has not exactly the wanted number of finished trials, so a figure would be wrong.
    """
    study = find_study(base, STUDY, None)[1]
    started = [trial for trial in study.get_trials(deepcopy=False) if trial.state is not TrialState.WAITING]
    states = [trial.state.name for trial in started]
    if states != [TrialState.COMPLETE.name] * wanted:
        raise SystemExit(f"the sweep was to finish {wanted} trials; they are {', '.join(states) or 'none'}.")
    return started


def overhead(trials: int) -> dict[str, Any]:
    """Measure the cost of a trial beside its training, in a sweep of the real command and in plain Optuna.

    Both search all dimensions of ``sweep=optuna`` in an SQLite file with the same sampler and pruner, and run the same
    function; plain Optuna trains one configuration, in a run folder per trial, without Hydra.
    """
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        with timed() as spans:
            sweep_here(base, trials)
        trials_of_sweep = finished_trials(base, trials)
        ours = summarize(split(spans))
        with timed(*PARTS_OF_PLAIN) as spans:
            optimize(base, trials, trials_of_sweep[0])
        return {"ours": ours, "plain_optuna": summarize(split(spans))}


def optimize(base: Path, trials: int, like: FrozenTrial) -> None:
    """Run tiny trials with ``study.optimize`` alone, with the search space of ``like``."""
    config = short_config(base)
    study = optuna.create_study(
        storage=f"sqlite:///{base}/plain.db",
        sampler=optuna.samplers.TPESampler(multivariate=True, constant_liar=True),
        pruner=make_pruner(config.pruner),
        direction="maximize",
    )

    def objective(trial: optuna.Trial) -> float:
        for name, distribution in like.distributions.items():
            trial._suggest(name, distribution)  # as Hydra's sweeper does
        own = replace(config, run_name=f"plain{trial.number}")
        setup = trial_module.set_up(own)
        with StopRequest() as stop, RunFolder.open(own) as folder:
            result = trial_module.train_in_folder(
                folder, own, setup, Console(quiet=True), stop, callbacks=[PlainTrial(trial)]
            )
            return result.objective

    study.optimize(objective, n_trials=trials)


def short_config(base: Path) -> Config:
    """Return the configuration of a tiny trial."""
    with initialize_config_dir(str(ROOT / "conf")):
        return load(compose("config", [*SHORT, f"runs_dir='{base}/plain'", f"sweeps_dir='{base}'"]))


def results(trials: int) -> dict[str, Any]:
    """Measure the cost of writing the results of a study of so many trials, each with its run folder and its epochs."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        sweep_here(base, 1)
        folder, study = find_study(base, STUDY, None)
        multiply(folder.trials, study, trials)
        finished_trials(base, trials)
        taken = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            write_results(folder, study)
            taken.append(time.perf_counter() - began)
        command = [sys.executable, "app/sweep_report.py", f"study={STUDY}", f"sweeps_dir='{base}'"]
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return {"trials": trials, "median_s": statistics.median(taken), "command_s": time.perf_counter() - began}


def multiply(folder: Path, study: optuna.Study, wanted: int) -> None:
    """Add copies of the first trial to a study, with random parameters and with run folders of their own.

    Args:
        folder: Folder ``trials/`` of the study.
        study: Study with one trial.
        wanted: Number of trials in the end.
    """
    first = study.get_trials(deepcopy=False)[0]
    random = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), direction="maximize")
    for number in range(1, wanted):
        trial = random.ask(first.distributions)
        for name, value in {**first.user_attrs, END: "finished", EPOCHS: EPOCHS_OF_COPY}.items():
            trial.set_user_attr(name, value)
        trial.set_user_attr(FOLDER, f"{number:05d}")
        for epoch in range(1, EPOCHS_OF_COPY + 1):
            trial.report(number * epoch / wanted, epoch)
        random.tell(trial, float(number))
        weights = shutil.ignore_patterns("*.safetensors")
        shutil.copytree(folder / first.user_attrs[FOLDER], folder / f"{number:05d}", ignore=weights)
    study.add_trials(random.trials)
