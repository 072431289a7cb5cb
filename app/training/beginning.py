"""How a run begins: from its checkpoint, from the weights of another run, or from nothing."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from torch import Tensor

from app.config.schema import Config
from app.errors import UserError
from app.replay.memory import ReplayMemory
from app.reporting.formatting import tell
from app.runs.checkpoint import Candidate, State
from app.runs.fingerprint import changes, fingerprint, flatten, refuse_other
from app.runs.folder import RunFolder, load_weights

_FIXED = ("training.rounds", "training.steps")  # where an epoch ends must not move while a run goes on
_WAYS_OUT = "Add +restart=clean to remove it, or choose another run_name."
_LENGTH_WAYS_OUT = (
    "An epoch cannot change its length while a run goes on: set them as they were (training.epochs may grow), choose "
    "another run_name, or add +restart=clean."
)


@dataclass(frozen=True)
class Source:
    """What a run can begin from; all of it was read and nothing was changed yet.

    Attributes:
        candidates: checkpoints to go on from, newest first; without any, the run begins anew.
        weights: of the networks to begin with, from ``training.init_from``.
        policy: the same in words.
    """

    candidates: tuple[Candidate, ...]
    weights: Mapping[str, Tensor] | None
    policy: str

    @property
    def threads(self) -> int | None:
        """CPU threads of the newest checkpoint that could be read; None if there is none, or it does not say."""
        states = [candidate.state for candidate in self.candidates if candidate.state is not None]
        return states[0].get("threads") if states else None


def find_source(config: Config, folder: RunFolder, replay_files: Sequence[Path]) -> Source:
    """Read what this run would begin from and refuse what does not fit, before anything is cleared or written.

    Args:
        config: of this start.
        folder: of the run.
        replay_files: what the replay consists of.

    Raises:
        UserError: something that would stay was made under another fingerprint or schedule, or the run that the
            weights should come from has none.
    """
    cleared: Collection[str] = config.restart.targets if config.restart else ()
    folder.refuse_other(config, replay_files, cleared)
    candidates = () if "checkpoints" in cleared else tuple(folder.checkpoints.candidates())
    states = [candidate.state for candidate in candidates if candidate.state is not None]
    for state in states:
        refuse_other(f"a checkpoint in {folder.path}", state["fingerprint"], fingerprint(config), _WAYS_OUT)
        _refuse_other_length(config, folder, state)
    if config.training.init_from is None:
        return Source(candidates, None, "")
    if not candidates:
        return _from_weights(config, RunFolder(Path(config.training.init_from)))
    if states and states[0]["config"]["training.init_from"] != config.training.init_from:
        raise UserError(
            f"training.init_from = {config.training.init_from}: {folder.path} has a checkpoint, from which it would go "
            "on with its own networks. Choose another run_name, or add +restart=clean."
        )
    return Source(candidates, None, "")


def choose(source: Source, folder: RunFolder, memory: ReplayMemory, console: Console, verified: bool) -> list[State]:
    """Choose the newest checkpoint that can be used; damaged ones are named and put aside.

    Args:
        source: what there is.
        folder: of the run.
        memory: knows whether the rows that a checkpoint counts on are still what they were.
        console: where to tell.
        verified: the rows need not be looked at, because they were cleared.

    Returns:
        The states that can be used, newest first; none if the run begins anew.

    Raises:
        UserError: there are checkpoints, and none can be used.
    """
    states, damaged = [], []
    for candidate in source.candidates:
        trouble = candidate.trouble
        if not trouble and not verified and (damage := memory.verify(candidate.state["training"]["replay"])):
            trouble = f"{candidate.path}: cannot be used: {damage}"
        if trouble:
            damaged.append((candidate.path, trouble))
        else:
            states.append(candidate.state)
            verified = True  # once is enough: it reads all rows
    if damaged and not states:
        listed = "\n".join(trouble for _, trouble in damaged)
        raise UserError(
            f"{folder.path}: no checkpoint can be used.\n{listed}\nIf only the replay is damaged, '+restart=clean "
            "restart.targets=[replay]' goes on with the networks and an empty replay. "
            f"Otherwise begin a new run from its best policy: run_name=... training.init_from={folder.path}"
        )
    for path, trouble in damaged:
        aside = folder.checkpoints.put_aside(path)
        tell(console, f"{trouble} It was put aside as {aside.name}; the other checkpoint is used.", "yellow")
    return states


def say_what_changed(config: Config, folder: RunFolder, state: State, console: Console) -> None:
    """Tell where the run goes on, and with which other settings; note both in the folder."""
    updates = state["training"]["updates"]
    idle = {"agent.alpha"} if config.agent.learn_entropy_coef else set()
    idle |= {"training.start_training"} if updates else set()
    changed = [
        f"{line} (of no effect from here on)" if line.partition(":")[0] in idle else line
        for line in changes(state["config"], flatten(asdict(config.to_keep())))
    ]
    tell(console, f"goes on after {updates:,} updates ({state['epochs_done']} epochs) of {folder.path}", "green")
    for line in changed:
        tell(console, f"changed  {line}", "yellow")
    note_start(folder, updates, changed, console)


def note_start(folder: RunFolder, updates: int, changed: Sequence[str], console: Console) -> None:
    """Note a start; it is only a record, so a failure costs a warning."""
    try:
        folder.note_start(updates, changed)
    except OSError as error:
        tell(console, f"{folder.starts}: cannot be written, training goes on ({error.strerror})", "yellow")


def _from_weights(config: Config, other: RunFolder) -> Source:
    key = f"training.init_from = {other.path}"
    if not other.best_actor.is_file():
        raise UserError(
            f"{key}: there is no run with a best policy ({other.best_actor} is missing). Name a folder below runs/."
        )
    ways_out = "Set these keys as that run had them, or leave training.init_from out."
    refuse_other(key, other.best_fingerprint(), fingerprint(config), ways_out)
    policy = f"the best policy of {other.path} (return {other.best_so_far()['return_test_det']:.1f})"
    return Source((), load_weights(other.best_model), policy)


def _refuse_other_length(config: Config, folder: RunFolder, state: State) -> None:
    before, now = state["config"], flatten(asdict(config))
    theirs, yours = ({key: flat[key] for key in _FIXED} for flat in (before, now))
    refuse_other(f"the checkpoint in {folder.path}", theirs, yours, _LENGTH_WAYS_OUT)
