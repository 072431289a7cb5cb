"""A validation from its configuration to its report."""

from pathlib import Path

from rich.console import Console

from app.config.commands import ValidateConfig
from app.errors import UserError
from app.machine import usable_cores
from app.reporting.formatting import make_console, number, tell
from app.runs.lock import Lock
from app.sweep.find import find_study
from app.training.setup import choose_device
from app.validation.candidates import choose
from app.validation.processes import run_each
from app.validation.report import Report, make_report, write_report
from app.validation.runs import TO_BE_DONE, Result, Run, plan, read_result, retrain
from app.validation.tables import print_report


def validate_study(cfg: ValidateConfig) -> None:
    """Train the default and the best trials of a study on new seeds, compare them, and leave the report.

    Runs that have ended are not trained again; others go on from where they were.

    Raises:
        UserError: something the user can mend, in words.
        KeyboardInterrupt: interrupted; the report has what was done.
    """
    if len(set(cfg.seeds)) < len(cfg.seeds):
        raise UserError(f"seeds = {list(cfg.seeds)}: must not name a seed twice. Remove the repeated ones.")
    console = make_console()
    choose_device(cfg.device)  # each run would refuse it
    folder, study = find_study(Path(cfg.sweeps_dir), cfg.study, cfg.storage)
    candidates, notes = choose(folder, study, cfg)
    place = folder.path / "validation"
    threads = max(1, usable_cores() // cfg.jobs)
    with Lock(place, "validation"):
        results = {run: read_result(run) for run in plan(candidates, cfg.seeds, place, cfg.device, threads)}
        try:
            _finish(results, cfg.jobs, console)
        finally:
            report = make_report(cfg, candidates, list(results.values()), notes)
            _show(report, place, console)
    if not report.comparisons:
        raise UserError(f"study = {cfg.study}: no run has reached anything to compare; the reasons are above.")


def _finish(results: dict[Run, Result], jobs: int, console: Console) -> None:
    """Train what has not ended, and put down what has come of it."""
    waiting = [run for run, result in results.items() if result.end == TO_BE_DONE]
    tell(console, f"{len(results)} runs, of which {len(results) - len(waiting)} have ended before", "green")

    def begins(run: Run) -> None:
        tell(console, f"{run.name} begins · {run.log}")

    def ended(run: Run, trouble: str) -> None:
        result = results[run] = read_result(run, trouble)
        score = f" · objective {number(result.measures['objective'])}" if "objective" in result.measures else ""
        tell(console, f"{run.name}: {result.end}{score}", "red" if result.remark else "green")

    try:
        run_each(retrain, waiting, jobs, begins, ended)
    except KeyboardInterrupt:
        tell(console, "interrupted: the running ones have saved", "yellow")
        raise


def _show(report: Report, place: Path, console: Console) -> None:
    print_report(report, console)
    for path in write_report(report, place):
        tell(console, f"result  {path}", "cyan")
    if report.to_be_done:
        tell(console, f"runs to be done: {report.to_be_done}. The same command goes on with them", "yellow")
