"""Banner at the start of a run: what will be trained, which faults are fixed, and the warnings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from app.config.faults import FaultState, shown_faults
from app.config.rules import warnings
from app.config.schema import Config, TrainingConfig
from app.envs.spec import ObservationSpec
from app.replay.memory_check import MemoryEstimate

_LEGIBLE_WIDTH = 80  # columns


@dataclass(frozen=True)
class BannerFacts:
    """Everything that the banner shows beside the configuration.

    Attributes:
        run_dir: Folder of the run; its name is the name of the run.
        device: Device such as "cpu" or "cuda:0 (NVIDIA H200)".
        threads: Threads that torch uses.
        spec: The observation.
        parameters: Number of parameters by part, without the total.
        replay: Memory that the replay will need.
    """

    run_dir: Path
    device: str
    threads: int
    spec: ObservationSpec
    parameters: Mapping[str, int]
    replay: MemoryEstimate


def print_banner(console: Console, config: Config, facts: BannerFacts) -> None:
    """Print the banner; legible from ``_LEGIBLE_WIDTH`` columns on."""
    title = Text.assemble((config.model.name, "bold"), " drives ", (config.env.name, "bold"))
    console.print(Panel(_overview(config, facts), title=title, title_align="left", border_style="cyan"))
    if faults := shown_faults(config):
        console.print(_faults(faults, console.width >= _LEGIBLE_WIDTH))
    for warning in warnings(config):
        console.print(Text.assemble(("warning ", "bold yellow"), warning))
    console.print()


def _overview(config: Config, facts: BannerFacts) -> Table:
    replay = facts.replay
    rows = {
        "run": f"{facts.run_dir.name} · seed {config.seed}",
        "folder": str(facts.run_dir),
        "device": f"{facts.device} · {facts.threads} {'thread' if facts.threads == 1 else 'threads'}",
        **_observation(facts.spec),
        "replay": f"{replay.capacity:,} rows × {replay.bytes_per_step:,.0f} bytes = "
        f"{decimal(replay.total_bytes)} of {decimal(replay.available_bytes)} free",
        "schedule": _schedule(config.training, config.replay.batch_size),
    }
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows.items():
        grid.add_row(Text(name), Text(value))
    grid.add_row("parameters", _parameters(facts.parameters))
    return grid


def _observation(spec: ObservationSpec) -> dict[str, str]:
    """Return the parts of the observation, each with its shape."""
    parts = {"floats": str(spec.float_dim)}
    if spec.image_shape:
        parts["images"] = " × ".join(map(str, spec.image_shape)) + " uint8"
    if spec.window:
        parts["window"] = f"{spec.window} × {spec.window_dim}"
    return parts


def _schedule(training: TrainingConfig, batch_size: int) -> str:
    """Return the length of the run in epochs, updates and environment steps."""
    ratio = training.max_training_steps_per_env_step
    env_steps = training.start_training + math.ceil(training.updates / ratio)
    return (
        f"{training.epochs:,} epochs · {training.updates:,} updates of batch {batch_size:,}\n"
        f"{env_steps:,} env steps · {_ratio_text(ratio)}"
    )


def _ratio_text(updates: float) -> str:
    """Return a number of updates for each environment step in numbers above 1."""
    if updates < 1:
        return f"{1 / updates:.3g} env steps per update"
    return f"{updates:g} {'update' if updates == 1 else 'updates'} per env step"


def _parameters(parts: Mapping[str, int]) -> Table:
    """Return the number of parameters by part, two parts per line, and their total."""
    cells = [(Text(part), f"{count:,}") for part, count in parts.items()]
    cells.append((Text("total", style="bold"), f"[bold]{sum(parts.values()):,}"))
    table = Table.grid(padding=(0, 4, 0, 0))
    for _ in range(2):
        table.add_column()
        table.add_column(justify="right")
    for first in range(0, len(cells), 2):
        table.add_row(*(text for cell in cells[first : first + 2] for text in cell))
    return table


def _faults(states: Sequence[FaultState], is_legible: bool) -> Table:
    """Return the table of the faults; in a console that is wide enough, no key is broken in two."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("#", justify="right")
    table.add_column("fault")
    table.add_column("in this run", overflow="fold", no_wrap=is_legible)
    table.add_column("state", no_wrap=True)
    for state in states:
        settings = Text("\n".join(f"{key}={value}" for key, value in state.settings.items()))
        style = "dim" if state.fixed is None else ""
        table.add_row(str(state.fault.number), Text(state.fault.name), settings, _state(state.fixed), style=style)
    return table


def _state(fixed: bool | None) -> Text:
    if fixed is None:
        return Text("not used")
    return Text("fixed", style="green") if fixed else Text("BROKEN", style="bold white on red")
