"""Shared parts of the benchmarks: the real configuration, timing in turns, tables and the JSON report."""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir

from app.config.load import load
from app.config.schema import Config
from app.core.atomic_files import strict_json

ROOT = Path(__file__).resolve().parents[1]


def compose_config(*overrides: str) -> Config:
    """Compose and validate the configuration that app/train.py would run with."""
    with initialize_config_dir(str(ROOT / "conf")):
        return load(compose("config", list(overrides)))


def take_turns(candidates: Mapping[str, Callable[[], Any]], repeats: int, warmup: int = 5) -> dict[str, np.ndarray]:
    """Time every candidate ``repeats`` times, in turns, so that a machine that gets busier slows all alike.

    Args:
        candidates: Functions to call, by name.
        repeats: Number of timed calls of each.
        warmup: Number of calls of each before them.

    Returns:
        Wall milliseconds of every timed call (repeats,), by name.
    """
    taken = {name: np.empty(repeats) for name in candidates}
    for turn in range(-warmup, repeats):
        for name, candidate in candidates.items():
            start = time.perf_counter()
            candidate()
            if turn >= 0:
                taken[name][turn] = 1e3 * (time.perf_counter() - start)
    return taken


def machine() -> dict[str, Any]:
    """Return a description of the machine and the libraries of a measurement."""
    import torch

    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table with aligned columns; the first ``left`` of them are aligned to the left."""
    columns, *rows = [[cell.replace("|", "\\|") for cell in row] for row in [columns, *rows]]
    widths = [max(3, *(len(row[i]) for row in [columns, *rows])) for i in range(len(columns))]
    lines = [
        [cell.ljust(widths[i]) if i < left else cell.rjust(widths[i]) for i, cell in enumerate(row)]
        for row in [columns, *rows]
    ]
    lines.insert(1, ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | None, form: str = "{:.2f}") -> str:
    """Format a number for a cell; "-" where there is none."""
    return "-" if value is None else form.format(value)


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all benchmarks have, described by the first line of ``description``."""
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    made.add_argument("--out", type=Path, help="also write the JSON to this file")
    return made


def publish(report: Mapping[str, Any], tables: Sequence[str], out: Path | None) -> None:
    """Print the JSON to standard output and the tables to standard error; also write the JSON to ``out``."""
    text = strict_json(report, indent=2)
    print(text, flush=True)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    print("\n" + "\n\n".join(tables), file=sys.stderr)
