"""Studies as sweeps leave them, with trials and run folders that no training has made."""

import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from app.config.load import load
from app.config.schema import Config
from app.config.schema_commands import ValidateConfig
from app.runs.config_file import write_config
from app.sweep.report.best_config import train_command
from app.sweep.study_folder import StudyFolder
from app.sweep.study_store import END, FOLDER
from app.sweep.validation.candidates import Candidate, select_candidates
from tests.helpers.make import CONF, compose

NAME = "droq_contextual-sim"
SPACE = {
    "agent.gamma": CategoricalDistribution((0.99, 0.995, 0.999)),
    "agent.betas_critic.1": CategoricalDistribution((0.99, 0.995)),
    "agent.betas_actor.0": FloatDistribution(0.8, 0.95),
    "agent.lr_critic": FloatDistribution(1e-5, 1e-3, log=True),
    "training.max_training_steps_per_env_step": IntDistribution(2, 8),
    "norm": CategoricalDistribution(("group", "layer")),
}
PARAMS = {
    "agent.gamma": 0.999,
    "agent.betas_critic.1": 0.995,
    "agent.betas_actor.0": 0.8123456789,
    "agent.lr_critic": 3.3e-05,
    "training.max_training_steps_per_env_step": 5,
}
TRIAL_OVERRIDES = {"health.on_collapse": "stop", "logger": "quiet", "seed": "7", "device": "cpu", "threads": "1"}


def make_study(*trials: FrozenTrial, direction: str = "maximize") -> optuna.Study:
    study = optuna.create_study(study_name=NAME, direction=direction)
    study.add_trials(trials)
    return study


def make_trial(score: float | None, params: dict[str, Any] | None = None, **attributes: Any) -> FrozenTrial:
    """A finished trial; one without a score failed. Attributes are given by the last part of their name."""
    params = dict(PARAMS) if params is None else params
    fixed = attributes.pop("fixed", {})
    state = attributes.pop("state", TrialState.FAIL if score is None else TrialState.COMPLETE)
    own = {f"trial.{name}": value for name, value in attributes.items()}
    return create_trial(
        state=state,
        value=score,
        params=params,
        distributions={name: SPACE[name] for name in params},
        user_attrs={**({END: "finished"} if score is not None else {}), **fixed, **own},
        intermediate_values={} if score is None else {1: score / 2, 2: score},
    )


def make_trials(number: int) -> list[FrozenTrial]:
    """Trials with other values each, the last one the best."""
    params = [{"agent.gamma": (0.99, 0.995, 0.999)[i % 3], "agent.lr_critic": 1e-5 * (i + 1)} for i in range(number)]
    return [make_trial(float(i), values, folder=f"{i:05d}") for i, values in enumerate(params)]


def write_trial_config(folder: StudyFolder, name: str, *overrides: str) -> Config:
    """Write the configuration that a trial with these overrides has in its run folder."""
    config = replace(compose(*overrides), run_name=name, runs_dir=str(folder.trials))
    write_config(folder.trials / name / "config.yaml", config)
    return config


def as_overrides(values: dict[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def compose_best(folder: StudyFolder, *overrides: str) -> Config:
    """Compose the configuration of the printed command."""
    _, _, _, config_dir, option = shlex.split(train_command(folder))
    with initialize_config_dir(str(CONF)):
        return load(hydra_compose("config", [f"hydra.searchpath=[file://{config_dir}]", option, *overrides]))


def learned_settings(config: Config) -> dict[str, Any]:
    """The configuration without what only trials need."""
    values = asdict(config)
    for key in ("seed", "device", "threads", "run_name", "runs_dir", "sweeps_dir", "logger", "restart", "pruner"):
        values.pop(key, None)
    values["health"].pop("on_collapse")
    values["replay"].pop("keep_after_trial")
    return values


def validate_config(sweeps_dir: Path, **changes: Any) -> ValidateConfig:
    """The configuration of a validation of the study ``mine``."""
    values = {
        "study": "mine", "sweeps_dir": str(sweeps_dir), "storage": None, "top_k": 2, "seeds": (100, 101),
        "epochs": None, "jobs": 1, "bootstrap": 1000, "confidence": 0.95, "device": "cpu",
        "env_module": None,
    }  # fmt: skip
    return ValidateConfig(**values | changes)


class StudyForValidation:
    """The study ``mine`` as a sweep leaves it, without the results of its runs.

    Args:
        sweeps_dir: Folder of all studies.
        default: Configuration from before the search.
        direction: Direction of the objective.
    """

    def __init__(self, sweeps_dir: Path, default: Config, direction: str = "maximize"):
        self.path, self.default = sweeps_dir / "mine", default
        write_config(self.path / "config.yaml", default)
        self.study = optuna.create_study(study_name="mine", direction=direction)

    def add(self, score: float | None, gamma: float, config: Config | None = None, **attributes: Any) -> int:
        """Add a trial with a configuration of its own and return its number; without a score it has failed."""
        number, default = len(self.study.get_trials(deepcopy=False)), self.default
        name = f"{number:05d}"
        own = config or replace(default, agent=replace(default.agent, gamma=gamma))
        own = replace(own, run_name=name, runs_dir=str(self.path / "trials"))
        own = replace(own, replay=replace(own.replay, keep_after_trial=False))
        own = replace(own, health=replace(own.health, on_collapse="stop"))
        write_config(self.path / "trials" / name / "config.yaml", own)
        trial = create_trial(
            state=TrialState.FAIL if score is None else TrialState.COMPLETE,
            value=score,
            params={"agent.gamma": gamma},
            distributions={"agent.gamma": FloatDistribution(0, 1)},
            user_attrs={FOLDER: name, END: "finished", **attributes},
        )
        self.study.add_trial(trial)
        return number

    def select(self, **changes: Any) -> tuple[list[Candidate], list[str]]:
        folder = StudyFolder(self.path.parent, "mine")
        return select_candidates(folder, self.study, validate_config(self.path.parent, **changes))

    def store(self) -> None:
        """Write the study into its folder, where a command finds it."""
        self.study.set_user_attr("trackmania_droq.fingerprint", {})
        url = f"sqlite:///{self.path}/study.db"
        optuna.copy_study(from_study_name="mine", from_storage=self.study._storage, to_storage=url)
