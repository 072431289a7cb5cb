"""The configuration of one job among several, of ``-m``: each has a run folder of its own."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from app.config.schema import LONGEST_NAME, Config

TRIALS = "trials"  # folder below that of the study, with the run folders of its trials

_NO_PART_OF_A_NAME = ("runs_dir", "sweeps_dir", "run_name", "device", "threads", "logger", "restart", "hydra")
_DIGITS = 10  # of the hash


@dataclass(frozen=True)
class Job:
    """What Hydra knows of a job.

    Attributes:
        overrides: of this job, such as "agent.gamma=0.99".
        study: folder of the study that it is a trial of; None for a job of a plain ``-m``.
    """

    overrides: tuple[str, ...]
    study: Path | None

    @classmethod
    def current(cls) -> "Job | None":
        """Return the job that Hydra is running now; None when it is a single run."""
        hydra = HydraConfig.get()
        if hydra.mode is not RunMode.MULTIRUN:
            return None
        return cls(tuple(hydra.overrides.task), Path(hydra.sweep.dir) if "study" in hydra.callbacks else None)


def as_job(config: Config, cfg: DictConfig, job: Job) -> Config:
    """Give a job the run folder that is its own; the same overrides lead to the same folder.

    Args:
        config: of the job, with the ``run_name`` that several jobs may share.
        cfg: what it was made from: shows what the run name is composed of.
        job: the job.
    """
    told = _told_by(OmegaConf.to_container(cfg, resolve=False)["run_name"], config)
    config = replace(config, run_name=own_name(config.run_name, set(job.overrides) - told))
    if job.study is None:
        return config
    # What there was to clear was cleared once, before the study was opened.
    return replace(config, runs_dir=str(job.study / TRIALS), restart=None)


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
