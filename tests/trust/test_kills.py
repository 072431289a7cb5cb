"""SIGKILL at random moments: the same command continues, and ends bit-equal where nothing else decides."""

import itertools
import json
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from app.config.key_effects import can_change_learning
from app.config.schema import Config
from app.runs.config_file import read_config
from app.runs.fingerprint import flatten
from app.sweep.study_folder import StudyFolder
from app.sweep.study_store import END, FOLDER, LAUNCH, STOPPED, StudyStore
from tests.helpers.crashed_runs import SLACK, SMALL, comparable_lines, whole_result
from tests.helpers.forked import kill_after, moments, start_command, start_training, wait_until
from tests.helpers.runs import first_difference
from tests.helpers.stopped_runs import configure
from tests.helpers.trust_size import SEED, cases
from tests.helpers.trust_table import record

OFTEN = "training.checkpoint_interval_s=0.05"
TRIALS = 2
SWEEP = (
    *SMALL, OFTEN, "training.epochs=2", "hydra/sweeper=optuna", "sweep=core", f"hydra.sweeper.n_trials={TRIALS}",
    "replay.keep_after_trial=true", "agent.betas_critic=[0.9,0.99]", "agent.betas_actor=[0.9,0.99]",
    f"agent.gamma={','.join(f'0.{number}' for number in range(85, 99))}",
)  # fmt: skip
STUDY = "killed"


def train(runs: Path, *overrides: str) -> float:
    """Train to the end in a process of its own; return its duration in seconds."""
    began, process = time.monotonic(), start_training(configure(runs, *SMALL, *overrides), runs / "log.txt", SLACK)
    process.join()
    assert process.exitcode == 0, (runs / "log.txt").read_text()
    return time.monotonic() - began


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[dict[str, Any], float]:
    """The result of a run that nobody kills, and its duration in seconds."""
    runs = tmp_path_factory.mktemp("whole")
    train(runs)  # the first one also waits for the imports
    shutil.rmtree(runs / "run")
    seconds = train(runs)
    return whole_result(runs / "run"), seconds


def test_run_killed_at_random_moments_ends_bit_equal(tmp_path, whole):
    expected, seconds = whole
    count, began, when = cases(100), time.monotonic(), moments(seconds, SEED)
    kills, problems, folders = 0, [], (tmp_path / str(number) for number in itertools.count())
    while kills < count:
        runs = next(folders)
        runs.mkdir()
        config, died = configure(runs, *SMALL, OFTEN), True
        while died and kills < count:
            process = start_training(config, runs / "log.txt", SLACK)
            died = kill_after(process, next(when))
            kills += died
            if not died and process.exitcode:
                problems.append((runs / "log.txt").read_text())
        if died:
            train(runs, OFTEN)
        if difference := first_difference(expected, whole_result(runs / "run")):
            problems.append(f"{runs}: {difference}")
    record("SIGKILL of a local run", kills, len(problems), time.monotonic() - began)
    assert not problems, "\n".join(problems)


class Sweeps:
    """Launches of studies, and what a run with the parameters of each trial ends with when nobody kills it."""

    def __init__(self, base: Path):
        self.base = base
        self._expected: dict[str, dict[str, Any]] = {}

    def folder(self, number: int) -> StudyFolder:
        return StudyFolder(self.base / str(number), STUDY)

    def launch(self, number: int, log: str = "log.txt"):
        sweeps = self.base / str(number)
        sweeps.mkdir(exist_ok=True)
        command = ("-m", *SWEEP, f"sweeps_dir={sweeps}", f"hydra.sweeper.study_name={STUDY}")
        return start_command(command, sweeps / log)

    def finish(self, number: int) -> str | None:
        """Repeat the command until nothing is left to do; return what it says if it fails."""
        process = self.launch(number, "last.txt")
        process.join()
        return (self.base / str(number) / "last.txt").read_text() if process.exitcode else None

    def problems(self, number: int) -> Iterator[str]:
        """Yield what is wrong with a study that has ended."""
        folder = self.folder(number)
        study = StudyStore(f"sqlite:///{folder.database}", STUDY).load()
        states = [trial.state.name for trial in study.trials]
        ends = [trial.user_attrs.get(END) for trial in study.trials if trial.state.name == "FAIL"]
        # One that a killed launch had asked for and not begun counts as running for some minutes: it could be another
        # machine's.
        running = [trial for trial in study.trials if trial.state.name == "RUNNING" and LAUNCH in trial.user_attrs]
        if states.count("COMPLETE") < TRIALS or running or set(ends) - {STOPPED}:
            yield f"{folder.path}: {states}"
        done = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
        for trial in done:
            run = folder.trials / trial.user_attrs[FOLDER]
            config = read_config(run / "config.yaml")
            if config.agent.gamma != trial.params["agent.gamma"]:
                yield f"{run}: trained with other parameters"
            expected = self._result(config)
            if difference := first_difference(expected, whole_result(run)):
                yield f"{run}: {difference}"
            if len(comparable_lines(run / "metrics.jsonl")) != len(expected["metrics"]):
                yield f"{run}: other lines of metrics"
        table = (folder.path / "trials.csv").read_text() if (folder.path / "trials.csv").is_file() else ""
        if not (folder.path / "best.yaml").is_file() or len(table.splitlines()) <= TRIALS:
            yield f"{folder.path}: results are missing"

    def _result(self, config: Config) -> dict[str, Any]:
        """Return what a run that nobody kills ends with."""
        settings = json.dumps(
            {key: value for key, value in flatten(asdict(config)).items() if can_change_learning(key)}
        )
        if settings not in self._expected:
            runs = self.base / f"expected-{len(self._expected)}"
            runs.mkdir()
            process = start_training(replace(config, runs_dir=str(runs), run_name="run"), runs / "log.txt")
            process.join()
            self._expected[settings] = whole_result(runs / "run")
        return self._expected[settings]


