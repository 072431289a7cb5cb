"""The error for mistakes of the user, and a one-line summary of any error."""

import traceback
from pathlib import Path


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


def shortened(text: str, length: int = 200) -> str:
    """Return a text, or its beginning and how long it is, if it has more than ``length`` characters."""
    return text if len(text) <= length else f"{text[:length]}... ({len(text):,} characters)"
