"""What ``sweep.py`` measures in its own process: the cost of a trial beside its training, and of a study's results."""

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
from app.runs.folder import RunFolder
from app.sweep import trial as job
from app.sweep.attributes import END, EPOCHS, FOLDER
from app.sweep.find import find_study
from app.sweep.pruner import make_pruner
from app.sweep.results import write_results
from app.training.stop import StopRequest
from benchmarks.common import ROOT

STUDY = "bench"
SHORT = ("env=sim_lidar", "training=smoke", "logger=quiet", "threads=1")
TRAIN, REPORT, SUGGEST, TELL = "train", "report the scores", "suggest, note, enrol", "conclude, tell"
# What a trial does one after the other. Reports are made while it trains; all else stands beside the training.
PARTS = {
    "ask": ("optuna.Study.ask",),
    SUGGEST: ("hydra_plugins.hydra_optuna_sweeper._impl.OptunaSweeperImpl._configure_trials",),
    "compose": ("hydra._internal.config_loader_impl.ConfigLoaderImpl.load_sweep_config",),
    "validate": ("app.config.load.load",),
    "find the trial": ("app.sweep.trial.StudyTrial.find",),
    "set up, open the folder": ("app.sweep.trial.set_up", "app.sweep.trial.RunFolder.open"),
    TRAIN: ("app.sweep.trial.run_in",),
    REPORT: ("app.sweep.trial.StudyTrial.report", "app.sweep.trial.StudyTrial.verdict"),
    "clear the replay": ("app.sweep.trial.remove",),
    TELL: ("app.sweep.trial.StudyTrial.conclude", "optuna.Study.tell"),
}
PARTS_OF_PLAIN = (  # where plain Optuna does the same
    (SUGGEST, "optuna.Trial._suggest"),
    (REPORT, "benchmarks.sweep_costs.Plain.report"),
    (REPORT, "benchmarks.sweep_costs.Plain.verdict"),
    (TELL, "optuna.study._optimize._tell_with_warning"),
)
ASK = next(iter(PARTS))  # a trial begins with it
REPEATS = 5  # of writing the results
EPOCHS_OF_COPY = 10  # that a trial of a large study reports


class Span(NamedTuple):
    """One call of a part, in seconds of one clock."""

    part: str
    began: float
    ended: float


class Plain:
    """A watcher that does with plain Optuna what a trial of a sweep does."""

    def __init__(self, trial: optuna.Trial):
        self._trial = trial

    def report(self, epoch: int, score: float) -> None:
        """Tell the study the score after an epoch."""
        self._trial.report(score, epoch)

    def verdict(self) -> str:
        """Return why the trial should end now, "" if it should not."""
        return job.PRUNED if self._trial.should_prune() else ""


@contextlib.contextmanager
def timed(*more: tuple[str, str]) -> Iterator[list[Span]]:
    """Have every part in this process note when it is called; yields the list that they note it in.

    Args:
        more: further functions, each as its part and its place.
    """
    spans: list[Span] = []
    places = [(part, place) for part, all_of_it in PARTS.items() for place in all_of_it]
    with contextlib.ExitStack() as stack:
        for part, place in [*places, *more]:
            stack.enter_context(mock.patch(place, _noting(part, pkgutil.resolve_name(place), spans)))
        yield spans


def _noting(part: str, function: Callable[..., Any], spans: list[Span]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spans.append(Span(part, began, time.perf_counter()))

    return call


def split(spans: Sequence[Span]) -> list[dict[str, float]]:
    """Return the seconds of each trial beside its training: of every part, of what no part is, and in all.

    Args:
        spans: of trials that ran one after the other; the last ends with its last span.
    """
    begins = sorted(span.began for span in spans if span.part == ASK)
    bounds = [*begins, max(span.ended for span in spans)]
    trials = []
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        parts = dict.fromkeys(PARTS, 0.0)
        for span in spans:
            if begin <= span.began < end:
                parts[span.part] += span.ended - span.began
        in_all = end - begin - parts.pop(TRAIN) + parts[REPORT]
        trials.append({**parts, "the rest": in_all - sum(parts.values()), "in all": in_all})
    return trials


def summed_up(trials: Sequence[dict[str, float]]) -> dict[str, Any]:
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
    """Run the command of a sweep of tiny trials in this process, until the study has so many.

    Raises:
        SystemExit: it failed.
    """
    command = ["-m", "hydra/sweeper=optuna", f"hydra.sweeper.study_name={STUDY}", f"sweeps_dir='{base}'"]
    arguments = ["app/train.py", *command, f"hydra.sweeper.n_trials={trials}", *SHORT, *overrides]
    with mock.patch.object(sys, "argv", arguments), contextlib.redirect_stdout(io.StringIO()):
        try:
            runpy.run_path(str(ROOT / "app" / "train.py"), run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise


def complete(base: Path, wanted: int) -> list[FrozenTrial]:
    """Return the trials of the study; they must be as many as wanted, each with a score.

    Raises:
        SystemExit: they are not, and a figure about them would be wrong.
    """
    study = find_study(base, STUDY, None)[1]
    begun = [trial for trial in study.get_trials(deepcopy=False) if trial.state is not TrialState.WAITING]
    states = [trial.state.name for trial in begun]
    if states != [TrialState.COMPLETE.name] * wanted:
        raise SystemExit(f"the sweep was to finish {wanted} trials; they are {', '.join(states) or 'none'}.")
    return begun


def overhead(trials: int) -> dict[str, Any]:
    """Measure what a trial costs beside its training, in a sweep as the command runs it and in plain Optuna.

    Both search all dimensions of ``sweep=optuna`` in an SQLite file with the same sampler and pruner, and run the same
    function; plain Optuna trains one configuration, in a run folder per trial, without Hydra.
    """
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        with timed() as spans:
            sweep_here(base, trials)
        begun = complete(base, trials)
        ours = summed_up(split(spans))
        with timed(*PARTS_OF_PLAIN) as spans:
            optimize(base, trials, begun[0])
        return {"ours": ours, "plain_optuna": summed_up(split(spans))}


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
        mine = replace(config, run_name=f"plain{trial.number}")
        setup = job.set_up(mine)
        with StopRequest() as stop, RunFolder.open(mine) as folder:
            return job.run_in(folder, mine, setup, Console(quiet=True), stop, [Plain(trial)]).objective

    study.optimize(objective, n_trials=trials)


def short_config(base: Path) -> Config:
    """Return the configuration of a tiny trial."""
    with initialize_config_dir(str(ROOT / "conf")):
        return load(compose("config", [*SHORT, f"runs_dir='{base}/plain'", f"sweeps_dir='{base}'"]))


def results(trials: int) -> dict[str, Any]:
    """Measure what it costs to write the results of a study of so many trials, each with its folder and its epochs."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        sweep_here(base, 1)
        folder, study = find_study(base, STUDY, None)
        multiply(folder.trials, study, trials)
        complete(base, trials)
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
    """Add trials like the first to a study until it has so many: random in all that is searched, folders included.

    Args:
        folder: ``trials/`` of the study.
        study: with one trial.
        wanted: trials in the end.
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
