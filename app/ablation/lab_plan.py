"""Plan of a lab: every arm on every seed with its configuration, and the check of what exists against it."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from app.ablation.arms import Arm, arms_of, select_arms
from app.ablation.lab_runs import LabFolder, LabRun
from app.config.faults import faults_of
from app.config.key_effects import EPOCHS, can_change_learning
from app.config.load import ConfigError, load
from app.config.multirun import without_hydra
from app.config.rules import require_unique
from app.config.schema import Config
from app.config.schema_lab import LabConfig
from app.core.errors import UserError
from app.runs.config_file import read_config
from app.runs.fingerprint import FlatDict, differences, flatten

_LAB_KEYS = ("lab", "labs_dir", "arms", "seeds", "seed", "run_name")
# Beginnings of keys that cannot change what is learned, and do change what the evidence says about it.
_NOT_COMPARED = (EPOCHS, "training.eval_episodes_other")  # more epochs continue a run; no score is of the other policy
_JUDGEMENT = ("training.eval_", "env.eval_tracks", "env.return_range", "health.collapse.")


@dataclass(frozen=True)
class PlannedRun:
    """One run as the lab asks for it.

    Attributes:
        run: The run.
        config: Its whole configuration.
        overrides: The overrides that make the configuration.
    """

    run: LabRun
    config: Config
    overrides: tuple[str, ...]

    @property
    def train_overrides(self) -> tuple[str, ...]:
        """Overrides that make the same run with ``app/train.py``, under its own name and on any seed."""
        keys = [(text, text.partition("=")[0]) for text in self.overrides]
        return tuple(text for text, key in keys if key not in _LAB_KEYS and not key.startswith("lab."))

    def with_epochs(self, epochs: int) -> "PlannedRun":
        """Return the same run with another number of epochs."""
        return replace(self, run=replace(self.run, epochs=epochs))


@dataclass(frozen=True)
class LabPlan:
    """All runs of a lab.

    Attributes:
        arms: Arms of the lab.
        runs: Every run that exists or is to be done, by arm and seed.
        chosen: The runs that this command asks for, seed by seed, so that arms can be compared early.
    """

    arms: tuple[Arm, ...]
    runs: tuple[PlannedRun, ...]
    chosen: tuple[PlannedRun, ...]


def make_plan(lab: LabConfig, folder: LabFolder, composer: "ArmComposer") -> LabPlan:
    """Plan the runs of a lab.

    Args:
        lab: The lab.
        folder: Its folder.
        composer: Composes the configuration of an arm.

    Raises:
        UserError: An arm or a seed cannot be chosen, or an arm is not valid.
    """
    arms = arms_of(lab)
    chosen_arms = {arm.name for arm in select_arms(arms, lab.arms)}
    chosen_seeds = lab.lab.seeds if lab.seeds is None else lab.seeds
    require_unique("lab.seeds", lab.lab.seeds)
    require_unique("seeds", chosen_seeds)
    seeds = sorted({*lab.lab.seeds, *chosen_seeds, *folder.recorded_seeds(lab.lab.arms)})
    runs = []
    for arm in arms:
        found = composer.runs_of(arm, seeds, folder)
        runs += [
            planned if planned.run.seed in chosen_seeds and arm.name in chosen_arms else planned.with_epochs(arm.epochs)
            for planned in found
        ]
    _require_different_arms(arms, runs)
    chosen = [
        planned
        for seed in chosen_seeds
        for planned in runs
        if planned.run.seed == seed and planned.run.arm in chosen_arms
    ]
    return LabPlan(arms, tuple(runs), tuple(chosen))


def _require_different_arms(arms: Sequence[Arm], runs: Sequence[PlannedRun]) -> None:
    """Raise if the command line has made two arms the same, or has broken a fault in the arm that has all fixed."""
    configs = {planned.run.arm: replace(planned.config, seed=0, run_name="run") for planned in runs}
    for one, other in itertools.combinations((arm.name for arm in arms if arm.name in configs), 2):
        if not changed_settings(configs[one], configs[other]):
            raise UserError(
                f"arms = [{one},{other}]: have the same settings under these overrides, so comparing them says "
                "nothing. Leave out the override of what they differ in."
            )
    broken = [state for state in faults_of(configs["fixed"]) if state.fixed is False] if "fixed" in configs else []
    for state in broken:
        shown = " ".join(f"{key}={value}" for key, value in state.settings.items())
        raise UserError(f"{shown}: breaks fault {state.fault.number} in the arm fixed. Leave it out.")


class ArmComposer:
    """Composes the configurations of arms as the jobs of a launcher will.

    Args:
        loader: Hydra's loader of configurations.
        cfg: The configuration of the command, with the node ``hydra``.
        lab: The same, typed.
        arguments: Overrides of the command line, which apply to every run.
    """

    def __init__(self, loader: ConfigLoader, cfg: DictConfig, lab: LabConfig, arguments: Sequence[str]):
        self._loader, self._cfg, self._lab, self._arguments = loader, cfg, lab, arguments

    def runs_of(self, arm: Arm, seeds: Sequence[int], folder: LabFolder) -> list[PlannedRun]:
        """Return the runs of an arm.

        Raises:
            UserError: Its configuration is not valid.
        """
        overrides = self._overrides(arm)
        config = self._compose(arm, overrides)
        found = []
        for seed in seeds:
            run = LabRun(arm.name, seed, config.env.name, config.training.epochs, str(folder.runs))
            own = replace(config, seed=seed, run_name=run.name)
            found.append(PlannedRun(run, own, (*overrides, f"seed={seed}", f"run_name={run.name}")))
        return found

    def _overrides(self, arm: Arm) -> tuple[str, ...]:
        """Return the overrides of an arm: of the lab, of the command line, and its own, of which the last one wins."""
        shared = self._lab.lab.overrides
        given = any(argument.partition("=")[0] == EPOCHS for argument in self._arguments)
        epochs = () if given else (f"{EPOCHS}={arm.epochs}",)
        return (*shared, *self._arguments, *epochs, *arm.overrides[len(shared) :])

    def _compose(self, arm: Arm, overrides: Sequence[str]) -> Config:
        cfg = self._loader.load_sweep_config(self._cfg, list(overrides))
        try:
            return load(without_hydra(cfg), LabConfig).run_config()
        except ConfigError as error:
            raise ConfigError([f"lab.arms.{arm.name}: {problem}" for problem in error.problems]) from None


def require_same_settings(runs: Sequence[PlannedRun]) -> None:
    """Refuse to continue a lab with runs that were made under other settings than it asks for.

    Raises:
        UserError: With the first such run and its differences.
    """
    for planned in runs:
        path = planned.run.folder.config
        if not path.is_file():
            continue
        if found := changed_settings(read_config(path), planned.config):
            raise UserError(
                f"{path.parent}: was made under other settings than the lab asks for (recorded → asked: "
                f"{'; '.join(found)}); set them as they were, or give this lab a name of its own with lab.name=..."
            )


def changed_settings(recorded: Config, asked: Config) -> list[str]:
    """Return the differences between two configurations of a run that make their results incomparable."""
    return differences(_compared(recorded), _compared(asked))


def _compared(config: Config) -> FlatDict:
    flat = flatten(asdict(config))
    return {
        key: value
        for key, value in flat.items()
        if key not in _NOT_COMPARED and (can_change_learning(key) or key.startswith(_JUDGEMENT))
    }
