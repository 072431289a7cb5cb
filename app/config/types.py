"""Types of values with bounds, shared by the sections of the configuration."""

import math
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field

FROZEN = ConfigDict(extra="forbid", allow_inf_nan=False)

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
AtLeastOne = Annotated[float, Field(ge=1)]
Dropout = BelowOne
Beta = BelowOne
Port = Annotated[int, Field(ge=1, le=65535)]
Host = Annotated[str, Field(min_length=1, max_length=253)]
LONGEST_NAME = 100
Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=LONGEST_NAME,
        description=f"at most {LONGEST_NAME} letters, digits, dots, dashes and underscores",
    ),
]
StudyName = Annotated[  # also that of a config group
    str,
    Field(
        pattern=r"^[A-Za-z][A-Za-z0-9_-]*$",
        max_length=LONGEST_NAME,
        description=f"at most {LONGEST_NAME} letters, digits, dashes and underscores, a letter first",
    ),
]

Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")]


_DEEPEST = 10  # levels of lists and mappings in an argument


def _require_plain(value: Any, depth: int = 0) -> Any:
    """Return a value that consists of finite numbers, texts, truth values and null, in lists and mappings.

    Raises:
        ValueError: It holds something else.
    """
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a name is no text")
        for item in value.values():
            _require_plain(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _require_plain(item, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number is not finite")
    elif not (value is None or isinstance(value, (str, int, float))):
        raise ValueError(f"a value is of the type {type(value).__name__}")
    return value


Arguments = Annotated[
    dict[Any, Any],
    Field(
        min_length=1,
        description="a mapping of names to finite numbers, texts, true, false, null, and lists and mappings of them",
    ),
    AfterValidator(_require_plain),
]
