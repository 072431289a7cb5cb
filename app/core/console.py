"""Console output."""

import sys
from typing import TextIO

from rich.console import Console


def make_console() -> Console:
    """Return a console on standard output where a character that the encoding lacks becomes "?", not an error."""
    if hasattr(sys.stdout, "reconfigure"):  # the replacements in test tools and notebooks cannot
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False)


def make_log_console(file: TextIO) -> Console:
    """Return a console that writes into a log file, in lines of 120 characters."""
    return Console(file=file, width=120, highlight=False)


def printable(text: str) -> str:
    """Return a text from a file or a file name with escapes for what a terminal would obey, or cannot show."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def print_line(console: Console, text: str, style: str = "") -> None:
    """Print one line unchanged: without wrapping at the width of the console, and with brackets as plain text."""
    console.print(text, style=style, markup=False, soft_wrap=True)
