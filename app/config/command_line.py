"""Command line before Hydra reads it: home folders, names that look like numbers, words that are no ``key=value``."""

import difflib
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hydra._internal.utils import get_args_parser  # private, but the parser that Hydra itself uses

from app.config.home_folder import NAME_KEYS, expand_in_word
from app.config.key_effects import SECRET_KEYS
from app.core.errors import shortened

_PROJECT = "trackmania-droq"
_NO_TEXT = re.compile(  # Hydra would read it as a number or a truth value: 2026_09_30 as 20260930
    r"[+-]?[\d_]*\.?[\d_]*(e[+-]?[\d_]+)?|[+-]?(nan|inf)|true|false", re.IGNORECASE
)
_CONDITIONS_KEY = "where"
_CONDITION = r"""[\w.]+[=:](?:\[[^\[\]'"]*\]|[^,\[\]'"]*)"""  # key and value, which may be a list
_SECRET = re.compile(f"(?:{'|'.join(re.escape(key) for key in SECRET_KEYS)})".replace(r"\.", "[._-]"))
_SECRET_VALUE = re.compile(rf"{_SECRET.pattern}\s*=\s*((\S+).*)", re.DOTALL)  # it may contain spaces, or end at one
_SECRET_NAMES = "|".join(key.rpartition(".")[2] for key in SECRET_KEYS)
_SECRET_ITEMS = (  # of a whole section, network={password: ...}, and of an address
    re.compile(rf"\b(?:{_SECRET_NAMES})['\"]?\s*[:=]\s*(?=(['\"]))\1(.*?)(?:\1|$)", re.DOTALL),
    re.compile(rf"\b(?:{_SECRET_NAMES})['\"]?\s*[:=]\s*()([^'\"\s,}}\]&][^,}}\]&]*)"),
    re.compile(r"://[^/:\s]*:()([^/\s]+)@"),  # postgresql://user:password@host/name
)
_SHORTEST_SECRET = 4  # characters; a shorter one would take parts of other words with it
_PATH_KEYS = ("run", "study")  # a bare path is meant for one of them


def version_line() -> str:
    """Return the version of this project and of the packages that decide what it does."""
    names = (_PROJECT, "hydra-core", "torch", "tmrl", "optuna")
    return ", ".join(f"{name} {_version(name)}" for name in names)


def as_meant(words: Sequence[str]) -> list[str]:
    """Return the command line with home folders expanded, which shells do at the beginning of a word only.

    Names that consist of digits, and conditions such as ``where=[env=sim]``, are quoted, so that Hydra reads them as
    texts. Settings on both sides of an option, which Hydra would refuse, are brought together.
    """
    return [_as_meant(word) for word in _settings_first(words)]


def _as_meant(word: str) -> str:
    key, equals, value = word.partition("=")
    if equals:
        value = expand_in_word(key.lstrip("+"), value)
        word = f"{key}={value}"
    if key.lstrip("+") in NAME_KEYS and value and _NO_TEXT.fullmatch(value):
        return f"{key}='{value}'"
    if key == _CONDITIONS_KEY:
        return f"{key}={_quoted_conditions(value)}"
    return word


def _quoted_conditions(value: str) -> str:
    """Return conditions as a list of quoted texts, because Hydra's grammar has no equals sign in a list."""
    inner = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    if not re.fullmatch(rf"{_CONDITION}(,{_CONDITION})*", inner):
        return value
    return "[" + ",".join(f'"{condition}"' for condition in re.findall(_CONDITION, inner)) + "]"


def hide_secrets(text: str, words: Sequence[str]) -> str:
    """Return a message without the secrets that the command line contains, however they are written there."""
    secrets = set()
    for index, word in enumerate(words):
        if _SECRET.fullmatch(word.strip("+~-=")):
            secrets |= {part.lstrip("=") for part in words[index + 1 : index + 3]}
        if value := _SECRET_VALUE.search(word):
            secrets |= {text.strip("'\"") for text in value.groups()}
        for pattern in _SECRET_ITEMS:
            secrets |= {secret.strip() for _, secret in pattern.findall(word)}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            in_advice = secret.replace("'", "'\"'\"'")  # quoted for a shell
            text = text.replace(secret, "...").replace(in_advice, "...")
    return text


