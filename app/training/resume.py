"""Starting point of a run: its checkpoints, the weights of another run, or nothing."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from app.config.schema import Config
from app.core.console import print_line
from app.core.errors import UserError, format_error
from app.core.system import environment
from app.envs.env_factory import make_spec
from app.replay.buffer import ReplayMemory
from app.replay.demonstrations import Demonstrations, read_demonstrations
from app.runs.checkpoint import Candidate, State
from app.runs.config_file import read_config
from app.runs.fingerprint import (
    changed_settings,
    fingerprint,
    flatten,
    learning_differences,
    require_same_fingerprint,
    require_same_keys,
)
from app.runs.run_folder import RunFolder
from app.training.setup import device_name

_EPOCH_LENGTH = "training.updates_per_epoch"
# Settings that a support which is computed depends on; it is part of the checkpoint.
_SUPPORT_KEYS = ("agent.gamma", "agent.alpha", "agent.alpha_min", "agent.target_entropy", "env.return_range")
_HINT = "Add +restart=clean to remove it, or choose another run_name."
_EPOCH_LENGTH_HINT = (
    "The length of an epoch cannot change while a run continues: restore the recorded value (training.epochs may "
    "grow), choose another run_name, or add +restart=clean."
)


@dataclass(frozen=True)
class Source:
    """Checkpoints and weights that a run can start from; they have been read, and nothing has been changed yet.

    Attributes:
        candidates: Checkpoints to resume from, newest first; without any, a new run starts.
        weights: Initial weights of the networks, from ``training.init_from``; None for random ones.
        weights_description: Their origin, for a message.
        demonstrations: First rows of the replay of a new run, from ``training.demonstrations``; None for none.
    """

    candidates: tuple[Candidate, ...]
    weights: Mapping[str, Tensor] | None = None
    weights_description: str = ""
    demonstrations: Demonstrations | None = None

    @property
    def newest_state(self) -> State | None:
        """State of the newest checkpoint that could be read."""
        states = [candidate.state for candidate in self.candidates if candidate.state is not None]
        return states[0] if states else None

    @property
    def threads(self) -> int | None:
        """CPU threads recorded in the newest checkpoint that could be read; None if there are none."""
        return None if self.newest_state is None else self.newest_state.get("threads")


def read_initial_source(config: Config) -> Source:
    """Read what a new run starts from: the weights and demonstrations that its configuration names, or nothing.

    Raises:
        UserError: There is nothing suitable at ``training.init_from`` or ``training.demonstrations``.
    """
    init_from = config.training.init_from
    source = Source(()) if init_from is None else _best_policy_of(RunFolder(Path(init_from)), config)
    if config.training.demonstrations is None:
        return source
    return replace(source, demonstrations=_read_demonstrations(config))


def find_source(
    config: Config, folder: RunFolder, replay_files: Sequence[Path], initial: Source | None = None
) -> Source:
    """Read what the run would start from and refuse what does not match, before anything is removed or written.

    Args:
        config: Configuration of this start.
        folder: Folder of the run.
        replay_files: Files of the replay.
        initial: Result of ``read_initial_source``, if it has been called already.

    Raises:
        UserError: Something that would stay was made under another fingerprint or epoch length, or there is nothing
            suitable at ``training.init_from`` or ``training.demonstrations``.
    """
    cleared: Collection[str] = config.restart.targets if config.restart else ()
    folder.check_fingerprints(config, replay_files, cleared)
    candidates = () if "checkpoints" in cleared else tuple(folder.checkpoints.candidates())
    for candidate in candidates:
        if candidate.state is not None:
            _check_state(config, folder, candidate.state)
    if not candidates:
        return read_initial_source(config) if initial is None else initial
    source = Source(candidates)
    if config.restart and source.newest_state is not None:
        _require_epochs_left(config, folder, source.newest_state["epochs_done"])
    for key, asked, own in (
        ("training.init_from", config.training.init_from, "networks"),
        ("training.demonstrations", config.training.demonstrations, "replay"),
    ):
        recorded = asked if source.newest_state is None else source.newest_state["config"].get(key)
        if asked is not None and asked != recorded:
            raise UserError(
                f"{key} = {asked}: {folder.path} has a checkpoint and would continue with its own {own}. Choose "
                "another run_name, or add +restart=clean."
            )
    return source


def usable_states(
    source: Source, folder: RunFolder, memory: ReplayMemory, console: Console, replay_cleared: bool
) -> list[State]:
    """Return the states of the usable checkpoints; damaged ones are reported and renamed.

    Args:
        source: The checkpoints.
        folder: Folder of the run.
        memory: The replay, which verifies the rows that a checkpoint refers to.
        console: Console for messages.
        replay_cleared: Whether the rows were removed on purpose, so that there is nothing to verify.

    Returns:
        The states, newest first; empty for a new run.

    Raises:
        UserError: There are checkpoints, and none can be used.
    """
    states, damaged, verified = [], [], replay_cleared
    for candidate in source.candidates:
        problem = candidate.problem
        if not problem and not verified and (damage := _find_damage(candidate.state, memory)):
            problem = f"{candidate.path}: cannot be used: {damage}"
        if problem:
            damaged.append((candidate.path, problem))
        else:
            states.append(candidate.state)
            verified = True  # the rows of the newest one include those of the other
    if damaged and not states:
        listed = "\n".join(problem for _, problem in damaged)
        raise UserError(
            f"{folder.path}: no checkpoint can be used.\n{listed}\nIf only the replay is damaged, '+restart=clean "
            "restart.targets=[replay]' continues with the networks and an empty replay. "
            f"Otherwise start a new run from its best policy: run_name=... training.init_from={folder.path}"
        )
    for path, problem in damaged:
        renamed = folder.checkpoints.mark_damaged(path)
        print_line(console, f"{problem} It was renamed to {renamed.name}; the other checkpoint is used.", "yellow")
    return states


def _find_damage(state: State, memory: ReplayMemory) -> str | None:
    try:
        return memory.find_damage(state["training"]["replay"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:  # made by another program, or by hand
        return f"it does not say which rows of the replay it needs ({format_error(error)})."


def report_changes(config: Config, folder: RunFolder, state: State, device: str, console: Console) -> None:
    """Print where the run resumes and which settings have changed since; record both in the folder."""
    updates = state["training"]["updates"]
    without_effect = {"training.demonstrations", *(["agent.alpha"] if config.agent.auto_alpha else [])}
    without_effect |= {"training.start_training"} if updates else set()
    notes = dict.fromkeys(without_effect, " (without effect from here on)")
    if config.value.kind == "categorical" and config.value.support is None and updates:
        notes = dict.fromkeys(_SUPPORT_KEYS, " (the support of the value stays as it was)") | notes
    changed = [
        f"{line}{notes.get(line.partition(':')[0], '')}"
        for line in changed_settings(state["config"], flatten(asdict(config.to_record())))
    ]
    print_line(console, f"Resuming {folder.path} after {updates:,} updates ({state['epochs_done']} epochs).", "green")
    for line in changed:
        print_line(console, f"changed  {line}", "yellow")
    record_start(folder, updates, changed, device, console)


def report_same_settings(config: Config, folder: RunFolder, console: Console) -> None:
    """Say if the run that lacks the settings in its name has the same ones, as one of an earlier version may."""
    name = folder.path.name.partition("__")[0]
    other = RunFolder(folder.path.with_name(name))
    if name == folder.path.name or not other.checkpoints.exist():
        return
    try:
        recorded = read_config(other.config)
    except UserError:
        return
    comparable = replace(recorded, training=replace(recorded.training, epochs=config.training.epochs))
    same_start = recorded.training.init_from == config.training.init_from
    if same_start and not learning_differences(comparable, config):
        print_line(console, f"{other.path} has the same settings; run_name={name} continues it instead.", "yellow")


def record_start(folder: RunFolder, updates: int, changed: Sequence[str], device: str, console: Console) -> None:
    """Record a start in the folder; a failure to write costs a warning only."""
    try:
        folder.append_start(updates, changed, _environment(device))
    except OSError as error:
        print_line(console, f"{folder.starts}: cannot be written ({error.strerror}). The training continues.", "yellow")


def _environment(device: str) -> dict[str, str]:
    return {"device": device_name(device), "threads": str(torch.get_num_threads()), **environment()}


def _read_demonstrations(config: Config) -> Demonstrations:
    """Return the episodes at ``training.demonstrations``, which must fit into the replay beside the warm-up."""
    path = config.training.demonstrations
    found = read_demonstrations(Path(path), config.env, make_spec(config.env))
    rows, start, capacity = len(found.resets), config.training.start_training, config.replay.capacity
    if rows + start > capacity:
        raise UserError(
            f"training.demonstrations = {path}: its {rows:,} rows and training.start_training = {start:,} are more "
            f"than replay.capacity = {capacity:,}. Use a larger replay.capacity, or fewer laps."
        )
    return found


def _require_epochs_left(config: Config, folder: RunFolder, done: int) -> None:
    """Raise if a restart that keeps the checkpoints would clear something, and then have nothing to train."""
    if config.training.epochs > done:
        return
    raise UserError(
        f"training.epochs = {config.training.epochs}: {folder.path} has done {done} epochs, so with restart.targets = "
        f"[{', '.join(config.restart.targets)}] nothing would be left to train, and nothing was removed. Raise "
        "training.epochs to go on with its networks, or leave restart.targets out to begin anew."
    )


def _best_policy_of(other: RunFolder, config: Config) -> Source:
    key = f"training.init_from = {other.path}"
    if not other.best_actor.is_file():
        raise UserError(
            f"{key}: there is no run with a best policy ({other.best_actor} is missing). Name a folder below runs/."
        )
    hint = "Set these keys as that run had them, or leave training.init_from out."
    require_same_fingerprint(key, other.best_fingerprint(), fingerprint(config), hint)
    description = f"the best policy of {other.path} (return {other.read_best_result()['return_test_det']:.1f})"
    return Source((), other.best_networks(), description)


def _check_state(config: Config, folder: RunFolder, state: State) -> None:
    """Raise unless a checkpoint was made under this run's fingerprint, keys and epoch length."""
    subject = f"a checkpoint in {folder.path}"
    recorded, current = state["config"], flatten(asdict(config.to_record()))
    require_same_fingerprint(subject, state["fingerprint"], fingerprint(config), _HINT)
    require_same_keys(subject, recorded, current, _HINT)
    lengths = ({_EPOCH_LENGTH: settings[_EPOCH_LENGTH]} for settings in (recorded, current))
    require_same_fingerprint(subject, *lengths, _EPOCH_LENGTH_HINT)
