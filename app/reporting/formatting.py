"""The console, and numbers as a person reads them."""

import math
import sys

from rich.console import Console


def make_console() -> Console:
    """Return a console on standard output where a sign that the encoding lacks becomes "?", not an error."""
    if hasattr(sys.stdout, "reconfigure"):  # not so for the stand-ins that test tools and notebooks use
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False)


def tell(console: Console, text: str, style: str = "") -> None:
    """Print one line as it is: it may be longer than the console, and brackets in it are no markup."""
    console.print(text, style=style, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Return seconds as "m:ss" or "h:mm:ss", and "-" for what is not known."""
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def number(value: float) -> str:
    """Return a number with about three significant digits, and thousands separated."""
    if not math.isfinite(value):
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 1 or value == 0 else 3
    return f"{value:.{digits}f}"
