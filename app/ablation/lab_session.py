"""One command of a lab: from its settings over the runs that are not done to evidence and report."""

import contextlib
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from rich.console import Console

from app.ablation.evidence_table import write_evidence
from app.ablation.lab_job import process_name
from app.ablation.lab_plan import ArmComposer, LabPlan, PlannedRun, make_plan, require_same_settings
from app.ablation.lab_runs import LabFolder, has_ended
from app.ablation.lab_tables import print_cost, print_progress, print_runs
from app.ablation.recorded_runs import RecordedRun, find_recorded, remove_restored, restore, write_arms
from app.config.faults import FAULTS
from app.config.load import CONF, load
from app.config.multirun import runs_here, without_hydra
from app.config.schema_lab import LabConfig
from app.core.console import make_console, print_line
from app.core.errors import UserError, format_error
from app.runs.lock import Lock
from app.training.setup import resolve_device

# Keys that the lab sets for every run, and what to use instead.
_OWN_KEYS = {
    "seed": "Choose seeds with seeds=[0,1].",
    "run_name": "Its runs are named after arm and seed; choose the name of the lab with lab.name.",
    "runs_dir": "Its runs lie below labs_dir/lab.name; choose another place with labs_dir.",
    "role": "Each trains in one process; hydra/launcher=joblib runs several at once.",
    "health.on_collapse": "A collapsed run goes on, so that all arms are judged over the same epochs.",
    "restart": "A lab continues its runs; to start anew, choose another lab.name, or remove the folders of the runs.",
}
# Keys that the experiments of the arms set. The command line wins over an experiment, so it would undo an arm.
_ARM_KEYS = {"experiment"} | {
    key
    for fault in FAULTS
    if fault.switch and fault.switch.experiment
    for keys in fault.switch.keys.items()
    for key in keys
}


def run_lab(context: dict[str, Any], arguments: Sequence[str]) -> None:
    """Train the chosen runs of a lab that are not done, and write evidence and report.

    Args:
        context: Arguments of Hydra's launchers: "hydra_context", "task_function" and "config".
        arguments: Overrides of the command line.

    Raises:
        UserError: The lab cannot start, or runs have failed; the message says what to do.
        KeyboardInterrupt: Ctrl-C; the runs are saved and the evidence is written.
        SystemExit: The process was terminated; the runs are saved and the evidence is written.
    """
    cfg, console = context["config"], make_console()
    _check_arguments(arguments)
    lab = load(without_hydra(cfg), LabConfig)
    folder = LabFolder(Path(lab.labs_dir) / lab.lab.name)
    plan = make_plan(lab, folder, ArmComposer(context["hydra_context"].config_loader, cfg, lab, arguments))
    require_same_settings(plan.runs)
    if lab.lab.dry_run:
        recorded = {run.config.run_name for _, run in _recorded_runs(lab, folder, plan, console)}
        left = [planned for planned in plan.chosen if planned.run.name not in recorded]
        if not left:
            print_line(console, "Every run is recorded: nothing is left to train.", "green")
            return
        print_cost(console, left, lab.lab.seconds_per_update)
        print_runs(console, left)
        return
    if runs_here(cfg.hydra.launcher):
        resolve_device(lab.device)  # once, and not in every run
    with Lock(folder.path, "lab"):
        for record, run in _recorded_runs(lab, folder, plan, console):
            restore(record, run)
        print_cost(console, plan.chosen, lab.lab.seconds_per_update)
        _run(context, folder, plan, console)


def _recorded_runs(
    lab: LabConfig, folder: LabFolder, plan: LabPlan, console: Console
) -> Iterator[tuple[Path, RecordedRun]]:
    """Yield the runs that need not be trained, with their record: that of the lab itself, or the one it names."""
    is_record = folder.evidence.is_file() and folder.arms.is_dir() and not folder.runs.exists()
    own = [folder.path] if is_record else []
    named = [] if lab.lab.recorded is None else [CONF.parent / lab.lab.recorded]
    for record in (*own, *named):
        found = find_recorded(record, plan.runs, console)
        if found:
            print_line(console, f"{record}: {len(found)} recorded runs are not trained again", "green")
        yield from ((record, run) for run in found)


