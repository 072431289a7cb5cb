"""``+restart=clean`` and ``+restart=archive`` for a run."""

from pathlib import Path

from rich.console import Console
from rich.filesize import decimal

from app.config.schema import Config, RestartConfig
from app.reporting.formatting import tell
from app.restart.carry_out import archive, remove
from app.restart.plan import Plan, plan_folder
from app.restart.table import table
from app.restart.tmrl_data import tmrl_plan

_ACTIONS = {"delete": remove, "archive": archive}


def show_run(config: Config, console: Console) -> None:
    """Print what a restart of this run would take, with sizes; nothing is changed and no lock is needed."""
    table(console, _plan_run(config), config.restart.mode, dry_run=True)


def clear_run(config: Config, console: Console) -> tuple[str, ...]:
    """Take what ``restart.targets`` names from the folder of this run, whose lock the caller holds.

    Returns:
        The kinds that are cleared now.

    Raises:
        UserError: something cannot be removed, in words.
    """
    targets = config.restart.targets
    carry_out(_plan_run(config), config.restart, console)
    if "checkpoints" in targets and "replay" not in targets:
        tell(console, "without its checkpoint the replay is of no use: the new run writes over it", "yellow")
    return targets


def carry_out(plan: Plan, restart: RestartConfig, console: Console) -> None:
    """Print a plan, do it, and say where the receipt lies."""
    table(console, plan, restart.mode, dry_run=False)
    receipt = _ACTIONS[restart.mode](plan)
    if receipt.path is not None:
        tell(console, f"{decimal(receipt.bytes)} cleared · receipt {receipt.path}", "green")


def with_tmrl(plan: Plan, restart: RestartConfig) -> Plan:
    """Return the plan with what a run of tmrl's own left in ``~/TmrlData``, if that is asked for."""
    if restart.tmrl_run is None:
        return plan
    return plan.joined(tmrl_plan(Path.home() / "TmrlData", restart.tmrl_run, restart.targets))


def _plan_run(config: Config) -> Plan:
    restart, runs = config.restart, Path(config.runs_dir)
    return with_tmrl(plan_folder(runs / config.run_name, runs, restart.targets), restart)
