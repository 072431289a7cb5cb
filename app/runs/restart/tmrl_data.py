"""Restart plan for the files of a run in tmrl's own folder, ``~/TmrlData``."""

import contextlib
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from app.core.errors import UserError
from app.runs.restart.plan import Plan, SkippedPath, sort_files
from app.runs.restart.safe_fs import folder_exists

# What tmrl appends to the name of a run: "_t" (of its trainer), the time of an older policy, or nothing; and a suffix.
_SUFFIX = re.compile(r"(_t|(_\d\d){2}_\d{4}(_\d\d){3})?(\..*)?", re.DOTALL)


def plan_tmrl_data(tmrl_data: Path, run: str, kinds: Collection[str]) -> Plan:
    """Return the plan for ``dataset/*.pkl`` and the files of one run in ``checkpoints/`` and ``weights/``.

    Everything else is ignored: ``reward/``, ``config/`` and maps. ``car_v2.tmod`` is not taken for the run ``car``,
    because a run ``car_v2`` may own it: it is left alone.

    Args:
        tmrl_data: The folder; if it does not exist, there is nothing to take.
        run: Name of the run in tmrl's configuration.
        kinds: Kinds of files to take; no file there is of the kind "study".

    Raises:
        UserError: The name of the run is empty.
    """
    if not run:
        raise UserError("restart.tmrl_run = '': names no run. Give RUN_NAME of TmrlData/config/config.json, or null.")
    base = Path(os.path.abspath(tmrl_data))
    paths: dict[Path, str] = {}
    skipped: list[SkippedPath] = []
    for kind, folder in (("replay", "dataset"), ("checkpoints", "checkpoints"), ("weights", "weights")):
        if kind not in kinds:
            continue
        try:
            names = list(_names(base, base / folder))
        except OSError as error:
            skipped.append(SkippedPath(base / folder, error.strerror or str(error)))
            continue
        for name in names:
            path = base / folder / name
            if name.endswith(".pkl") if kind == "replay" else _belongs(name, run):
                paths[path] = kind
            elif kind != "replay" and name.startswith(f"{run}_"):
                skipped.append(SkippedPath(path, "it may belong to another run: name that one in restart.tmrl_run"))
    if not any(_belongs(name, run) for folder in ("checkpoints", "weights") for name in _names_or_none(base, folder)):
        skipped.append(SkippedPath(base, f"holds no checkpoint and no weights of a run {run} (restart.tmrl_run)"))
    items, unsafe = sort_files(paths, base, base, listed=False)
    return Plan(base, base, tuple(kinds), items, (*skipped, *unsafe))


def _names(base: Path, folder: Path) -> Iterator[str]:
    if base.is_dir() and folder_exists(base, folder):
        yield from sorted(os.listdir(folder))


def _names_or_none(base: Path, folder: str) -> Iterator[str]:
    """Yield what a folder holds; nothing if it cannot be read."""
    with contextlib.suppress(OSError):
        yield from _names(base, base / folder)


def _belongs(name: str, run: str) -> bool:
    return name.startswith(run) and _SUFFIX.fullmatch(name, len(run)) is not None
