"""JSON of files, as data that every part of this program can handle."""

import json
from pathlib import Path
from typing import Any

_LONGEST_INTEGER = 300  # digits: a longer one is no float


def read_json(path: Path) -> Any:
    """Return the content of a file of JSON.

    Raises:
        OSError: The file cannot be read.
        ValueError: As for ``parse_json``; or it is no text.
    """
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str) -> Any:
    """Return the value that a text of JSON stands for.

    Raises:
        ValueError: It is no JSON, is nested too deeply, or has a number that no float can be, or half a character.
    """
    try:
        value = json.loads(text, parse_int=_integer)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _integer(text: str) -> int:
    if len(text) > _LONGEST_INTEGER:
        raise ValueError(f"a number has {len(text):,} digits")
    return int(text)
