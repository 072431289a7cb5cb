"""Jobs of a multirun (``-m``): each gets a run folder and a share of the cores of its own."""

import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write

from app.config.home_folder import expand_in_values
from app.config.run_names import name_job, name_run, shown_overrides
from app.config.schema import Config
from app.core.errors import UserError
from app.core.system import usable_cores

SEARCH_SPACE_ALONE = "sweep: a search space needs a sweeper that searches it. Add -m hydra/sweeper=optuna."
TRIALS = "trials"  # folder in that of the study, with the run folders of its trials


@dataclass(frozen=True)
class TrialJob:
    """A job that is a trial of a study.

    Attributes:
        study: Folder of the study; it has the study's name.
        storage: URL of the study's storage.
        launch: Identifier of the launch that the trial is assigned to.
        number: Number of the job in that launch.
    """

    study: Path
    storage: str
    launch: str
    number: int


@dataclass(frozen=True)
class Job:
    """A job of a multirun, as Hydra runs it.

    Attributes:
        overrides: Its overrides, such as "agent.gamma=0.99".
        parallel_jobs: Number of jobs that share the machine.
        trial: Its trial; None for a job of a plain ``-m`` without a study.
        number: Number of the job, from 0.
        jobs: Number of all jobs; None if it is not known.
        swept: Keys that differ between them.
    """

    overrides: tuple[str, ...]
    parallel_jobs: int
    trial: "TrialJob | None" = None
    number: int = 0
    jobs: int | None = None
    swept: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Position of the job, and what differs from the others, such as "job 2 of 3 · seed=1"."""
        of = "" if self.jobs is None else f" of {self.jobs}"
        return " · ".join([f"job {self.number + 1}{of}", *shown_overrides(self.overrides, self.swept)])

    @property
    def line_prefix(self) -> str:
        """Beginning of its lines among those of other jobs, such as "[seed=1] "; empty if it runs alone."""
        different = " ".join(shown_overrides(self.overrides, self.swept))
        return f"[{different or f'job {self.number + 1}'}] " if self.parallel_jobs > 1 else ""

    @classmethod
    def current(cls) -> "Job | None":
        """Return the job that Hydra is running now; None in a single run.

        Raises:
            UserError: The single run was to be a search, or there is a search space without a sweeper that searches it.
        """
        hydra = HydraConfig.get()
        is_search = "launch" in hydra.sweeper  # conf/hydra/sweeper/optuna.yaml has the key
        if not is_search and "study_name" in hydra.sweeper:  # conf/sweep/*.yaml have the key
            raise UserError(SEARCH_SPACE_ALONE)
        if hydra.mode is not RunMode.MULTIRUN:
            if is_search:
                raise UserError(
                    "hydra/sweeper=optuna: a search needs -m: python app/train.py -m hydra/sweeper=optuna ..."
                )
            return None
        trial = None
        if is_search:
            trial = TrialJob(Path(hydra.sweep.dir), hydra.sweeper.storage, hydra.sweeper.launch, hydra.job.num)
        jobs, swept = (OmegaConf.select(hydra.sweeper, key) for key in ("jobs", "swept"))
        parallel_jobs = count_parallel_jobs(hydra.launcher)
        return cls(tuple(hydra.overrides.task), parallel_jobs, trial, hydra.job.num, jobs, tuple(swept or ()))


def enter_launch_folder() -> None:
    """Change to the folder where the launch was started, from which paths count; workers of ray start elsewhere.

    Raises:
        UserError: This machine has no such folder.
    """
    folder = HydraConfig.get().runtime.cwd
    try:
        os.chdir(folder)
    except OSError as error:
        raise UserError(
            f"{folder}: the launch was started there, and {platform.node()} cannot open it ({error.strerror}). "
            "Put the project at the same path on every machine."
        ) from None


def config_of_run(config: Config, cfg: DictConfig) -> Config:
    """Return the configuration of a single run, with a default run name that shows its overrides.

    Args:
        config: Configuration of the run.
        cfg: The composed configuration that it was made from.
    """
    return replace(config, run_name=name_run(config, cfg, HydraConfig.get().overrides.task))


def config_of_job(config: Config, cfg: DictConfig, job: Job) -> Config:
    """Return the configuration of a job with its share of the cores and a run folder of its own.

    The same overrides give the same folder. The study chooses the folder of a trial.

    Args:
        config: Configuration of the job, with a ``run_name`` that several jobs may share.
        cfg: The composed configuration that it was made from, which shows the parts of the run name.
        job: The job.
    """
    config = replace(config, threads=threads_of_job(config.threads, job.parallel_jobs))
    if job.trial is not None:
        return config
    return replace(config, run_name=name_job(config, cfg, job.overrides, job.swept))


def threads_of_job(threads: int, parallel_jobs: int) -> int:
    """Return the threads of one of several jobs that run at once: an equal share of the cores if ``threads`` is 0.

    Args:
        threads: The setting; 0: one or every core, as measured when the job starts.
        parallel_jobs: Number of jobs that share the machine.
    """
    return threads if threads or parallel_jobs == 1 else max(1, usable_cores() // parallel_jobs)


def without_hydra(cfg: DictConfig) -> DictConfig:
    """Return a composed configuration without the node ``hydra``."""
    return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])


def expand_sweep_dir(hydra: DictConfig) -> bool:
    """Expand a home folder in ``hydra.sweep.dir``, which Hydra makes as it stands; return whether there is one.

    Args:
        hydra: The node ``hydra`` of the configuration of a launch.
    """
    given = str(hydra.sweep.dir)
    expanded = expand_in_values(given)
    if expanded == given:
        return False
    with read_write(hydra), read_write(hydra.sweep):
        hydra.sweep.dir = expanded
    return True


def quoted(value: str | int) -> str:
    """Return a value as an override of Hydra's has it."""
    return QuotedString(value, Quote.single).with_quotes() if isinstance(value, str) else str(value)


def runs_here(launcher: DictConfig) -> bool:
    """Return whether a launcher of Hydra's runs its jobs on this machine; a cluster has other devices."""
    return launcher._target_.rpartition(".")[2] in ("BasicLauncher", "JoblibLauncher")


def count_parallel_jobs(launcher: DictConfig) -> int:
    """Return the number of jobs that a launcher of Hydra's runs at the same time on this machine."""
    wanted = OmegaConf.select(launcher, "n_jobs")  # of joblib; others have no such key
    if wanted is None:
        return 1
    return usable_cores() if wanted < 1 else wanted
