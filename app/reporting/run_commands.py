"""Commands that go on from a run: evaluate, export, examine, continue, repeat."""

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.config.schema import Config
from app.config.schema_env import GymConfig
from app.config.task_id import split_task_id
from app.config.types import LONGEST_NAME
from app.runs.run_overrides import run_overrides, spell

_OTHER_TRACKS, _FIRST_OTHER_TRACK = 3, 101
_DEFAULT_RUNS_DIR = "runs"


@dataclass(frozen=True)
class Command:
    """A command and what it is for.

    Attributes:
        purpose: What it does.
        line: The line for a shell, from the root of the repository.
    """

    purpose: str
    line: str


def next_commands(folder: Path, config: Config, has_policy: bool) -> tuple[Command, ...]:
    """Return the commands that go on from a run.

    Args:
        folder: Folder of the run.
        config: Its configuration.
        has_policy: Whether there is a best policy; without one there is nothing to evaluate, export or examine.
    """
    return tuple([*(_on_the_folder(folder, config) if has_policy else ()), *_further_runs(config)])


def _on_the_folder(folder: Path, config: Config) -> Iterator[Command]:
    run = f"run={spell(str(folder))}"
    module = split_task_id(config.env.id)[0] if isinstance(config.env, GymConfig) else None
    on_run = [run] if module is None else [run, f"env_module={module}"]
    if config.env.eval_tracks:
        tracks = f"tracks=[{','.join(map(str, _other_tracks(config)))}]"
        yield Command("Evaluate the best policy on tracks that it has never seen.", _line("evaluate", run, tracks))
        yield Command("Look at its laps, step by step: what it sees, does and expects.", _line("replay_viewer", run))
    else:
        yield Command("Evaluate the best policy on new episodes.", _line("evaluate", *on_run))
    yield Command("Export it as ONNX with a driver for tmrl.", _line("export", *on_run))
    yield Command("Find out what failed first, against recorded healthy runs.", _line("postmortem", *on_run))


def _other_tracks(config: Config) -> Iterator[int]:
    """Return tracks that the run was neither trained nor evaluated on."""
    known = {*config.env.train_tracks, *config.env.eval_tracks}
    others = (track for track in itertools.count(_FIRST_OTHER_TRACK) if track not in known)
    return itertools.islice(others, _OTHER_TRACKS)


def _further_runs(config: Config) -> Iterator[Command]:
    """Yield the commands that train; none if no overrides make the configuration of the run."""
    found = run_overrides(config)
    if found is None:
        return
    words = found.words() | ({} if config.runs_dir == _DEFAULT_RUNS_DIR else {"runs_dir": spell(config.runs_dir)})
    more, seed = 2 * config.training.epochs, config.seed + 1
    longer = words | {"training.epochs": str(more), "run_name": spell(config.run_name)}
    yield Command(f"Train this run on, up to {more} epochs.", _train(longer))
    again = words | {"seed": str(seed), "run_name": spell(name_for_seed(config.run_name, seed))}
    yield Command("Repeat it with another seed: one run proves nothing.", _train(again))


def name_for_seed(name: str, seed: int) -> str:
    """Return the name of a run that is repeated with another seed: "mine-seed0" becomes "mine-seed1"."""
    renamed, count = re.subn(r"seed\d+", f"seed{seed}", name)
    suffix = f"-seed{seed}"
    return renamed if count else f"{name[: LONGEST_NAME - len(suffix)]}{suffix}"


def _train(overrides: dict[str, str]) -> str:
    return _line("train", *(f"{key}={value}" for key, value in overrides.items()))


def _line(script: str, *words: str) -> str:
    return f"python app/{script}.py {shlex.join(words)}"
