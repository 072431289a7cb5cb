"""The error for mistakes of the user, and a one-line summary of any error."""

import re
import traceback
from pathlib import Path

_OUT_OF_MEMORY = re.compile(r"out of memory|not enough memory|(can't|cannot|unable to) allocate memory", re.IGNORECASE)


class UserError(Exception):
    """A mistake of the user: its text is printed without a traceback, and the exit code is 1."""


def format_error(error: Exception) -> str:
    """Return the first line of an error's text; with its type, if it is not a UserError."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return next(iter(text.splitlines()), "")


def error_with_place(error: Exception) -> str:
    """Return ``format_error`` with the line of code that raised, as in "KeyError: 'x' (my_tasks.py, line 12)"."""
    *_, frame = traceback.extract_tb(error.__traceback__)
    return f"{format_error(error)} ({Path(frame.filename).name}, line {frame.lineno})"


def out_of_memory(subject: Path, error: Exception) -> UserError | None:
    """Return what to raise in place of an error that says that memory ran out; None for any other error.

    Args:
        subject: What was being read.
        error: The error, such as a MemoryError, or the RuntimeError of torch.
    """
    if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
        return None
    return UserError(
        f"{subject}: memory ran out while it was read ({format_error(error)}). It is unchanged. End other programs, or "
        "choose another device; the same command continues then."
    )


def shortened(text: str, length: int = 200) -> str:
    """Return a text, or its beginning and how long it is, if it has more than ``length`` characters."""
    return text if len(text) <= length else f"{text[:length]}... ({len(text):,} characters)"
