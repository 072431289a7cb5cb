"""``+restart=clean`` and ``+restart=archive`` for a run: printing the plan, executing it."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from app.config.schema import RestartConfig
from app.core.console import print_line
from app.runs.restart.apply import archive, printable, remove
from app.runs.restart.plan import Plan, plan_folder
from app.runs.restart.tmrl_data import plan_tmrl_data

_VERBS = {"delete": ("removes", "would remove"), "archive": ("moves to the archive", "would move to the archive")}
_ACTIONS = {"delete": remove, "archive": archive}


def preview_restart(path: Path, restart: RestartConfig, console: Console) -> None:
    """Print what a restart of a run would take, with sizes; nothing is changed, and no lock is needed.

    Args:
        path: Folder of the run, directly below ``runs_dir``.
        restart: The restart that is asked for.
        console: Console to print on.
    """
    print_plan(console, _plan_run(path, restart), restart.mode, dry_run=True)


def clear_run(path: Path, restart: RestartConfig, console: Console) -> tuple[str, ...]:
    """Remove or archive what ``restart.targets`` names from the folder of a run, whose lock the caller holds.

    Args:
        path: Folder of the run, directly below ``runs_dir``.
        restart: The restart that is asked for.
        console: Console to print on.

    Returns:
        The kinds of files that are cleared now.

    Raises:
        UserError: A file cannot be removed.
    """
    execute_plan(_plan_run(path, restart), restart, console)
    if "checkpoints" in restart.targets and "replay" not in restart.targets:
        print_line(console, "without its checkpoint the replay is of no use: the new run overwrites it", "yellow")
    return restart.targets


def execute_plan(plan: Plan, restart: RestartConfig, console: Console) -> None:
    """Print a plan, execute it, and print where the receipt is.

    Raises:
        UserError: A file cannot be removed.
    """
    print_plan(console, plan, restart.mode, dry_run=False)
    receipt = _ACTIONS[restart.mode](plan)
    if receipt.path is not None:
        done = "removed" if receipt.moved_to is None else f"moved to {_short(receipt.moved_to)}"
        print_line(console, f"{decimal(receipt.bytes)} {done} · receipt {_short(receipt.path)}", "green")


def with_tmrl_data(plan: Plan, restart: RestartConfig) -> Plan:
    """Return a plan that also takes the files of a run of tmrl's own, if ``restart.tmrl_run`` names one."""
    if restart.tmrl_run is None:
        return plan
    return plan.joined(plan_tmrl_data(Path.home() / "TmrlData", restart.tmrl_run, restart.targets))


def print_plan(console: Console, plan: Plan, mode: str, dry_run: bool) -> None:
    """Print kind, path and size of every file of a plan, the total, and the paths that are left alone.

    Args:
        console: Console to print on.
        plan: The plan.
        mode: "delete" or "archive".
        dry_run: Whether nothing is going to be changed.
    """
    verb = _VERBS[mode][dry_run]
    if plan.items:
        console.print(Text.assemble(("restart ", "bold cyan"), verb))
        console.print(_table(plan))
    else:
        console.print(Text.assemble(("restart ", "bold cyan"), f"{verb} nothing: there is nothing to remove"))
    for skipped in plan.skipped:
        console.print(Text.assemble(("left alone ", "bold yellow"), f"{_short(skipped.path)}: {skipped.reason}"))
    if dry_run:
        console.print("dry run: nothing was changed")


def _table(plan: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False, show_footer=True)
    table.add_column("kind", "total", no_wrap=True)
    table.add_column("path", f"{len(plan.items):,} {'file' if len(plan.items) == 1 else 'files'}", overflow="fold")
    table.add_column("size", decimal(plan.bytes), justify="right", no_wrap=True)
    for item in plan.items:
        table.add_row(item.kind, Text(_short(item.path)), decimal(item.bytes))
    return table


def _short(path: Path) -> str:
    """Return a path relative to the working folder if it is below that."""
    here = Path.cwd()
    return printable(path.relative_to(here) if here in path.parents else path)


def _plan_run(path: Path, restart: RestartConfig) -> Plan:
    return with_tmrl_data(plan_folder(path, path.parent, restart.targets), restart)
