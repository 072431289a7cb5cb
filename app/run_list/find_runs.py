"""Search for the run folders below a folder: those of single runs, of studies and of labs."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.config.multirun import TRIALS
from app.core.console import printable
from app.core.errors import UserError
from app.reporting.run_facts import RunFacts, run_facts
from app.runs.manifest import MANIFEST_NAME

_RUN = frozenset({"config.yaml", "metrics.jsonl", "summary.json", "checkpoints", "replay"})
_STUDY = frozenset({TRIALS, "launches", "study.db"})  # which has a config.yaml, too
_LAB = frozenset({"plan.json", "evidence.csv"})
_DEPTH = 4  # levels of folders: <study>/trials/<trial> and <lab>/runs/<run> below the folder of all


@dataclass(frozen=True)
class ListedRun:
    """A row of the list.

    Attributes:
        name: Path of the folder relative to that of the list, with escapes for what no terminal shows.
        path: The folder.
        facts: Facts of the run; None if the folder holds none.
        problem: Why the folder or a file of it cannot be read; None if everything can.
    """

    name: str
    path: Path
    facts: RunFacts | None
    problem: str | None


def find_runs(root: Path) -> list[ListedRun]:
    """Return every run below a folder, and a row with the reason for every folder directly in it that holds none.

    Links are not followed, and nothing inside a run is looked at.

    Raises:
        UserError: There is no such folder, or it is a run itself.
    """
    try:
        names = set(os.listdir(root))
    except OSError as error:
        raise UserError(
            f"runs_dir = {root}: cannot be read ({error.strerror}). Name a folder that holds run folders."
        ) from None
    if _is_run(names):
        raise UserError(f"runs_dir = {root}: is a run itself. Name the folder above it: runs_dir={root.parent}.")
    is_ours = bool(names & (_STUDY | _LAB))  # whose other folders are no mistake
    rows = []
    for path in _folders(root):
        found = list(_runs_below(path, path.name, _DEPTH - 1))
        rows += found if found or is_ours else [ListedRun(printable(path.name), path, None, _without_run(path))]
    return rows


def _runs_below(path: Path, name: str, levels: int) -> Iterator[ListedRun]:
    """Yield the run that a folder is, or those below it; folders that cannot be read hold none."""
    try:
        names = set(os.listdir(path))
    except OSError:
        return
    if _is_run(names):
        yield _listed(name, path)
    elif levels:
        for folder in _folders(path):
            yield from _runs_below(folder, f"{name}/{folder.name}", levels - 1)


def _listed(name: str, path: Path) -> ListedRun:
    try:
        facts = run_facts(path)
    except OSError as error:  # of a folder that may not be entered
        return ListedRun(printable(name), path, None, f"cannot be read ({error.strerror})")
    return ListedRun(printable(name), path, facts, facts.problem)


def _is_run(names: set[str]) -> bool:
    return bool(names & _RUN) and not names & _STUDY


def _folders(path: Path) -> list[Path]:
    """Return the folders in a folder that are no links and not hidden, by name."""
    with os.scandir(path) as entries:
        found = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    return [path / name for name in sorted(found) if not name.startswith(".")]


def _without_run(path: Path) -> str:
    try:
        names = sorted(name for name in os.listdir(path) if not name.startswith("."))
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not names:
        return "is empty"
    if MANIFEST_NAME in names:
        return "has no configuration yet: its run is starting, or could not start"
    return f"holds no run: {printable(names[0])}{' and more' if names[1:] else ''}"
