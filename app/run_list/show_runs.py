"""The command ``app/list_runs.py``: the table of runs, the comparison of some, or pruning."""

from pathlib import Path

from app.config.schema_commands import ListRunsConfig
from app.core.console import make_console, print_line
from app.core.errors import UserError
from app.run_list.find_runs import find_runs
from app.run_list.list_table import print_runs, sort_runs
from app.run_list.prune_replays import prune
from app.run_list.run_filter import filter_runs


def show_runs(cfg: ListRunsConfig) -> None:
    """List, compare or prune the runs that meet every condition.

    Raises:
        UserError: The folder, a condition or a name does not fit.
    """
    if cfg.compare and cfg.prune:
        raise UserError("compare and prune exclude each other. Leave one of them out.")
    root, console = Path(cfg.runs_dir), make_console()
    everything = find_runs(root)
    runs = filter_runs(everything, cfg.where)
    if cfg.compare:
        # Imported here: the table needs no plotly.
        from app.run_list.compare_runs import write_comparison

        page = root / "compare.html" if cfg.page is None else Path(cfg.page)
        write_comparison(page, runs, cfg.compare, cfg.x, console)
    elif cfg.prune:
        prune(root, runs, cfg.dry_run, console)
    elif runs:
        print_runs(console, sort_runs(runs, cfg.sort, cfg.reverse))
    else:
        beside = f" None of the {len(everything):,} folders meets every condition." if everything else ""
        print_line(console, f"There is no run below {root}.{beside}")
