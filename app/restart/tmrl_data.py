"""What a run left in tmrl's own folder, ``~/TmrlData``."""

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from app.errors import UserError
from app.restart.beneath import check_folder
from app.restart.plan import Plan, Refused, sort_files

# What tmrl appends to the name of a run: "_t" (the trainer's own), the time of an older policy or nothing; an ending.
_OWN = re.compile(r"(_t|(_\d\d){2}_\d{4}(_\d\d){3})?(\..*)?", re.DOTALL)


def tmrl_plan(tmrl_data: Path, run: str, kinds: Collection[str]) -> Plan:
    """Plan for ``dataset/*.pkl`` and the files of one run in ``checkpoints/`` and ``weights/``.

    Nothing else there is looked at: not ``reward/``, not ``config/``, no maps. A name such as ``car_v2.tmod`` is not
    taken for the run ``car``, because a run ``car_v2`` may own it: it is refused.

    Args:
        tmrl_data: the folder; where there is none, there is nothing to take.
        run: name of the run as tmrl knows it.
        kinds: what to take; a study is never there.

    Raises:
        UserError: the name of the run is empty.
    """
    if not run:
        raise UserError("restart.tmrl_run = '': names no run. Give RUN_NAME of TmrlData/config/config.json, or null.")
    base = Path(os.path.abspath(tmrl_data))
    paths: dict[Path, str] = {}
    refused: list[Refused] = []
    for kind, folder in (("replay", "dataset"), ("checkpoints", "checkpoints"), ("weights", "weights")):
        if kind not in kinds:
            continue
        try:
            names = list(_names(base, base / folder))
        except OSError as error:
            refused.append(Refused(base / folder, error.strerror or str(error)))
            continue
        for name in names:
            path = base / folder / name
            if name.endswith(".pkl") if kind == "replay" else _belongs(name, run):
                paths[path] = kind
            elif kind != "replay" and name.startswith(f"{run}_"):
                refused.append(Refused(path, "it may be of another run: name that in restart.tmrl_run"))
    items, obstacles = sort_files(paths, base, base, listed=False)
    return Plan(base, base, tuple(kinds), items, (*refused, *obstacles))


def _names(base: Path, folder: Path) -> Iterator[str]:
    if base.is_dir() and check_folder(base, folder):
        yield from sorted(os.listdir(folder))


def _belongs(name: str, run: str) -> bool:
    return name.startswith(run) and _OWN.fullmatch(name, len(run)) is not None
