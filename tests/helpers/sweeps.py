"""Sweeps that start in the process of a test, as Hydra would start them, and studies as launches leave them."""

import contextlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from app.runs.manifest import Manifest
from app.sweep.session import SweepSession, assign_trial
from app.sweep.study_folder import StudyFolder
from app.sweep.study_setup import start_session
from app.sweep.study_store import StudyStore
from tests.helpers.make import raw
from tests.helpers.runs import ROOT

DEAD_PID = 2**31 - 1  # no process has this number
GAMMAS = (0.99, 0.995, 0.999)


class StartedSweep:
    """A launch of a study in this process."""

    def __init__(self, cfg: DictConfig, session: SweepSession):
        self.cfg, self.session, self.launch, self.folder = cfg, session, session.launch, session.folder
        self.store = session.store

    @property
    def study(self) -> optuna.Study:
        return self.store.load()

    @property
    def states(self) -> list[str]:
        """States of the trials, by number."""
        return [trial.state.name for trial in self.study.trials]

    def ask(self) -> optuna.Trial:
        """Ask for a trial, as the Optuna sweeper does."""
        trial = self.study.ask()
        trial.suggest_categorical("agent.gamma", GAMMAS)
        return trial

    def ask_and_assign(self) -> optuna.Trial:
        trial = self.ask()
        assign_trial(self.cfg, trial)
        return trial

    def end_launch(self) -> None:
        self.launch.end()

    def kill_launch(self) -> None:
        """Leave what a kill leaves: the kernel gives the lock back, the files stay."""
        self.launch._lock.release()

    def recorded_settings(self) -> tuple[bytes, dict]:
        """Configuration and fingerprint in the study folder."""
        return self.folder.config.read_bytes(), json.loads(self.folder.fingerprint.read_text())


class SweepStarter:
    """Starts launches with overrides of the command line; returns None where no trial is left to run."""

    def __init__(self, sweeps_dir: Path, monkeypatch: pytest.MonkeyPatch):
        self._sweeps_dir, self._monkeypatch = sweeps_dir, monkeypatch
        self._started: list[StartedSweep] = []

    def __call__(self, *overrides: str, searched: tuple[str, ...] = ()) -> StartedSweep | None:
        place = [] if any(text.startswith("sweeps_dir=") for text in overrides) else [f"sweeps_dir={self._sweeps_dir}"]
        cfg = raw("hydra/sweeper=optuna", "env=sim_lidar", *place, *overrides, hydra=True)
        cfg.hydra.overrides.task.extend(searched)  # composing accepts them with -m only
        self._monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
        session = start_session(cfg)
        if session is None:
            return None
        self._started.append(StartedSweep(cfg, session))
        return self._started[-1]

    def end_all(self) -> None:
        for sweep in self._started:
            sweep.end_launch()


@contextlib.contextmanager
def living_launch(folder: StudyFolder) -> Iterator[str]:
    """Run another process that shares the study; yields the identifier of its launch."""
    name = f"{platform.node()}-1-20260101T000000"
    script = "import sys; from pathlib import Path; from app.runs.lock import Lock\n"
    script += "with Lock(Path(sys.argv[1]), 'launch'): print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(folder.launches / name)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield name
        process.stdin.close()


def make_trial_run(folder: StudyFolder, name: str) -> list[Path]:
    """Make the run folder of a trial; returns its files of the kinds that a restart removes."""
    root = folder.trials / name
    files = {"replay": root / "replay/rows.bin", "checkpoints": root / "checkpoints/last.pt"}
    files["weights"] = root / "best/actor.safetensors"
    root.mkdir(parents=True)
    for kind, path in files.items():
        Manifest.open(root).add(kind, path)
        path.parent.mkdir()
        path.write_text(kind)
    (root / "metrics.jsonl").write_text("{}\n")
    return list(files.values())


def open_store(folder: StudyFolder) -> StudyStore:
    """The study in the own file of its folder."""
    return StudyStore(f"sqlite:///{folder.database}", folder.path.name)