def misspelling(words: Sequence[str], keys: Callable[[], Sequence[str]]) -> str | None:
    """Return a sentence on the first word that is no ``key=value``, with its right spelling.

    Args:
        words: The command line, without the name of the program.
        keys: Returns the keys on the highest level of the command's configuration.

    Returns:
        The sentence; None if Hydra can read every word.
    """
    dashed = [word for word in words if word.startswith("--") and "=" in word]
    if known := [word for word in dashed if word.lstrip("-").partition("=")[0] in keys()]:
        return _without_dashes(known[0], words)  # --run=... would be Hydra's own --run
    arguments, unknown = get_args_parser().parse_known_args(_settings_first(words))
    if unknown:
        return _without_dashes(unknown[0], words)
    for index, word in enumerate(arguments.overrides):
        earlier, following = arguments.overrides[:index], arguments.overrides[index + 1 :]
        if (whole := _with_rest(word, following)) != word:
            return f"{whole}: is cut at its spaces. Write it without them, or in quotes: {_quoted(whole)}"
        is_cut_off = word.endswith("=") and following and "=" not in following[0]  # alone, it sets an empty text
        if "=" not in word or word.startswith("=") or is_cut_off:
            if not word.startswith("~") or word == "~":
                return _as_override(word, earlier, following, keys())
    return None


def _settings_first(words: Sequence[str]) -> list[str]:
    """Return the words in an order that Hydra's parser takes: it refuses settings on both sides of an option."""
    if all(word.startswith("-") for word in get_args_parser().parse_known_args(list(words))[1]):
        return list(words)
    return sorted(words, key=lambda word: not (word.startswith("~") or ("=" in word and not word.startswith("-"))))


def _with_rest(word: str, following: Sequence[str]) -> str:
    """Return a setting with the words after it that belong to its list, which a shell has cut at its spaces."""
    text = word
    for part in following if "=" in word.lstrip("=") else ():
        is_open = text.endswith(",") or any(text.count(left) > text.count(right) for left, right in ("[]", "()", "{}"))
        if "=" in part or not is_open:
            break
        text = f"{text} {part}"
    return text


def _quoted(text: str) -> str:
    return f'"{text}"' if "'" in text else f"'{text}'"


def _without_dashes(option: str, words: Sequence[str]) -> str:
    key, _, value = option.lstrip("-").partition("=")
    following = words[list(words).index(option) + 1 :]
    if not value and following and not following[0].startswith("-") and "=" not in following[0]:
        value = following[0]
    return f"{option}: settings are written without dashes: {key.replace('-', '_')}={value or '...'}"


def _as_override(word: str, earlier: Sequence[str], following: Sequence[str], keys: Sequence[str]) -> str:
    """Return the sentence for a word without a key or without a value."""
    if not word.startswith("=") and following and (word.endswith("=") or following[0].startswith("=")):
        count = 2 if following[0] == "=" else 1
        begin = "".join([word, *following[:count]])
        rest = _with_rest(begin, following[count:]).removeprefix(begin)
        written = f"{' '.join([word, *following[:count]])}{rest}"
        return f"{written}: settings are written without spaces: {begin}{rest.replace(' ', '')}"
    if word in keys or (word == "experiment" and "model" in keys):
        value = following[0] if following and "=" not in following[0] else "..."
        return f"{word}: has no value. Write {word}={value}"
    options = _options(keys)
    if word in options:
        return f"{word}: is written with its group: {' or '.join(options[word])}"
    key = next((key for key in _PATH_KEYS if key in keys), None)
    if key is not None and not any(setting.startswith(f"{key}=") for setting in earlier):
        return f"{word}: is written with its key: {key}={Path(word).name if key == 'study' else word}"
    spellings = {name: f"{name}=..." for name in keys} | {option: forms[0] for option, forms in options.items()}
    close = difflib.get_close_matches(word, spellings, n=1)
    meant = f" Did you mean {spellings[close[0]]}?" if close else ""
    return f"{shortened(word) or repr(word)}: is no setting. Settings are written as key=value, such as seed=1.{meant}"


def _options(keys: Sequence[str]) -> dict[str, list[str]]:
    """Return how each option of the command's groups is written, such as "env=sim", by its name."""
    from app.config.load import ADDED_GROUP, CONF  # imported here, because a correct command line does not need it

    spellings = defaultdict(list)
    for path in sorted(CONF.glob("*/*.yaml")):
        group, option = path.parent.name, path.stem
        if group in keys or (group == "experiment" and "model" in keys):
            spellings[option].append(f"{'+' if group == ADDED_GROUP else ''}{group}={option}")
    return spellings


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"
