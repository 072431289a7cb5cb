"""Home folders: ``~`` at the beginning of a value, as a shell would expand it."""

import os
import re
from typing import Any

NAME_KEYS = ("run_name", "study", "network.password", "hydra.sweeper.study_name", "lab.name")  # always a text, no path
_HOME = re.compile(r"""(?:^|(?<=[,\['"]))~(?=[/,\]'"]|$)""")  # at the beginning of a path, or of one in a list


def expand_in_word(key: str, value: str) -> str:
    """Return the value of a setting of the command line with home folders expanded, those in a list included.

    Args:
        key: Key of the setting.
        value: The text behind its equals sign.
    """
    return value if key in NAME_KEYS else _HOME.sub(lambda _: os.path.expanduser("~"), value)


def expand_in_values(value: Any, key: str = "") -> Any:
    """Return composed settings with home folders expanded, as those of the command line are already.

    Args:
        value: Settings as nested dicts and lists, or one of their values.
        key: Key of the value, with dots; empty for all settings.
    """
    if isinstance(value, dict):
        return {name: expand_in_values(item, f"{key}.{name}" if key else str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [expand_in_values(item, key) for item in value]
    is_path = isinstance(value, str) and key not in NAME_KEYS and (value == "~" or value.startswith("~/"))
    return os.path.expanduser(value) if is_path else value
