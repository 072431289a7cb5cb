"""CPU seconds that a training process needs until all its evaluation episodes finish the lap, for peers.py."""

import json
import math
import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from app.reporting.number_format import duration
from benchmarks.common import ROOT, markdown, number
from benchmarks.learning import last_lines

READY = "starts.jsonl"  # the file that a run writes before its first step
POLL_S = 0.1
MEDIANS = ("start_cpu_s", "cpu_s_after_start", "updates_full", "env_steps_full")  # over seeds, beside the CPU seconds


class Limits(NamedTuple):
    """Limits that end a training."""

    cpu_s: float  # CPU seconds, unless it is done before
    hold: int  # evaluations after the first full one


@dataclass(frozen=True)
class LapRun:
    """One training until its first full evaluation, and ``hold`` evaluations more.

    Attributes:
        agent: Its name.
        seed: Its seed.
        start_cpu_s: CPU seconds before its first step; None if it came to none.
        cpu_s: CPU seconds until it was ended.
        wall_s: Seconds until then.
        load: Mean number of busy processes on the machine in its last minute; None where the system does not say.
        failure: Why it was ended before it was done; None if it was done.
        evaluations: Lines of metrics.jsonl, each with the ``cpu_s`` of its moment.
    """

    agent: str
    seed: int
    start_cpu_s: float | None
    cpu_s: float
    wall_s: float
    load: float | None
    failure: str | None
    evaluations: list[dict[str, Any]]

    @property
    def first_full(self) -> dict[str, Any] | None:
        """The first evaluation in which every deterministic episode finished the lap."""
        return next(filter(is_full, self.evaluations), None)

    @property
    def later(self) -> list[dict[str, Any]]:
        """The evaluations after it."""
        first = self.first_full
        return [] if first is None else self.evaluations[self.evaluations.index(first) + 1 :]

    @property
    def held(self) -> float | None:
        """Share of full evaluations among the later ones; None if there are none."""
        return statistics.fmean(map(is_full, self.later)) if self.later else None

    def as_row(self) -> dict[str, Any]:
        """Return what is reported of the run; None where there is no value."""
        first = self.first_full or {}
        after_start = first["cpu_s"] - self.start_cpu_s if first else None
        return {
            "agent": self.agent,
            "seed": self.seed,
            **{f"{name}_full": first.get(name) for name in ("cpu_s", "updates", "env_steps", "lap_time_det")},
            "start_cpu_s": self.start_cpu_s,
            "cpu_s_after_start": after_start,
            "best_laps": max((line["laps_det"] for line in self.evaluations), default=None),
            "evaluations": len(self.evaluations),
            "held": self.held,
            "cpu_s": self.cpu_s,
            "wall_s": self.wall_s,
            "load": self.load,
            "failure": self.failure,
        }


def is_full(evaluation: Mapping[str, Any]) -> bool:
    """Return whether every deterministic episode finished the lap."""
    return evaluation["laps_det"] == 1.0


def is_done(evaluations: Sequence[Mapping[str, Any]], hold: int) -> bool:
    """Return whether a full evaluation and ``hold`` more are there."""
    return any(is_full(line) for line in evaluations[: max(0, len(evaluations) - hold)])


def parse_evaluations(text: str, skip: int) -> list[dict[str, Any]]:
    """Return the whole lines of metrics.jsonl after the first ``skip``; one that is being written is left out."""
    return [json.loads(line) for line in text.splitlines(keepends=True)[skip:] if line.endswith("\n")]


