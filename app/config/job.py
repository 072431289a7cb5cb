"""The configuration of one job among several, of ``-m``: each has a run folder of its own."""

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

from app.config.schema import LONGEST_NAME, Config
from app.errors import UserError
from app.machine import usable_cores

TRIALS = "trials"  # folder below that of the study, with the run folders of its trials

_NO_PART_OF_A_NAME = ("runs_dir", "sweeps_dir", "run_name", "device", "threads", "logger", "restart", "hydra")
_DIGITS = 10  # of the hash


@dataclass(frozen=True)
class TrialJob:
    """A job that is a trial of a study.

    Attributes:
        study: the folder of the study; its name is the study's.
        storage: URL of the study's storage.
        launch: who enrolled the trial.
        number: of the job in that launch.
    """

    study: Path
    storage: str
    launch: str
    number: int


@dataclass(frozen=True)
class Job:
    """What Hydra knows of a job.

    Attributes:
        overrides: of this job, such as "agent.gamma=0.99".
        at_once: jobs that share the machine.
        trial: which trial of which study it is; None for a job of a plain ``-m``.
    """

    overrides: tuple[str, ...]
    at_once: int
    trial: "TrialJob | None"

    @classmethod
    def current(cls) -> "Job | None":
        """Return the job that Hydra is running now; None when it is a single run."""
        hydra = HydraConfig.get()
        if hydra.mode is not RunMode.MULTIRUN:
            return None
        trial = None
        if "study" in hydra.callbacks:
            folder, storage = Path(hydra.sweep.dir), hydra.sweeper.storage
            trial = TrialJob(folder, storage, hydra.callbacks.study.launch, hydra.job.num)
        return cls(tuple(hydra.overrides.task), jobs_at_once(hydra.launcher), trial)


def go_to_launch() -> None:
    """Go to the folder where the launch was started: paths count from there, and a worker of ray is started elsewhere.

    Raises:
        UserError: this machine has no such folder.
    """
    folder = HydraConfig.get().runtime.cwd
    try:
        os.chdir(folder)
    except OSError as error:
        raise UserError(
            f"{folder}: the launch was started there, and {platform.node()} cannot go there ({error.strerror}). "
            "Have the project at the same place on every machine."
        ) from None


def as_job(config: Config, cfg: DictConfig, job: Job) -> Config:
    """Give a job its share of the cores and the run folder that is its own.

    The same overrides lead to the same folder; the folder of a trial is the study's affair.

    Args:
        config: of the job, with the ``run_name`` that several jobs may share.
        cfg: what it was made from: shows what the run name is composed of.
        job: the job.
    """
    if not config.threads and job.at_once > 1:
        config = replace(config, threads=max(1, usable_cores() // job.at_once))
    if job.trial is not None:
        return config
    told = _told_by(OmegaConf.to_container(cfg, resolve=False)["run_name"], config)
    return replace(config, run_name=own_name(config.run_name, set(job.overrides) - told))


def jobs_at_once(launcher: DictConfig) -> int:
    """Return how many jobs a launcher of Hydra's runs on this machine at the same time."""
    wanted = OmegaConf.select(launcher, "n_jobs")  # of joblib; others have no such key
    if wanted is None:
        return 1
    return usable_cores() if wanted < 1 else wanted


def own_name(base: str, overrides: Iterable[str]) -> str:
    """Return a run name that no other set of overrides has, within the length and the signs of ``schema.Name``.

    Overrides that don't change what is learned are left out. Where the name cannot show everything, a hash ends it.
    """
    shown = sorted(text for text in (override.lstrip("+") for override in overrides) if _matters(text))
    name = "__".join([base, *map(_word, shown)])
    if len(name) <= LONGEST_NAME and all(map(_is_exact, shown)):
        return name
    digest = hashlib.sha256("\n".join([base, *shown]).encode()).hexdigest()[:_DIGITS]
    words = [base, *(_word(override.partition(".")[2] or override) for override in shown)]
    room = LONGEST_NAME - len(f"__{digest}")
    while len(words) > 1 and len("__".join(words)) > room:
        words.pop()
    return f"{'__'.join(words)[:room]}__{digest}"


def _told_by(run_name: str, config: Config) -> set[str]:
    """Return the overrides that the default run name, or one composed like it, shows already."""
    parts = {"model.name": f"model={config.model.name}", "env.name": f"env={config.env.name}"}
    parts["seed"] = f"seed={config.seed}"
    return {override for part, override in parts.items() if f"${{{part}}}" in run_name}


def _matters(override: str) -> bool:
    return re.split(r"[./@=]", override.lstrip("~"), maxsplit=1)[0] not in _NO_PART_OF_A_NAME


def _word(override: str) -> str:
    """The override in the signs of a name: "agent.betas_actor=[0.9,0.99]" is "agent.betas_actor-0.9_0.99"."""
    key, _, value = override.partition("=")
    return "-".join(re.sub(r"[^A-Za-z0-9.-]+", "_", part).strip("_") for part in (key, value))


def _is_exact(override: str) -> bool:
    """Whether the override can be told from its word."""
    key, _, value = override.partition("=")
    plain = r"[A-Za-z0-9.-]+"
    numbers = rf"\[{plain}(,{plain})*\]"
    return bool(re.fullmatch(r"[A-Za-z0-9._]+", key) and re.fullmatch(rf"{plain}(_{plain})*|{numbers}", value))
