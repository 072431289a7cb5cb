"""Sentences for command lines that Hydra refuses: its own texts quote every word of them, and advise little."""

import pkgutil
import re
import shlex
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hydra._internal.utils import get_args_parser  # private, but the parser that Hydra itself uses
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import CompactHydraException, HydraException, MissingConfigException, OverrideParseException

from app.config.key_effects import SECRET_KEYS
from app.config.launchers import missing_plugin
from app.core.errors import shortened

_KEY = re.compile(r"([+~]{0,2})([A-Za-z_][\w./-]*)(@[\w./:-]*)?=(.*)", re.DOTALL)
_FULL_ERROR = "HYDRA_FULL_ERROR=1 in the environment shows the whole error."


def explain(error: CompactHydraException, schema: str, words: Sequence[str]) -> str:
    """Return the message for an error of Hydra's.

    Args:
        error: The error.
        schema: Dataclass of the command's configuration, such as "app.config.schema:Config".
        words: The command line, without the name of the program.
    """
    from app.config.load import ADDED_GROUP, ConfigError, invalid_option, unknown_key

    text = str(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        if message := missing_plugin(error.missing_cfg_file):
            return message
        if error.options:
            group, _, option = error.missing_cfg_file.rpartition("/")
            return str(ConfigError([invalid_option(group, shortened(option), error.options)]))
    for problem, mark in (("Parent traversal", ".."), ("Backslash", "\\")):
        if problem in text and (found := list(_wrong_options(words, lambda value, mark=mark: mark in str(value)))):
            return str(ConfigError(found))
    if overridden := re.match(r"Could not override '([^']+)'", text):
        key, _, package = overridden[1].partition("@")
        full_key = str(getattr(error.__cause__, "full_key", key))
        key = full_key if full_key.startswith(f"{key}.") else key  # network.ports of network={ports:3}
        if key == ADDED_GROUP:
            return str(ConfigError([f"{key}: is added with a plus. Write +{key}=clean or +{key}=archive."]))
        if key.startswith(f"{ADDED_GROUP}.") and not any(word.startswith(f"+{ADDED_GROUP}=") for word in words):
            return str(ConfigError([f"{key}: belongs to a restart. Write +{ADDED_GROUP}=clean, too."]))
        if key.startswith("hydra.sweeper."):
            return str(ConfigError([f"{key}: belongs to a search. Write -m hydra/sweeper=optuna, too."]))
        if package:
            return str(ConfigError([_without_package(key)]))
        # Hydra would advise to append the key with a plus, which the schema would refuse, too.
        return str(ConfigError([unknown_key(key, pkgutil.resolve_name(schema))]))
    if removed := re.match(r"Could not delete (?:from config\. )?(?:The value of )?'([^']*)'", text):
        return str(ConfigError([_removed(removed[1], schema)]))
    if grouped := re.search(r"but config group '([^']*)' does not exist", text):
        return str(ConfigError([_without_package(grouped[1])]))
    if merged := re.match(r"Error merging override (.*)", text, re.DOTALL):
        return str(ConfigError([_misfit(merged[1], schema)]))
    cause = f"\n{error.__cause__}" if error.__cause__ is not None else ""
    return f"{text}{cause}"


def explain_crash(error: Exception, words: Sequence[str]) -> str | None:
    """Return the message for another error of Hydra's while it composes; None if the error comes from a job.

    Args:
        error: The error.
        words: The command line, without the name of the program.
    """
    from app.config.load import ConfigError

    frames = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)]
    is_job = "hydra.core.utils" in frames or not any(name.startswith("hydra.") for name in frames)
    if is_job or not frames[-1].startswith(("hydra.", "omegaconf.", "antlr4.")):
        return None
    overrides = get_args_parser().parse_intermixed_args(list(words)).overrides
    if unreadable := [word for word in overrides if not _can_be_read(word)]:
        return _unreadable(unreadable[0])
    if found := list(_wrong_options(overrides, lambda value: not isinstance(value, (str, dict)))):
        return str(ConfigError(found))
    settings = ", ".join(map(shortened, overrides))
    return f"{settings}: cannot be read ({type(error).__name__}: {shortened(str(error))}). Leave one out. {_FULL_ERROR}"


def _unreadable(word: str) -> str:
    """Return the sentence for a word that Hydra's grammar cannot read."""
    parts = _KEY.fullmatch(word)
    if parts is None:
        return f"{shortened(word)}: is no setting. Settings are written as key=value, such as seed=1."
    begin, value = word[: len(word) - len(parts[4]) - 1], parts[4]
    if parts[2] in SECRET_KEYS:
        value = "..."
    if any(mark in value for mark in "'\"[]{}()"):
        advice = "Quotes and brackets come in pairs; a text with some of them takes quotes within quotes"
    elif "=" in value:
        advice = "A value with an equals sign takes quotes within quotes"
    else:
        advice = "A value with special characters or letters beyond ASCII takes quotes within quotes"
    quoted = QuotedString(shortened(value), Quote.double).with_quotes()
    return f"{begin}={shortened(value)}: cannot be read. {advice}: {shlex.quote(f'{begin}={quoted}')}"


def _can_be_read(word: str) -> bool:
    try:
        OverridesParser.create().parse_override(word).value()
    except (HydraException, ValueError, RecursionError):
        return False
    return True


def _wrong_options(words: Sequence[str], is_wrong: Callable[[Any], bool]) -> Iterator[str]:
    """Yield a sentence for every word that gives a group of ``conf/`` something else than one of its options."""
    from app.config.load import CONF, invalid_option

    for word in words:
        parts = _KEY.fullmatch(word)
        if parts is None or not (CONF / parts[2]).is_dir() or not _can_be_read(word):
            continue
        if is_wrong(OverridesParser.create().parse_override(word).value()):
            if options := sorted(path.stem for path in (CONF / parts[2]).glob("*.yaml")):  # none of "hydra"
                yield invalid_option(parts[2], shortened(parts[4]), options)


def _without_package(key: str) -> str:
    return f"{key}@...: a setting of this program has no package. Leave out the @ and what follows it: {key}=..."


def _removed(word: str, schema: str) -> str:
    """Return the sentence for a removal of something that is not there."""
    from app.config.describe import known_keys
    from app.config.load import unknown_key

    key, keys = word.partition("=")[0], pkgutil.resolve_name(schema)
    if key not in known_keys(keys):
        return unknown_key(key, keys)
    return f"~{word}: there is no such setting or option to remove now. Leave it out."


def _misfit(word: str, schema: str) -> str:
    """Return the sentence for a value that cannot take the place of the one that is there."""
    from app.config.describe import allowed, locate

    key, _, value = word.lstrip("+").partition("=")
    found, annotation = locate(pkgutil.resolve_name(schema), key.split("."))
    value = "..." if key in SECRET_KEYS else shortened(value)
    if annotation is None:
        return f"{key} = {value}: does not fit the settings that are there. Leave it out."
    return (
        f"{key} = {value}: must be {allowed(annotation)}."
        if found == key
        else (f"{key} = {value}: {found} must be {allowed(annotation)}.")
    )
