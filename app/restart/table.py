"""What a restart takes, as a person reads it."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from app.restart.plan import Plan
from app.restart.receipt import text

_WORDS = {"delete": ("removes", "would remove"), "archive": ("moves to the archive", "would move to the archive")}


def table(console: Console, plan: Plan, mode: str, dry_run: bool) -> None:
    """Print kind, path and size of every file of a plan, their sum, and what is left alone.

    Args:
        console: where to.
        plan: what to show.
        mode: "delete" or "archive".
        dry_run: whether nothing is going to change.
    """
    words = _WORDS[mode][dry_run]
    if plan.items:
        files = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False, show_footer=True)
        number = f"{len(plan.items):,} {'file' if len(plan.items) == 1 else 'files'}"
        files.add_column("kind", "total", no_wrap=True)
        files.add_column("path", number, overflow="fold")
        files.add_column("size", decimal(plan.bytes), justify="right", no_wrap=True)
        for item in plan.items:
            files.add_row(item.kind, Text(_short(item.path)), decimal(item.bytes))
        console.print(Text.assemble(("restart ", "bold cyan"), words))
        console.print(files)
    else:
        console.print(Text.assemble(("restart ", "bold cyan"), f"{words} nothing: there is nothing to remove"))
    for refused in plan.refused:
        console.print(Text.assemble(("left alone ", "bold yellow"), f"{_short(refused.path)}: {refused.reason}"))
    if dry_run:
        console.print("dry run: nothing was changed")


def _short(path: Path) -> str:
    """Return the path from the working folder where it is below that."""
    here = Path.cwd()
    return text(path.relative_to(here) if here in path.parents else path)
