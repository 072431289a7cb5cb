"""The banner at the start of a run: what is about to happen, and which fixes are in force."""

from collections.abc import Mapping
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.panel import Panel
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class FaultFact:
    """One of the eight faults, and whether this run has its fix.

    Attributes:
        number: 1 to 8.
        about: a few words, such as "batch norm in the CNN".
        switch: the key as spelt on the command line, such as "norm".
        value: its value in this run.
        fixed: True: fixed; False: the broken setting; None: the model has no such part.
    """

    number: int
    about: str
    switch: str
    value: str
    fixed: bool | None


@dataclass(frozen=True)
class ReplayFacts:
    """Forecast of the replay's memory."""

    capacity: int  # rows
    bytes_per_step: float
    total_bytes: int
    free_bytes: int  # of the machine, before the replay is made


@dataclass(frozen=True)
class ScheduleFacts:
    """How long the run is."""

    epochs: int
    updates: int  # in total
    env_steps: int  # in total, those before the first update included
    updates_per_env_step: float
    batch_size: int


@dataclass(frozen=True)
class BannerFacts:
    """Everything the banner shows.

    Attributes:
        run_name: name of the run.
        run_dir: folder of the run.
        model: name of the actor-critic.
        device: such as "cpu" or "cuda:0 (NVIDIA H200)".
        threads: threads that torch uses.
        seed: seed of the run.
        environment: name of the environment.
        observation: a short description by part, such as {"image": "4 × 64 × 64 uint8"}.
        parameters: number of parameters by part, without the total.
        replay: forecast of the replay.
        schedule: length of the run.
        faults: the eight faults.
        warnings: whole sentences.
    """

    run_name: str
    run_dir: str
    model: str
    device: str
    threads: int
    seed: int
    environment: str
    observation: Mapping[str, str]
    parameters: Mapping[str, int]
    replay: ReplayFacts
    schedule: ScheduleFacts
    faults: tuple[FaultFact, ...]
    warnings: tuple[str, ...]


def print_banner(console: Console, facts: BannerFacts) -> None:
    """Print the banner; legible from 80 columns on."""
    title = Text.assemble((facts.model, "bold"), " drives ", (facts.environment, "bold"))
    console.print(Panel(_overview(facts), title=title, title_align="left", border_style="cyan"))
    console.print(_faults(facts.faults))
    for warning in facts.warnings:
        console.print(Text.assemble(("warning ", "bold yellow"), warning))
    console.print()


def _overview(facts: BannerFacts) -> Table:
    replay, plan = facts.replay, facts.schedule
    rows = {
        "run": f"{facts.run_name} · seed {facts.seed}",
        "folder": facts.run_dir,
        "device": f"{facts.device} · {facts.threads} {'thread' if facts.threads == 1 else 'threads'}",
        **facts.observation,
        "replay": f"{replay.capacity:,} rows × {replay.bytes_per_step:,.0f} bytes = "
        f"{decimal(replay.total_bytes)} of {decimal(replay.free_bytes)} free",
        "schedule": f"{plan.epochs:,} epochs · {plan.updates:,} updates of batch {plan.batch_size:,}\n"
        f"{plan.env_steps:,} env steps · {plan.updates_per_env_step:g} updates per env step",
    }
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows.items():
        grid.add_row(Text(name), Text(value))
    grid.add_row("parameters", _parameters(facts.parameters))
    return grid


def _parameters(parts: Mapping[str, int]) -> Table:
    """Return the number of parameters by part, two parts to a line, and their total."""
    cells = [(Text(part), f"{count:,}") for part, count in parts.items()]
    cells.append((Text("total", style="bold"), f"[bold]{sum(parts.values()):,}"))
    table = Table.grid(padding=(0, 4, 0, 0))
    for _ in range(2):
        table.add_column()
        table.add_column(justify="right")
    for first in range(0, len(cells), 2):
        table.add_row(*(text for cell in cells[first : first + 2] for text in cell))
    return table


def _faults(faults: tuple[FaultFact, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("#", justify="right")
    table.add_column("fault")
    table.add_column("in this run", overflow="fold")
    table.add_column("state", no_wrap=True)
    for fault in faults:
        setting = Text(f"{fault.switch}={fault.value}")
        style = "dim" if fault.fixed is None else ""
        table.add_row(str(fault.number), Text(fault.about), setting, _state(fault.fixed), style=style)
    return table


def _state(fixed: bool | None) -> Text:
    if fixed is None:
        return Text("no part")
    return Text("fixed", style="green") if fixed else Text("BROKEN", style="bold white on red")
