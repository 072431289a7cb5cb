"""Recorded runs: evidence that is kept beside the code, so that a machine without the run folders need not repeat it.

A record is a folder with ``evidence.csv`` and ``arms/<arm>.yaml``, as a lab writes both.
"""

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from app.ablation.evidence_runs import OVERESTIMATION, EvidenceRun, read_evidence
from app.ablation.lab_plan import PlannedRun, changed_settings
from app.ablation.lab_runs import EPOCH_NUMBERS, RESTORED, LabFolder, has_ended
from app.config.schema import Config
from app.core.atomic_files import make_folder, strict_json, write_json
from app.core.console import print_line
from app.core.errors import UserError
from app.runs.config_file import read_config, write_config
from app.runs.run_folder import RunFolder


@dataclass(frozen=True)
class RecordedRun:
    """A run of a record that can be restored.

    Attributes:
        evidence: Its rows.
        config: Its configuration.
        folder: The folder that it gets.
    """

    evidence: EvidenceRun
    config: Config
    folder: RunFolder


def write_arms(folder: LabFolder, runs: Sequence[PlannedRun]) -> None:
    """Write the configuration of every arm that has a run, which makes the folder of the lab a record."""
    for planned in runs:
        source = planned.run.folder.config
        if source.is_file():
            make_folder(folder.arms)
            write_config(folder.arms / f"{planned.run.arm}.yaml", read_config(source))


def find_recorded(record: Path, runs: Sequence[PlannedRun], console: Console) -> tuple[RecordedRun, ...]:
    """Return the runs of a record that do not exist here and have ended with as many epochs as are asked for.

    Runs that were made under other settings, or have too few epochs, are left out, with a line on the console.

    Args:
        record: Folder of the record.
        runs: The runs that the lab asks for.
        console: Console for messages.

    Raises:
        UserError: The record cannot be read.
    """
    try:
        recorded = {(run.arm, run.seed): run for run in read_evidence(LabFolder(record).evidence)}
        missing = [planned for planned in runs if not planned.run.folder.path.exists()]
        pairs = [(run, planned) for planned in missing if (run := recorded.get((planned.run.arm, planned.run.seed)))]
        return tuple(_usable(record, [pair for pair in pairs if has_ended(pair[0].end)], console))
    except UserError as error:
        raise UserError(f"lab.recorded = {record}: {error} lab.recorded=null trains every run here.") from None


def restore(record: Path, run: RecordedRun) -> None:
    """Make the folder of a recorded run: what its end, its metrics and its settings are read from.

    It appears whole or not at all. It has no checkpoint, so ``RESTORED`` marks it.

    Args:
        record: Folder of the record.
        run: The run.
    """
    draft, evidence = RunFolder(run.folder.path.with_name(f".{run.folder.path.name}")), run.evidence
    shutil.rmtree(draft.path, ignore_errors=True)  # of a command that was killed
    make_folder(draft.path)
    write_config(draft.config, run.config)
    lines = [dict(_metrics(evidence, index)) for index in range(len(evidence.epochs))]
    draft.metrics.write_text("".join(f"{strict_json(line)}\n" for line in lines), encoding="utf-8")
    write_json(draft.summary, {"stop_reason": evidence.end, "epoch": evidence.last_epoch})
    write_json(draft.path / RESTORED, {"record": str(record), "collapsed_at": evidence.collapsed_at})
    draft.path.rename(run.folder.path)


def remove_restored(runs: Sequence[PlannedRun], console: Console) -> None:
    """Remove the folders of restored runs that are to be trained after all: without a checkpoint none can continue."""
    for planned in runs:
        folder = planned.run.folder.path
        if (folder / RESTORED).is_file():
            print_line(console, f"{planned.run.name}: was recorded with fewer epochs, and is trained anew", "yellow")
            shutil.rmtree(folder)


def _usable(record: Path, pairs: Sequence[tuple[EvidenceRun, PlannedRun]], console: Console) -> Iterator[RecordedRun]:
    differing: dict[str, list[str]] = {}
    short = [planned.run.name for run, planned in pairs if not run.covers(planned.run.epochs)]
    for run, planned in pairs:
        if planned.run.name in short:
            continue
        arm = read_config(LabFolder(record).arms / f"{run.arm}.yaml")
        config = replace(arm, seed=run.seed, run_name=planned.run.name)
        if changes := changed_settings(config, planned.config):
            differing[run.arm] = changes
            continue
        _require_numbers(run)
        yield RecordedRun(run, config, planned.run.folder)
    for name, changes in differing.items():
        text = f"{record}: the runs of {name} are not used, because other settings are asked for: {'; '.join(changes)}"
        print_line(console, text, "yellow")
    if short:
        print_line(console, f"{record}: has fewer epochs than are asked for of {', '.join(short)}", "yellow")


def _require_numbers(run: EvidenceRun) -> None:
    for name in EPOCH_NUMBERS:
        values = run.epochs if name == "epoch" else run.metrics.get(name, [math.nan])
        if not all(map(math.isfinite, values)):
            raise UserError(f"{run.arm} on seed {run.seed} has an epoch without {name}.")


def _metrics(run: EvidenceRun, index: int) -> Iterator[tuple[str, float]]:
    """Yield names and values of a line of metrics.jsonl; whole numbers as such, none for what is not known."""
    yield "epoch", run.epochs[index]
    yield "step", int(run.metrics["updates"][index])
    for name, values in run.metrics.items():
        if name != OVERESTIMATION and math.isfinite(value := float(values[index])):
            yield name, int(value) if value.is_integer() else value
