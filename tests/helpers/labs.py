"""Labs in this process, without Hydra's command line, and the real command in a process of its own."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir

from app.ablation.lab_plan import ArmComposer, LabPlan, make_plan, without_hydra
from app.ablation.lab_runs import LabFolder, LabRun
from app.config.load import load
from app.config.schema_lab import LabConfig
from app.runs.config_file import write_config
from tests.helpers.make import CONF, QuickLoader, raw
from tests.helpers.runs import ROOT, TIMES
from tests.helpers.stopped_runs import PENDULUM

TASK = ("lab=smoke", *PENDULUM)  # the quickest runs; both arms are the same there

Context = dict[str, Any]


@contextmanager
def lab_context(*overrides: str) -> Iterator[tuple[Context, list[str]]]:
    """Yield what Hydra gives to the sweeper, without a task, and the overrides of the command line."""

    class HydraContext:
        config_loader = QuickLoader()

    cfg = raw(*overrides, hydra=True, name="lab")
    with initialize_config_dir(str(CONF)):
        yield {"hydra_context": HydraContext(), "task_function": None, "config": cfg}, list(overrides)


def plan_of(labs_dir: Path, *overrides: str) -> LabPlan:
    """Plan a lab as the command does."""
    with lab_context(f"labs_dir={labs_dir}", *overrides) as (context, arguments):
        cfg, loader = context["config"], context["hydra_context"].config_loader
        lab = load(without_hydra(cfg), LabConfig)
        folder = LabFolder(labs_dir / lab.lab.name)
        return make_plan(lab, folder, ArmComposer(loader, cfg, lab, arguments))


def lab_config(labs_dir: Path, *overrides: str) -> LabConfig:
    """Compose and validate the configuration of the command."""
    with lab_context(f"labs_dir={labs_dir}", *overrides) as (context, _):
        return load(without_hydra(context["config"]), LabConfig)


def write_run(plan: LabPlan, name: str, lines: list[dict] = (), **summary: Any) -> LabRun:
    """Write what a run leaves: its configuration, its metrics and its summary."""
    (planned,) = (planned for planned in plan.runs if planned.run.name == name)
    folder = planned.run.folder
    write_config(folder.config, planned.config)
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if summary:
        folder.summary.write_text(json.dumps(summary))
    return planned.run


def epochs(number: int, **metrics: Any) -> list[dict[str, Any]]:
    """Metrics of some epochs with 10 updates and 2 seconds each."""
    return [
        {"step": 10 * i, "epoch": i, "updates": 10 * i, "env_steps": 50 * i, "wall_s": 2.0 * i, **metrics}
        for i in range(1, number + 1)
    ]


def read_rows(folder: Path) -> list[dict[str, str]]:
    """Read the evidence of a lab."""
    with (folder / "evidence.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def without_times(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the rows without what depends on the machine."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def run_lab_command(labs_dir: Path, *overrides: str) -> subprocess.Popen:
    """Start the real command in a process group of its own, as a terminal does."""
    command = [sys.executable, "app/lab.py", *TASK, f"labs_dir={labs_dir}", *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes)