def _run(context: dict[str, Any], folder: LabFolder, plan: LabPlan, console: Console) -> None:
    folder.stop.unlink(missing_ok=True)
    folder.write_plan([planned.run for planned in plan.runs])
    pending = [planned for planned in plan.chosen if not has_ended(planned.run.end())]
    remove_restored(pending, console)
    try:
        with _stop_requests(folder) as stop:
            _launch(context, pending)
        if stop.number is not None:
            _raise_stop(stop.number)
    finally:
        folder.stop.unlink(missing_ok=True)
        write_evidence(folder)
        write_arms(folder, plan.runs)
        print_progress(console, plan)
        print_line(console, f"evidence  {folder.evidence}", "cyan")
    _write_report(folder, plan, shlex.join(["python", "app/lab.py", *context["config"].hydra.overrides.task]), console)
    if left := sum(not has_ended(planned.run.end()) for planned in plan.chosen):
        raise UserError(
            f"{left} of {len(plan.chosen)} runs have not ended well; {folder.evidence} has the reasons, and the same "
            "command tries them again."
        )


def _launch(context: dict[str, Any], pending: Sequence[PlannedRun]) -> None:
    """Run jobs with Hydra's launcher, and record failures that came before a job could record them itself."""
    if not pending:
        return
    launcher = Plugins.instance().instantiate_launcher(**context)
    process = f"lab.process={process_name()}"
    results = launcher.launch([[*planned.overrides, process] for planned in pending], initial_job_idx=0)
    for planned, result in zip(pending, results, strict=True):
        error = _error_of(result)
        if error is not None and not planned.run.failure.exists():
            planned.run.record_failure(error)


def _error_of(result: JobReturn) -> Exception | None:
    try:
        _ = result.return_value  # raises what the job has raised
    except Exception as error:
        return error
    return None


class _StopRequest:
    """Signal that has asked the command to stop.

    Attributes:
        number: Number of the signal; None if there was none.
    """

    def __init__(self) -> None:
        self.number: int | None = None


@contextlib.contextmanager
def _stop_requests(folder: LabFolder) -> Iterator[_StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request that the jobs read from the folder; a second one takes effect.

    The launcher returns as soon as its jobs have saved. A run in this process handles the signals itself.
    """
    request = _StopRequest()

    def handle(number: int, _: FrameType | None) -> None:
        if request.number is not None:
            _raise_stop(number)
        request.number = number
        folder.stop.touch()

    numbers = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():  # Python allows signal handlers there only
        numbers = ()
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise_stop(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)  # the exit code that shells and schedulers expect


def _check_arguments(arguments: Sequence[str]) -> None:
    """Refuse overrides that would give a run several values, or another place or seed than the lab's."""
    for override in OverridesParser.create().parse_overrides(list(arguments)):
        key = override.get_key_element().lstrip("+~")
        if override.is_sweep_override():
            raise UserError(
                f"{override.input_line}: a lab compares arms, so a key has one value. Add arms to a file in conf/lab, "
                "or give one lab.name for every value."
            )
        if key in _OWN_KEYS:
            raise UserError(f"{override.input_line}: a lab sets this for its runs. {_OWN_KEYS[key]}")
        if key in _ARM_KEYS:
            raise UserError(
                f"{override.input_line}: would undo the faults and fixes that the arms consist of. Leave it out, or "
                "add an arm with it to a file in conf/lab."
            )


def _write_report(folder: LabFolder, plan: LabPlan, command: str, console: Console) -> None:
    from app.ablation.report import write_report  # matplotlib and plotly take seconds to import

    try:
        overrides = {planned.run.arm: planned.train_overrides for planned in plan.runs}
        paths = write_report(folder.evidence, plan.arms, folder.path, command=command, run_overrides=overrides)
    except Exception as error:  # a missing font or disk space must not cost the table
        print_line(console, f"The report cannot be made: {format_error(error)}", "red")
        return
    for path in paths:
        print_line(console, f"report    {path}", "cyan")
