"""How a run begins: from its checkpoint, from the weights of another run, or from nothing."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from app.agents.droq import DroQAgent
from app.config.schema import Config
from app.errors import UserError
from app.replay.memory import ReplayMemory
from app.runs.checkpoint import DamagedCheckpoint, State
from app.runs.fingerprint import changes, fingerprint, flatten, refuse_other
from app.runs.folder import RunFolder, load_weights

_FIXED = ("training.rounds", "training.steps")  # where an epoch ends must not move while a run goes on
_PARTS = {"fingerprint", "config", "training", "interface", "rng", "epochs_done", "wall_s"}


def usable_checkpoints(
    config: Config, folder: RunFolder, memory: ReplayMemory, console: Console, replay_cleared: bool
) -> list[State]:
    """Read the checkpoints that this run can go on from, newest first, and say what has changed since.

    Args:
        config: of this start.
        folder: of the run.
        memory: knows whether the rows that a checkpoint counts on are still what they were.
        console: where to tell.
        replay_cleared: the replay was removed on purpose and need not be there.

    Returns:
        No, one or two states.

    Raises:
        UserError: they are damaged, or were made under another fingerprint or schedule.
    """
    if not folder.checkpoints.exist():
        return []

    verified = replay_cleared

    def problem(state: State) -> str:
        nonlocal verified
        if not isinstance(state, dict) or not state.keys() >= _PARTS:
            return "it lacks parts that a checkpoint has."
        ways_out = "Add +restart=clean to remove it, or choose another run_name."
        refuse_other(f"a checkpoint in {folder.path}", state["fingerprint"], fingerprint(config), ways_out)
        damage = "" if verified else memory.verify(state["training"]["replay"])
        verified = not damage  # once is enough: it reads all rows
        return damage

    try:
        states = folder.checkpoints.load(problem, lambda text: _tell(console, text, "yellow"))
    except DamagedCheckpoint as error:
        raise UserError(
            f"{folder.path}: no checkpoint can be used.\n{error}\nIf only the replay is damaged, '+restart=clean "
            "restart.targets=[replay]' goes on with the networks and an empty replay. "
            f"Otherwise begin a new run from its best policy: run_name=... training.init_from={folder.path}"
        ) from None
    _say_what_changed(config, folder, states[0], console)
    return states


def _say_what_changed(config: Config, folder: RunFolder, state: State, console: Console) -> None:
    before, now = state["config"], flatten(asdict(config))
    fixed = {key: before[key] for key in _FIXED}
    refuse_other(
        f"the checkpoint in {folder.path}", fixed, {key: now[key] for key in _FIXED},
        "An epoch cannot change its length while a run goes on: set them as they were (training.epochs may grow), "
        "choose another run_name, or add +restart=clean.",
    )  # fmt: skip
    changed, updates = changes(before, now), state["training"]["updates"]
    folder.note_start(updates, changed)
    _tell(console, f"goes on after {updates:,} updates ({state['epochs_done']} epochs) of {folder.path}", "green")
    for line in changed:
        _tell(console, f"changed  {line}", "yellow")


def begin_anew(config: Config, folder: RunFolder, agent: DroQAgent, console: Console) -> None:
    """Begin without a checkpoint: weights of another run if asked for, and a new record.

    Raises:
        UserError: the other run has no policy, or another fingerprint.
    """
    if config.training.init_from is not None:
        source = RunFolder(Path(config.training.init_from))
        agent.load_weights(_weights_of(source, config))
        policy = f"the best policy of {source.path} (return {source.best_so_far()['return_test_det']:.1f})"
        _tell(console, f"begins with {policy}, an empty replay and fresh optimisers", "green")
    if aside := folder.put_records_aside():
        _tell(console, f"the records of an earlier run were moved to {aside}", "yellow")
    folder.note_start(0, [])


def _weights_of(source: RunFolder, config: Config) -> dict[str, Any]:
    key = f"training.init_from = {source.path}"
    if not source.best_actor.is_file():
        raise UserError(
            f"{key}: there is no run with a best policy ({source.best_actor} is missing). Name a folder below runs/."
        )
    ways_out = "Set these keys as that run had them, or leave training.init_from out."
    refuse_other(key, source.best_fingerprint(), fingerprint(config), ways_out)
    return load_weights(source.best_model)


def _tell(console: Console, text: str, style: str) -> None:
    console.print(text, style=style, markup=False, soft_wrap=True)
