"""From the composed YAML to the typed, frozen configuration."""

import difflib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from app.config import checks
from app.config.describe import allowed, known_keys, locate, tags
from app.config.schema import Config
from app.errors import UserError

Schema = TypeVar("Schema")

# Where what is allowed does not tell a person what to choose.
_ADVICE = {
    "agent.gamma": "Use a discount such as 0.99.",
    "encoder.dropout": "Use 0.0; 0.1 is the old fault.",
    "critic.dropout": "Use 0.01, as DroQ does.",
    "device": "Use auto to take the GPU when there is one.",
    "env.name": "Name the task for the run folder, such as env.name=walker.",
    "log_std_min": "Use -20.",
    "restart": "Write it with a plus: +restart=clean or +restart=archive.",
}

_HINT = "Add --cfg job to the command to see every key and its value."


class ConfigError(UserError):
    """The configuration is not valid; the text has one line for every problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        """Keep the problems, one sentence each."""
        super().__init__(problems)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        """Return all problems at once, with the way to look up what is in force."""
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        return f"The configuration is not valid:\n{lines}\n{_HINT}"


def load(cfg: DictConfig) -> Config:
    """Resolve, validate and freeze a composed configuration.

    Args:
        cfg: What Hydra composed from ``conf/`` and the command line.

    Returns:
        The typed configuration, its rules between keys checked.

    Raises:
        ConfigError: With every problem found.
    """
    return _checked(validate(cfg, Config), checks.problems)


def load_kept(cfg: DictConfig) -> Config:
    """The same for what a run has kept of its configuration, which need not be able to start as it is.

    Raises:
        ConfigError: With every problem found.
    """
    return _checked(validate(cfg, Config), checks.kept_problems)


def validate(cfg: DictConfig, schema: type[Schema]) -> Schema:
    """Resolve a composed configuration and make it an instance of ``schema``.

    Raises:
        ConfigError: With every key that is missing, unknown or out of range.
    """
    try:
        values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError([_sentence(error)]) from None
    try:
        return TypeAdapter(schema).validate_python(values)
    except ValidationError as error:
        raise ConfigError(_problems(error, cfg, schema)) from None


def _checked(config: Config, problems: Callable[[Config], list[str]]) -> Config:
    if found := problems(config):
        raise ConfigError(found)
    return config


def suggestion(key: str, schema: type) -> str:
    """Return what a key that nobody knows may have been meant to be."""
    keys = list(dict.fromkeys(known_keys(schema)))
    section, _, name = key.rpartition(".")
    if key in keys:
        return f"Only another option of {section} has it."
    siblings = [known for known in keys if known.rpartition(".")[0] == section]
    names = {known: known.rpartition(".")[2] for known in keys}
    close = (
        _close(key, {known: known for known in siblings})
        or [known for known in keys if names[known] == name]
        or _close(name, names)
    )
    if close:
        return f"Did you mean {' or '.join(close[:3])}?"
    if section and siblings:
        return f"The keys of {section} are {', '.join(names[known] for known in siblings)}."
    return "Remove it, or correct its spelling."


def _close(word: str, names: dict[str, str]) -> list[str]:
    matches = difflib.get_close_matches(word, names.values(), n=2, cutoff=0.75)
    return [key for key, name in names.items() if name in matches]


def unknown(key: str, schema: type) -> str:
    """Return the sentence for a key that the schema does not have."""
    return f"{key}: there is no such key. {suggestion(key, schema)}"


def choose(group: str, option: str, options: Sequence[str]) -> str:
    """Return the sentence for an option that a group does not have."""
    close = difflib.get_close_matches(option, options, n=1)
    meant = f" Did you mean {group}={close[0]}?" if close else ""
    return f"{group} = {option}: must be one of {', '.join(options)}.{meant}"


def _sentence(error: OmegaConfBaseException) -> str:
    key = getattr(error, "full_key", None)
    return f"{key}: {str(error).splitlines()[0]}." if key else str(error)


def _problems(error: ValidationError, cfg: DictConfig, schema: type) -> list[str]:
    """One sentence per key; a key that merely repeats a faulty one through an interpolation is left out."""
    found: dict[str, str] = {}
    for item in error.errors(include_url=False):
        key, annotation = locate(schema, item["loc"])
        if item["type"] == "unexpected_keyword_argument":
            found[key] = unknown(key, schema)
            continue
        words = allowed(annotation)
        if item["type"].startswith("union_tag"):
            key, words = f"{key}.kind", f"one of {', '.join(tags(annotation))}"
        if item["type"] == "missing" and OmegaConf.select(cfg, key) is None:
            found[key] = f"{key}: has no value. Set it to {words}."
        else:
            value = _shown(OmegaConf.select(cfg, key))
            found[key] = f"{key} = {value}: must be {words}. {_ADVICE.get(key, '')}".rstrip()
    return [text for key, text in found.items() if _source(cfg, key) not in found]


def _shown(value: Any) -> str:
    """A value as YAML spells it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _source(cfg: DictConfig, key: str) -> str | None:
    """The key that ``key`` copies, when its YAML value is just ``${other}``."""
    section, _, name = key.rpartition(".")
    parent = OmegaConf.select(cfg, section) if section else cfg
    if name not in parent or not OmegaConf.is_interpolation(parent, name):
        return None
    return OmegaConf.to_container(parent, resolve=False)[name].removeprefix("${").removesuffix("}")
