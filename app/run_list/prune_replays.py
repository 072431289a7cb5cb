"""Pruning: the replays of finished runs, listed with what they occupy, and removed through the restart protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from app.core.console import print_line
from app.core.errors import UserError
from app.core.system import file_bytes
from app.reporting.run_facts import FINISHED
from app.run_list.find_runs import ListedRun
from app.runs.lock import Lock
from app.runs.restart.apply import remove
from app.runs.restart.plan import Plan, plan_folder
from app.runs.run_folder import RunFolder

_KIND = "replay"


@dataclass(frozen=True)
class PrunableRun:
    """A finished run whose replay can be removed.

    Attributes:
        run: The run.
        plan: The files of its replay.
        bytes: Bytes that they occupy on the disk.
        stamp: Times of its records when they were read; other ones mean that it was trained further.
    """

    run: ListedRun
    plan: Plan
    bytes: int
    stamp: tuple[int, ...]


def prune(root: Path, runs: Sequence[ListedRun], dry_run: bool, console: Console) -> int:
    """List the replays of the finished runs, and remove them unless this is a dry run.

    Args:
        root: Folder above all of the runs.
        runs: The runs to choose from; those that have not finished are left alone.
        dry_run: Whether nothing is removed.
        console: Console to print on.

    Returns:
        The bytes that were freed.
    """
    found = _prunable(root, runs, console)
    if not found:
        print_line(console, "Nothing to free: no finished run among these has a replay.")
        return 0
    console.print(_table(found))
    print_line(
        console,
        "Without its replay a finished run keeps its records, weights and checkpoints. To train one further later, add "
        "'+restart=clean restart.targets=[replay]': it continues with an empty replay.",
    )
    if dry_run:
        print_line(console, "dry run: nothing was removed; dry_run=false removes these", "yellow")
        return 0
    freed = sum(_remove(one, root, console) for one in found)
    print_line(console, f"{decimal(freed)} freed", "green")
    return freed


def _prunable(root: Path, runs: Sequence[ListedRun], console: Console) -> list[PrunableRun]:
    found = []
    for run in runs:
        if run.facts is None or run.facts.state != FINISHED:
            continue
        try:
            plan = plan_folder(run.path, root, (_KIND,))
        except UserError as error:  # a damaged manifest, or a link
            print_line(console, f"left alone  {run.name}: {error}", "yellow")
            continue
        for reason in dict.fromkeys(skipped.reason for skipped in plan.skipped):  # several files may share one
            print_line(console, f"left alone  {run.name}: {reason}", "yellow")
        if plan.items:
            found.append(PrunableRun(run, plan, sum(file_bytes(item.path) for item in plan.items), _stamp(run.path)))
    return sorted(found, key=lambda one: -one.bytes)


def _remove(one: PrunableRun, root: Path, console: Console) -> int:
    """Remove the replay of a run that is still as it was listed; return the bytes that were freed."""
    try:
        with Lock(one.run.path, "run"):
            if _stamp(one.run.path) != one.stamp:
                raise UserError(f"{one.run.path}: has been trained since it was listed, and keeps its replay.")
            receipt = remove(plan_folder(one.run.path, root, (_KIND,)))
    except UserError as error:  # one run in use must not keep the others from being pruned
        print_line(console, f"left alone  {one.run.name}: {error}", "yellow")
        return 0
    print_line(console, f"removed  {one.run.name}: {decimal(one.bytes)} · receipt {receipt.path}")
    return one.bytes


def _stamp(path: Path) -> tuple[int, ...]:
    folder = RunFolder(path)
    records = (folder.metrics, folder.summary, folder.starts)
    return tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in records)


def _table(found: Sequence[PrunableRun]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False, show_footer=True)
    table.add_column("replay of", f"{len(found):,} finished {'run' if len(found) == 1 else 'runs'}", overflow="fold")
    table.add_column("files", f"{sum(len(one.plan.items) for one in found):,}", justify="right", no_wrap=True)
    table.add_column("size", decimal(sum(one.bytes for one in found)), justify="right", no_wrap=True)
    for one in found:
        table.add_row(Text(one.run.name), f"{len(one.plan.items):,}", decimal(one.bytes))
    return table
