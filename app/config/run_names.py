"""Names of run folders, made from the overrides of the command line."""

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence

from omegaconf import DictConfig, OmegaConf

from app.config.key_effects import is_part_of_name
from app.config.schema import Config
from app.config.task_id import task_name
from app.config.types import LONGEST_NAME

_HASH_DIGITS = 10
_OWN_FOLDERS = ("run_name", "runs_dir")  # keys whose values make folders of their own


def name_job(config: Config, cfg: DictConfig, overrides: Sequence[str], swept: Collection[str] = ()) -> str:
    """Return the run name of a job, which no other job with the same ``run_name`` has.

    Args:
        config: Configuration of the job.
        cfg: The composed configuration that it was made from, which shows the parts of the run name.
        overrides: Overrides of the job, such as "agent.gamma=0.99".
        swept: Keys that differ between the jobs, as they are written; each of them is part of the name.
    """
    hidden = _overrides_in_name(config, cfg)
    hidden |= {override for override in overrides if _begins_name(override, config.run_name)}
    different = shown_overrides(overrides, {key for key in swept if key.lstrip("+") not in _OWN_FOLDERS})
    return unique_run_name(config.run_name, set(overrides) - hidden, set(different) - hidden)


def name_run(config: Config, cfg: DictConfig, overrides: Sequence[str]) -> str:
    """Return the run name of a single run: the given one as it is, or the default with the overrides behind it.

    Args:
        config: Configuration of the run.
        cfg: The composed configuration that it was made from.
        overrides: Overrides of the command line.
    """
    is_given = any(override.lstrip("+").startswith("run_name=") for override in overrides)
    return config.run_name if is_given else name_job(config, cfg, overrides)


def shown_overrides(overrides: Iterable[str], keys: Collection[str]) -> list[str]:
    """Return the overrides of some keys, as they are written on the command line."""
    return [override for override in overrides if override.partition("=")[0] in keys]


def unique_run_name(base: str, overrides: Iterable[str], different: Collection[str] = ()) -> str:
    """Return a run name that no other set of overrides has, with the length and characters of ``types.Name``.

    Overrides that may change while a run continues are left out. A name that cannot show everything ends in a hash.

    Args:
        base: Beginning of the name.
        overrides: Overrides of the run.
        different: Those of them that differ from other runs of the same command; none of these is left out.
    """
    shown = sorted(text.lstrip("+") for text in overrides if text in different or _matters(text.lstrip("+")))
    name = "__".join([base, *map(_word, shown)])
    if len(name) <= LONGEST_NAME and all(map(_is_exact, shown)):
        return name
    digest = hashlib.sha256("\n".join([base, *shown]).encode()).hexdigest()[:_HASH_DIGITS]
    words = [base, *(_word(override.partition(".")[2] or override) for override in shown)]
    room = LONGEST_NAME - len(f"__{digest}")
    while len(words) > 1 and len("__".join(words)) > room:
        words.pop()
    return f"{'__'.join(words)[:room]}__{digest}"


def _overrides_in_name(config: Config, cfg: DictConfig) -> set[str]:
    """Return the overrides that the run name already shows through its interpolations."""
    run_name = OmegaConf.to_container(cfg, resolve=False)["run_name"]
    env = [f"env={config.env.name}"]
    if config.env.kind == "gym" and config.env.name == task_name(config.env.id):
        env = ["env=gym", f"env.id={config.env.id}", f"env.id={config.env.id}".replace(":", r"\:")]  # of a job: escaped
    parts = {"model.name": [f"model={config.model.name}"], "env.name": env, "seed": [f"seed={config.seed}"]}
    return {override for part, shown in parts.items() if f"${{{part}}}" in run_name for override in shown}


def _begins_name(override: str, run_name: str) -> bool:
    """Return whether an added file sets the run name after itself, as the best.yaml of a study does."""
    key, _, option = override.partition("=")
    return key.startswith("+") and run_name.startswith(f"{key.lstrip('+').removesuffix('@_global_')}-{option}-")


def _matters(override: str) -> bool:
    key = re.split(r"[@=]", override.lstrip("~"), maxsplit=1)[0]
    return not key.startswith("hydra") and is_part_of_name(key)


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