def run_until_lap(
    agent: str, seed: int, command: Sequence[str], folder: Path, env: Mapping[str, str], limits: Limits
) -> LapRun:
    """Run a training process and end it when it is done or over its limit.

    Args:
        agent: Its name.
        seed: Its seed.
        command: Command line; it writes ``READY`` and metrics.jsonl into ``folder``.
        folder: Of the run; its output goes to a file beside it.
        env: Environment variables beside ours.
        limits: When to end it.
    """
    log, metrics = folder.with_suffix(".log"), folder / "metrics.jsonl"
    evaluations: list[dict[str, Any]] = []
    start_cpu_s, cpu_s, failure = None, 0.0, None
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | env, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        watched = psutil.Process(process.pid)
        while failure is None and not is_done(evaluations, limits.hold):
            time.sleep(POLL_S)
            code = process.poll()
            new = parse_evaluations(metrics.read_text("utf-8"), len(evaluations)) if metrics.exists() else []
            cpu_s = _cpu_seconds(watched) or cpu_s
            evaluations += [{**line, "cpu_s": cpu_s} for line in new]
            if start_cpu_s is None and (new or (folder / READY).exists()):
                start_cpu_s = cpu_s
            if code is not None:
                failure = f"exit code {code}: {last_lines(log)}"
            elif cpu_s > limits.cpu_s:
                failure = f"ended after {limits.cpu_s:g} CPU s"
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    finally:
        _end(process)
    failure = None if is_done(evaluations, limits.hold) else failure
    return LapRun(agent, seed, start_cpu_s, cpu_s, time.monotonic() - began, load, failure, evaluations)


def _cpu_seconds(process: psutil.Process) -> float | None:
    """Return the seconds that a process and its finished children have computed; None if it is gone."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return None
    return times.user + times.system + times.children_user + times.children_system


def _end(process: subprocess.Popen) -> None:
    """End a process; one that saves a checkpoint first gets the time for it."""
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def summarize(rows: Sequence[Mapping[str, Any]], reference: str) -> list[dict[str, Any]]:
    """Sum up the seeds of every agent; a median is None where half of the seeds or more reached no full evaluation.

    Args:
        rows: Of all runs.
        reference: The agent whose median the others' are divided by.
    """
    by_agent: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_agent.setdefault(row["agent"], []).append(row)
    medians = {agent: _median([row["cpu_s_full"] for row in of_agent]) for agent, of_agent in by_agent.items()}
    ours = medians.get(reference)
    return [
        {
            "agent": agent,
            "seeds": len(of_agent),
            "full": sum(row["cpu_s_full"] is not None for row in of_agent),
            "cpu_s": medians[agent],
            "times_ours": medians[agent] / ours if ours and medians[agent] else None,
            **{key: _median([row[key] for row in of_agent]) for key in MEDIANS},
        }
        for agent, of_agent in by_agent.items()
    ]


def _median(values: Sequence[float | None]) -> float | None:
    """Return the median, in which None counts as infinite; None if it is infinite."""
    median = statistics.median(math.inf if value is None else value for value in values)
    return median if math.isfinite(median) else None


def laps_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the seeds as Markdown."""
    columns = (
        "agent", "seed", "CPU s to 10 of 10 laps", "start", "updates", "env steps", "lap time", "evaluations",
        "most laps", "held", "CPU s in all", "wall time", "load", "end",
    )  # fmt: skip
    cells = [
        (
            row["agent"],
            str(row["seed"]),
            *(number(row[key], "{:.1f}") for key in ("cpu_s_full", "start_cpu_s")),
            *(number(row[key], "{:,}") for key in ("updates_full", "env_steps_full")),
            number(row["lap_time_det_full"], "{:.2f} s"),
            str(row["evaluations"]),
            *(number(row[key], "{:.0%}") for key in ("best_laps", "held")),
            number(row["cpu_s"], "{:.1f}"),
            duration(row["wall_s"]),
            number(row["load"], "{:.1f}"),
            row["failure"] or "done",
        )
        for row in rows
    ]
    return markdown(columns, cells)


def summary_table(rows: Sequence[Mapping[str, Any]], reference: str) -> str:
    """Return the summary over the seeds as Markdown."""
    columns = (
        "agent", "seeds with 10 of 10 laps", "CPU s, median", f"× {reference}", "start", "after it", "updates",
        "env steps",
    )  # fmt: skip
    cells = [
        (
            row["agent"],
            f"{row['full']} of {row['seeds']}",
            number(row["cpu_s"], "{:.1f}"),
            number(row["times_ours"]),
            *(number(row[key], "{:.1f}") for key in ("start_cpu_s", "cpu_s_after_start")),
            *(number(row[key], "{:,.0f}") for key in ("updates_full", "env_steps_full")),
        )
        for row in rows
    ]
    return markdown(columns, cells)
