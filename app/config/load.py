"""Conversion of the composed YAML into the typed, frozen configuration."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from app.config import rules
from app.config.describe import allowed, allows_truth_values, known_keys, locate, mapping_keys, names, tags
from app.config.home_folder import expand_in_values
from app.config.key_effects import SECRET_KEYS
from app.config.renamed_keys import renaming
from app.config.run_paths import missing_value
from app.config.schema import Config
from app.core.errors import UserError, shortened

ADDED_GROUP = "restart"  # not in the defaults list, so it is chosen with a plus

CONF = Path(__file__).resolve().parents[2] / "conf"

Schema = TypeVar("Schema")
RunSchema = TypeVar("RunSchema", bound=Config)

# Advice for keys where the allowed values do not suggest a good one.
_ADVICE = {
    "agent.gamma": "Use a discount such as 0.99.",
    "encoder.dropout": "Use 0.0; 0.1 is fault 3.",
    "critic.dropout": "Use 0.01, as DroQ does.",
    "device": "Use auto to take the GPU when there is one.",
    "env.name": "Name the task for the run folder, such as env.name=walker.",
    "log_std_min": "Use -20.",
    "restart": "Write it with a plus: +restart=clean or +restart=archive.",
}

_HINT = "Add --cfg job to the command to see every key and its value."


class ConfigError(UserError):
    """An invalid configuration; the text has one line for every problem.

    Args:
        problems: One sentence for each.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        """Keep the problems."""
        super().__init__(problems)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        """Return all problems, and a hint on how to see the whole configuration."""
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        return f"The configuration is not valid:\n{lines}\n{_HINT}"


def load(cfg: DictConfig, schema: type[RunSchema] = Config) -> RunSchema:
    """Resolve, validate and freeze a composed configuration.

    Args:
        cfg: The configuration that Hydra composed from ``conf/`` and the command line.
        schema: Type of the configuration: that of a run, or of a command that adds its own keys to it.

    Returns:
        The typed configuration, which fulfils the rules between keys.

    Raises:
        ConfigError: The configuration is not valid; it names every problem.
    """
    return _checked(validate(cfg, schema), rules.problems)


def load_recorded(cfg: DictConfig) -> Config:
    """Like ``load``, for the configuration that a run recorded, which need not be able to start as it is.

    Raises:
        ConfigError: The configuration is not valid; it names every problem.
    """
    return _checked(validate(cfg, Config), rules.recorded_problems)


def validate(cfg: DictConfig, schema: type[Schema]) -> Schema:
    """Resolve a composed configuration and make it an instance of ``schema``.

    Raises:
        ConfigError: Keys are missing, unknown or out of range; it names all of them.
    """
    try:
        values = expand_in_values(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        raise ConfigError([_sentence(error)]) from None
    if wrong := dict(_truth_values(values, schema)):
        raise ConfigError(_without_copies({key: _refused(key, cfg, allowed(wrong[key])) for key in wrong}, cfg))
    try:
        return TypeAdapter(schema).validate_python(values)
    except ValidationError as error:
        raise ConfigError(_problems(error, cfg, schema)) from None


def _truth_values(value: Any, schema: type, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield key and type of every true or false where a number belongs; pydantic would take it as 1 or 0."""
    if isinstance(value, dict):
        tag = [kind for kind in tags(locate(schema, place)[1]) if kind == value.get("kind")]
        for key, item in value.items():
            yield from _truth_values(item, schema, (*place, *tag, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _truth_values(item, schema, (*place, index))
    elif isinstance(value, bool):
        key, annotation = locate(schema, place)
        if annotation is not None and not allows_truth_values(annotation):
            yield key, annotation


def _checked(config: RunSchema, problems: Callable[[Config], list[str]]) -> RunSchema:
    if found := problems(config):
        raise ConfigError(found)
    return config


def suggest_key(key: str, schema: type) -> str:
    """Return a sentence on the keys that an unknown key may have been meant to be."""
    keys = list(dict.fromkeys(known_keys(schema)))
    section, _, name = key.rpartition(".")
    if key in keys:
        return f"It exists only in another option of {section}."
    if section in mapping_keys(schema):
        return f"A new name in {section} takes a plus: +{key}=..."
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


def unknown_key(key: str, schema: type) -> str:
    """Return the sentence for a key that the schema does not have, or no longer has."""
    return renaming(key) or f"{key}: there is no such key. {suggest_key(key, schema)}"


def invalid_option(group: str, option: str, options: Sequence[str]) -> str:
    """Return the sentence for an option that a configuration group does not have."""
    close = difflib.get_close_matches(option, options, n=1)
    plus = "+" if group == ADDED_GROUP else ""
    meant = f" Did you mean {plus}{group}={close[0]}?" if close else ""
    return f"{group} = {option}: must be one of {', '.join(options)}.{meant}"


def _sentence(error: OmegaConfBaseException) -> str:
    key = getattr(error, "full_key", None)
    if isinstance(error, MissingMandatoryValue) and key:
        return missing_value(key)
    return f"{key}: {str(error).splitlines()[0]}." if key else str(error)


def _problems(error: ValidationError, cfg: DictConfig, schema: type) -> list[str]:
    """Return one sentence per key."""
    found: dict[str, str] = {}
    for item in error.errors(include_url=False):
        key, annotation = locate(schema, item["loc"])
        if item["type"] == "unexpected_keyword_argument":
            found[key] = unknown_key(key, schema)
            continue
        values = allowed(annotation)
        if item["type"].startswith("union_tag"):
            key, values = f"{key}.kind", f"one of {', '.join(tags(annotation))}"
        if item["type"] == "missing" and OmegaConf.select(cfg, key) is None:
            found[key] = f"{key}: has no value. Set it to {values}."
        else:
            advice = _ADVICE.get(key) or _meant(key, _as_yaml(OmegaConf.select(cfg, key)), annotation)
            found[key] = f"{_refused(key, cfg, values)} {advice}".rstrip()
    return _without_copies(found, cfg)


def _refused(key: str, cfg: DictConfig, values: str) -> str:
    value = "..." if key in SECRET_KEYS else shortened(_as_yaml(OmegaConf.select(cfg, key)))
    return f"{key} = {value}: must be {values}."


def _without_copies(found: dict[str, str], cfg: DictConfig) -> list[str]:
    """Return the sentences without those of keys that only repeat a wrong one through an interpolation."""
    return [text for key, text in found.items() if _source(cfg, key) not in found]


def _meant(key: str, value: str, annotation: Any) -> str:
    """Return a question for the name that a misspelt value may have been meant to be; empty if none is close."""
    if key == "study" and "/" in value and (name := Path(value).name).strip("."):  # a folder, as a shell completes it
        return f"Write {key}={name}."
    close = difflib.get_close_matches(value, names(annotation), n=1)
    return f"Did you mean {key}={close[0]}?" if close else ""


def _as_yaml(value: Any) -> str:
    """Return a value as YAML spells it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if OmegaConf.is_list(value):
        return f"[{', '.join(map(_as_yaml, value))}]"
    return str(value)


def _source(cfg: DictConfig, key: str) -> str | None:
    """Return the key that ``key`` copies if its YAML value is just ``${other}``."""
    section, _, name = key.rpartition(".")
    parent = OmegaConf.select(cfg, section) if section else cfg
    if name not in parent or not OmegaConf.is_interpolation(parent, name):
        return None
    return OmegaConf.to_container(parent, resolve=False)[name].removeprefix("${").removesuffix("}")
