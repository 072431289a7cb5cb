"""The in-process transport: a standalone tmrl worker behind the two methods that the training loop calls."""

from collections.abc import Callable

from app.models.actor import DrivingActor
from app.tmrl_api import Buffer, RolloutWorker

AT_ONCE = 20  # steps a call


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
