"""Types of values with bounds, shared by the sections of the configuration."""

from typing import Annotated

from pydantic import ConfigDict, Field

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
