"""Ghost: a lap of a run's best policy, driven beforehand and shown alongside."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from app.config.schema_env import SimConfig
from app.core.errors import UserError
from app.envs.driving.sim_env import SimEnv
from app.envs.spec import make_car_spec
from app.evaluation.episodes import Start, run_episodes
from app.runs.fingerprint import FlatDict, flatten, require_same_fingerprint
from app.runs.run_folder import RunFolder


@dataclass(frozen=True)
class Ghost:
    """States of a car at the beginning of every time step of an episode, and at its end.

    Attributes:
        poses: ``(n, 3)`` float64: x and y in m, heading in rad.
        shares: ``(n,)`` float64, covered share of the lap; never falls.
        step_s: Duration of a time step in seconds.
    """

    poses: np.ndarray
    shares: np.ndarray
    step_s: float

    def pose(self, step: int) -> tuple[float, float, float]:
        """Return the pose after so many steps; it stays where the episode has ended."""
        x, y, heading = self.poses[min(step, len(self.poses) - 1)].tolist()
        return x, y, heading

    def gap(self, step: int, share: float) -> float | None:
        """Return the seconds that a car is behind the ghost.

        Args:
            step: Number of steps that the car has driven.
            share: Share of the lap that it has covered.

        Returns:
            Negative if it is ahead; None before the first step, and where the ghost has never been.
        """
        if step == 0 or share > self.shares[-1]:
            return None
        return (step - float(np.interp(share, self.shares, np.arange(len(self.shares))))) * self.step_s


class GhostDriver:
    """Drives laps of a run's best policy.

    Args:
        run: Folder of the run.
        config: The environment of the game, which must have the run's car, tracks and time step.
        threads: CPU threads; 0: one.

    Raises:
        UserError: The folder holds no such policy, or it drives another car.
    """

    def __init__(self, run: str, config: SimConfig, threads: int) -> None:
        # Imported here: without a ghost the game needs no torch.
        from app.models.actor import DrivingActor
        from app.training.setup import prepare_process

        folder = RunFolder(Path(run))
        if not folder.best_actor.is_file():
            raise UserError(
                f"ghost = {run}: there is no run with a best policy ({folder.best_actor} is missing). Name a folder "
                "below runs/."
            )
        recorded = folder.best_config()
        _require_same_physics(run, recorded.env, config)
        self._config: SimConfig = recorded.env
        device = prepare_process("cpu", threads, recorded.seed)
        spec = make_car_spec(self._config)
        self._actor = DrivingActor(spec.observation_space(), spec.action_space(), recorded, spec, device)
        folder.load_best(self._actor)

    def drive(self, start: Start) -> Ghost:
        """Drive an episode from a start."""
        from app.evaluation.evaluator import policy_of

        env, poses, shares = SimEnv(self._config, [start.track], seed=0), [], []

        def note() -> None:
            poses.append((env.car.x, env.car.y, env.car.heading))
            shares.append(env.lap_share)

        run_episodes([env], [start], policy_of(self._actor, [True]), note)
        note()
        return Ghost(np.array(poses), np.maximum.accumulate(shares), self._config.step_s)


def physics(config: SimConfig) -> FlatDict:
    """Return the settings of an environment that lap times depend on, by dotted key."""
    values = asdict(config)
    return flatten({"env": {key: values[key] for key in ("car", "track", "step_s", "substeps")}})


def _require_same_physics(run: str, recorded: object, config: SimConfig) -> None:
    key = f"ghost = {run}"
    if not isinstance(recorded, SimConfig):
        raise UserError(f"{key}: was trained on another task than the built-in simulator. Name a run of it.")
    require_same_fingerprint(key, physics(recorded), physics(config), "Set these keys as the run had them.")
