"""Tables of a lab on the console: its runs, what they cost, and how far they are."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from app.ablation.lab_plan import LabPlan, PlannedRun
from app.ablation.lab_runs import FAILED, FINISHED, has_ended
from app.core.console import print_line


@dataclass(frozen=True)
class Cost:
    """What the runs of one task still need, at one thread each.

    Attributes:
        updates: Number of updates that are left.
        seconds_per_update: Seconds of one, evaluation included; None if nothing says it.
        origin: Where the seconds come from.
    """

    updates: int
    seconds_per_update: float | None
    origin: str

    @property
    def hours(self) -> float | None:
        """Core hours that are left; None if they are unknown."""
        return None if self.seconds_per_update is None else self.updates * self.seconds_per_update / 3600


def estimate_costs(runs: Sequence[PlannedRun], figures: Mapping[str, float]) -> dict[str, Cost]:
    """Estimate what some runs still need, by task.

    The seconds per update are the median over the runs of the task that have finished, without one a figure.

    Args:
        runs: The runs.
        figures: Seconds per update by task.
    """
    found = {}
    for task in dict.fromkeys(planned.run.task for planned in runs):
        same = [planned for planned in runs if planned.run.task == task]
        updates = sum(map(_updates_left, same))
        finished = [planned.run.last_epoch() for planned in same if planned.run.end() == FINISHED]
        seconds = [last["wall_s"] / last["updates"] for last in finished if last]
        if seconds:
            found[task] = Cost(updates, statistics.median(seconds), f"measured in finished runs: {len(seconds)}")
        else:
            found[task] = Cost(updates, figures.get(task), "lab.seconds_per_update")
    return found


def print_cost(console: Console, runs: Sequence[PlannedRun], figures: Mapping[str, float]) -> None:
    """Print how many runs are done, and the core hours that the others need.

    Args:
        console: Console to print on.
        runs: The chosen runs.
        figures: Seconds per update by task, for tasks without a finished run.
    """
    done = sum(has_ended(planned.run.end()) for planned in runs)
    print_line(console, f"runs: {len(runs)}, of which {done} are done", "green")
    for task, cost in estimate_costs(runs, figures).items():
        hours = "an unknown number of" if cost.hours is None else f"about {cost.hours:.1f}"
        seconds = "no figure" if cost.seconds_per_update is None else f"{cost.seconds_per_update:.3g} s per update"
        print_line(console, f"{task}: {hours} core hours are left ({seconds}, {cost.origin})")


def print_runs(console: Console, runs: Sequence[PlannedRun]) -> None:
    """Print a line for every run: its task, its epochs, and how it ended."""
    width = max(len(planned.run.name) for planned in runs)
    for planned in runs:
        run = planned.run
        epochs = f"{run.epochs_done:>3} of {run.epochs:>3} epochs"
        print_line(console, f"{run.name:<{width}}  {run.task}  {epochs}  {run.end()}")


def print_progress(console: Console, plan: LabPlan) -> None:
    """Print a table of the arms: how many seeds are finished, and what kept the others from it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("arm", "seeds finished", "others"):
        table.add_column(column)
    for arm in plan.arms:
        ends = [planned.run.end() for planned in plan.runs if planned.run.arm == arm.name]
        others = [FAILED if end.startswith(FAILED) else end for end in ends if end != FINISHED]
        counts = ", ".join(f"{others.count(end)} {end}" for end in dict.fromkeys(others))
        table.add_row(arm.name, f"{len(ends) - len(others)} of {len(ends)}", counts)
    console.print(table)
    for planned in plan.runs:
        if (end := planned.run.end()).startswith(FAILED):
            print_line(console, f"{planned.run.name} {end} (log: {planned.run.log})", "red")


def _updates_left(planned: PlannedRun) -> int:
    epochs = 0 if has_ended(planned.run.end()) else planned.run.epochs - planned.run.epochs_done
    return max(0, epochs) * planned.config.training.updates_per_epoch