def test_sweep_killed_at_random_moments_finishes_every_trial_bit_equal(tmp_path):
    sweeps = Sweeps(tmp_path)
    assert sweeps.finish(0) is None
    began = time.monotonic()
    shutil.rmtree(sweeps.folder(0).path)
    assert sweeps.finish(0) is None
    seconds, began = time.monotonic() - began, time.monotonic()
    count, kills, study, problems, draw = cases(50), 0, 0, list(sweeps.problems(0)), random.Random(SEED)
    ways = (kill_one, kill_one_of_two, kill_both, kill_while_results_are_written)
    while kills < count:
        study += 1
        kills += ways[study % len(ways)](sweeps, study, draw, seconds, count - kills)
        if failure := sweeps.finish(study):
            problems.append(failure)
        else:
            problems += sweeps.problems(study)
    record("SIGKILL of a sweep, of one launch or two", kills, len(problems), time.monotonic() - began)
    assert not problems, "\n".join(problems)


def kill_one(sweeps: Sweeps, study: int, draw: random.Random, seconds: float, limit: int) -> int:
    """Kill the launch, and the next one with the same command, until one ends; return the number of kills."""
    kills = 0
    while kills < limit and kill_after(sweeps.launch(study), draw.uniform(0.2, 1) * seconds):
        kills += 1
    return kills


def kill_one_of_two(sweeps: Sweeps, study: int, draw: random.Random, seconds: float, limit: int) -> int:
    """Kill one of two launches that share the study; the other one goes on."""
    one, other = sweeps.launch(study, "one.txt"), sweeps.launch(study, "other.txt")
    killed = kill_after(one, draw.uniform(0.2, 1) * seconds)
    other.join()
    return int(killed)


def kill_both(sweeps: Sweeps, study: int, draw: random.Random, seconds: float, limit: int) -> int:
    """Kill two launches that share the study, one after the other."""
    one, other = sweeps.launch(study, "one.txt"), sweeps.launch(study, "other.txt")
    first = kill_after(one, draw.uniform(0.2, 0.8) * seconds)
    return first + kill_after(other, draw.uniform(0, 0.3) * seconds)


def kill_while_results_are_written(sweeps: Sweeps, study: int, draw: random.Random, seconds: float, limit: int) -> int:
    """Kill a launch whose last trial has ended."""
    process, trials = sweeps.launch(study), sweeps.folder(study).trials
    wait_until(lambda: len(list(trials.glob("*/summary.json"))) >= TRIALS, process)
    return int(kill_after(process, draw.uniform(0, 0.3) * seconds))


def test_restart_killed_in_the_middle_of_clearing_is_repeated(tmp_path, whole):
    expected, _ = whole
    train(tmp_path)
    old = tmp_path / "run"
    count, began, draw = cases(30), time.monotonic(), random.Random(SEED)
    killed, problems = 0, []
    for number in range(10 * count):
        if killed == count:
            break
        runs, restart = tmp_path / str(number), ("+restart=clean", "+restart=archive")[number % 2]
        shutil.copytree(old, runs / "run")
        archived = {path.name: path.read_bytes() for path in listed_files(old)} if "archive" in restart else {}
        config = configure(runs, *SMALL, restart)
        middle = kill_in_the_middle(config, runs, draw.uniform(0, 0.12))
        killed += middle
        refused = without_restart(runs) if draw.random() < 0.5 else True
        if refused:
            train(runs, restart)
        there = {path.read_bytes() for path in runs.rglob("*") if path.is_file()}
        problems += [f"{runs}: {name} is gone" for name, content in archived.items() if content not in there]
        if difference := first_difference(expected, whole_result(runs / "run")):
            problems.append(f"{runs}: {difference}")
        shutil.rmtree(runs)
    record("SIGKILL of a restart while it clears a run", killed, len(problems), time.monotonic() - began)
    assert not problems, "\n".join(problems)
    assert killed == count


def listed_files(run: Path) -> Sequence[Path]:
    """Return the files of a run that a restart takes."""
    return [path for name in ("checkpoints", "replay", "best") for path in sorted((run / name).iterdir())]


def kill_in_the_middle(config: Config, runs: Path, seconds: float) -> bool:
    """Kill a restart some seconds after it has begun to clear; return whether some files were left and some taken."""
    before = len(listed_files(runs / "run"))
    process = start_training(config, runs / "log.txt", SLACK, fsync_s=0.005)
    wait_until(lambda: any((runs / "run" / "history").glob("*/receipt.json")), process)
    kill_after(process, seconds)
    left = sum(path.is_file() for path in (runs / "run").glob("[cbr]*/*"))
    return 0 < left < before


def without_restart(runs: Path) -> bool:
    """Repeat the command without the restart; return whether it refuses, with the way out, rather than begins anew."""
    process = start_training(configure(runs, *SMALL), runs / "again.txt", SLACK)
    process.join()
    text = (runs / "again.txt").read_text()
    assert process.exitcode == 0 or "+restart=clean" in text, text
    return process.exitcode != 0
