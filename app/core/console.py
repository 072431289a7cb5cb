"""Console output, and the format of numbers in it."""

import math
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


def print_line(console: Console, text: str, style: str = "") -> None:
    """Print one line unchanged: without wrapping at the width of the console, and with brackets as plain text."""
    console.print(text, style=style, markup=False, soft_wrap=True)


def format_duration(seconds: float) -> str:
    """Return seconds as "m:ss" or "h:mm:ss"; "-" if they are not finite."""
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def format_number(value: float) -> str:
    """Return a number with about three significant digits and separated thousands; "-" if it is not finite."""
    if not math.isfinite(value):
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 1 or value == 0 else 3
    return f"{value:.{digits}f}"
