"""Jobs of a multirun (``-m``): each gets a run folder and a share of the cores of its own."""

import hashlib
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from app.config.schema import Config
from app.config.types import LONGEST_NAME
from app.core.errors import UserError
from app.core.system import usable_cores

TRIALS = "trials"  # folder in that of the study, with the run folders of its trials

_NOT_IN_NAMES = ("runs_dir", "sweeps_dir", "run_name", "device", "threads", "logger", "restart", "hydra")
_HASH_DIGITS = 10


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
    """

    overrides: tuple[str, ...]
    parallel_jobs: int
    trial: "TrialJob | None"

    @classmethod
    def current(cls) -> "Job | None":
        """Return the job that Hydra is running now; None in a single run.

        Raises:
            UserError: The single run was to be a search.
        """
        hydra = HydraConfig.get()
        is_search = "launch" in hydra.sweeper  # conf/hydra/sweeper/optuna.yaml has the key
        if hydra.mode is not RunMode.MULTIRUN:
            if is_search:
                raise UserError(
                    "hydra/sweeper=optuna: a search needs -m: python app/train.py -m hydra/sweeper=optuna ..."
                )
            return None
        trial = None
        if is_search:
            trial = TrialJob(Path(hydra.sweep.dir), hydra.sweeper.storage, hydra.sweeper.launch, hydra.job.num)
        return cls(tuple(hydra.overrides.task), count_parallel_jobs(hydra.launcher), trial)


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


def config_of_job(config: Config, cfg: DictConfig, job: Job) -> Config:
    """Return the configuration of a job with its share of the cores and a run folder of its own.

    The same overrides give the same folder. The study chooses the folder of a trial.

    Args:
        config: Configuration of the job, with a ``run_name`` that several jobs may share.
        cfg: The composed configuration that it was made from, which shows the parts of the run name.
        job: The job.
    """
    if not config.threads and job.parallel_jobs > 1:
        config = replace(config, threads=max(1, usable_cores() // job.parallel_jobs))
    if job.trial is not None:
        return config
    shown = _overrides_in_name(OmegaConf.to_container(cfg, resolve=False)["run_name"], config)
    return replace(config, run_name=unique_run_name(config.run_name, set(job.overrides) - shown))


def count_parallel_jobs(launcher: DictConfig) -> int:
    """Return the number of jobs that a launcher of Hydra's runs at the same time on this machine."""
    wanted = OmegaConf.select(launcher, "n_jobs")  # of joblib; others have no such key
    if wanted is None:
        return 1
    return usable_cores() if wanted < 1 else wanted


def unique_run_name(base: str, overrides: Iterable[str]) -> str:
    """Return a run name that no other set of overrides has, with the length and characters of ``types.Name``.

    Overrides that do not change what is learned are left out. A name that cannot show everything ends in a hash.
    """
    shown = sorted(text for text in (override.lstrip("+") for override in overrides) if _matters(text))
    name = "__".join([base, *map(_word, shown)])
    if len(name) <= LONGEST_NAME and all(map(_is_exact, shown)):
        return name
    digest = hashlib.sha256("\n".join([base, *shown]).encode()).hexdigest()[:_HASH_DIGITS]
    words = [base, *(_word(override.partition(".")[2] or override) for override in shown)]
    room = LONGEST_NAME - len(f"__{digest}")
    while len(words) > 1 and len("__".join(words)) > room:
        words.pop()
    return f"{'__'.join(words)[:room]}__{digest}"


def _overrides_in_name(run_name: str, config: Config) -> set[str]:
    """Return the overrides that the run name already shows through its interpolations."""
    parts = {"model.name": f"model={config.model.name}", "env.name": f"env={config.env.name}"}
    parts["seed"] = f"seed={config.seed}"
    return {override for part, override in parts.items() if f"${{{part}}}" in run_name}


def _matters(override: str) -> bool:
    return re.split(r"[./@=]", override.lstrip("~"), maxsplit=1)[0] not in _NOT_IN_NAMES


def _word(override: str) -> str:
    """Return an override in the characters of a name: "agent.betas_actor-0.9_0.99" for agent.betas_actor=[0.9,0.99]."""
    key, _, value = override.partition("=")
    return "-".join(re.sub(r"[^A-Za-z0-9.-]+", "_", part).strip("_") for part in (key, value))


def _is_exact(override: str) -> bool:
    """Return whether the override can be reconstructed from its word."""
    key, _, value = override.partition("=")
    plain = r"[A-Za-z0-9.-]+"
    numbers = rf"\[{plain}(,{plain})*\]"
    return bool(re.fullmatch(r"[A-Za-z0-9._]+", key) and re.fullmatch(rf"{plain}(_{plain})*|{numbers}", value))
