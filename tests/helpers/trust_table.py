"""Table of what ``make test-trust`` tried, how often, and what was lost."""

import json
import os
from pathlib import Path
from typing import NamedTuple

FILE = "TRUST_TABLE"  # environment variable: file that the lines are appended to


class Row(NamedTuple):
    """One search."""

    what: str
    tried: int
    lost: int
    seconds: float


def record(what: str, tried: int, lost: int, seconds: float) -> None:
    """Append a search to the table, if ``TRUST_TABLE`` names a file; several processes may do so at once.

    Args:
        what: What was tried, in a few words, such as "a local run is killed".
        tried: Number of cases.
        lost: Number of cases in which something was lost; record it before the assertion that it is 0.
        seconds: Wall time of the search.
    """
    if path := os.environ.get(FILE):
        line = json.dumps(Row(what, tried, lost, round(seconds, 1))._asdict(), ensure_ascii=False)
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def read_rows(path: Path) -> list[Row]:
    """Return the searches in a file, in the order of their texts; none if there is no file."""
    if not path.is_file():
        return []
    return sorted(Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines())


def as_lines(rows: list[Row]) -> list[str]:
    """Return the table as lines of Markdown, which can be read on a terminal, too."""
    width = max(len(row.what) for row in rows)
    head = f"| {'what was tried':<{width}} | how often |  lost | seconds |"
    body = (f"| {row.what:<{width}} | {row.tried:>9,} | {row.lost:>5,} | {row.seconds:>7,.1f} |" for row in rows)
    return [head, f"|{'-' * (width + 2)}|----------:|------:|--------:|", *body]
