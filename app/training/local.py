"""The in-process transport: a standalone tmrl worker behind the two methods that the training loop calls."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from app.config.schema import Config
from app.envs.factory import make_env
from app.envs.spec import ObservationSpec
from app.models.actor import DrivingActor
from app.replay.compress import SampleCompressor
from app.tmrl_api import Buffer, RolloutWorker
from app.training.tensors import as_arrays, as_tensors

AT_ONCE = 20  # steps a call


def make_worker(config: Config, spec: ObservationSpec, run: Path) -> RolloutWorker:
    """Make a standalone worker on the training tracks; the actor it builds is replaced by ``broadcast_model``.

    Args:
        config: of the run.
        spec: the observation.
        run: folder of the run; a standalone worker writes nothing there.
    """
    return RolloutWorker(
        env_cls=partial(make_env, config.env, config.env.train_tracks, config.seed),
        actor_module_cls=partial(DrivingActor, config=config, spec=spec),
        sample_compressor=SampleCompressor(spec),
        model_path=str(run / "weights" / "worker.tmod"),
        standalone=True,
    )


class LocalInterface:
    """Steps a worker in this process exactly as often as the loop asks for.

    Args:
        worker: a standalone worker; its episode goes on from call to call.
        missing_env_steps: how many environment steps the loop needs now.
    """

    def __init__(self, worker: RolloutWorker, missing_env_steps: Callable[[], int]):
        self.worker, self.missing_env_steps = worker, missing_env_steps
        self._obs = None  # None: the next step begins an episode
        self._return, self._length = 0.0, 0

    def retrieve_buffer(self) -> Buffer:
        """Collect missing steps, a few at most so that a person sees them arrive; reset rows are included."""
        worker = self.worker
        for _ in range(min(self.missing_env_steps(), AT_ONCE)):
            self._step()
        buffer, worker.buffer = worker.buffer, Buffer()
        worker.buffer.stat_train_return = buffer.stat_train_return
        worker.buffer.stat_train_steps = buffer.stat_train_steps
        return buffer

    def broadcast_model(self, actor: DrivingActor) -> None:
        """Let the worker drive with this actor."""
        self.worker.actor = actor

    def resume(self, make_actor: Callable[[], DrivingActor]) -> None:
        """The actor that drives is part of the state."""

    def idle(self) -> None:
        """Nobody waits for an answer."""

    def begin_episode(self) -> None:
        """Let the next step begin a new episode."""
        self._obs = None

    def saved(self) -> None:
        """Nobody keeps what a checkpoint holds."""

    def close(self, finished: bool) -> None:
        """Close the environment."""
        self.worker.env.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the running episode, the environment and the actor that drives: tensors and plain numbers."""
        buffer = self.worker.buffer
        return {
            "actor": self.worker.actor.state_dict(),
            "env": as_tensors(self.worker.env.get_state()),
            "obs": as_tensors(self._obs),
            "return": self._return,
            "length": self._length,
            "finished": [buffer.stat_train_return, buffer.stat_train_steps],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Go on from what ``state_dict`` returned.

        Returns:
            Whether the episode goes on where it was. If not, because the task does not repeat itself or the steps came
            over the network, a new one begins.
        """
        worker = self.worker
        if "env" not in state:  # another kind of interface left it
            return False
        worker.actor.load_state_dict(state["actor"])
        worker.buffer.stat_train_return, worker.buffer.stat_train_steps = state["finished"]
        self._return, self._length = state["return"], state["length"]
        self._obs = as_arrays(state["obs"])
        seen = worker.env.set_state(as_arrays(state["env"]))
        if self._obs is None or _equal(self._obs, seen):
            return True
        self.begin_episode()
        return False

    def _step(self) -> None:
        worker = self.worker
        if self._obs is None:
            self._obs, _ = worker.reset(collect_samples=True)
            self._return, self._length = 0.0, 0
        self._obs, reward, terminated, truncated, _ = worker.step(self._obs, test=False, collect_samples=True)
        self._return += reward
        self._length += 1
        if terminated or truncated:
            self._obs = None
            worker.buffer.stat_train_return, worker.buffer.stat_train_steps = self._return, self._length


def _equal(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray] | None) -> bool:
    return other is not None and all(np.array_equal(one[name], other[name]) for name in one)
