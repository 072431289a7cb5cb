"""The trainer's records of its workers: which are connected, what has arrived from each, and how far each may go on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_MAX_ACCOUNTS = 5_000  # of workers, those that have left included


@dataclass
class _Account:
    """Records of one worker.

    Attributes:
        received: Number of the last episode that has arrived; all episodes before it have arrived, too.
        saved: Number of the last episode that a checkpoint contains.
        last_message: Time of its last message in s; None if there was none in this session.
        actor_version: Version of the actor that it has.
    """

    received: int = 0
    saved: int = 0
    last_message: float | None = None
    actor_version: int = 0


class FlowControl:
    """One account for each worker, by the worker's name. Times are in s, from any clock.

    Args:
        timeout: Time without a message after which a worker counts as disconnected, in s.
        max_workers: Most workers that are connected at once.
    """

    def __init__(self, timeout: float, max_workers: int):
        self._timeout, self._max_workers = timeout, max_workers
        self._accounts: dict[str, _Account] = {}

    def admit(self, worker: str, now: float) -> bool:
        """Return whether there is room for a worker: it is connected, or too few others are.

        Workers that have left without an episode that counts are forgotten when there are too many.
        """
        account = self._accounts.get(worker)
        if account is not None and self._is_connected(account, now):
            return True
        if len(self.connected(now)) >= self._max_workers:
            return False
        if account is None and len(self._accounts) >= _MAX_ACCOUNTS:
            accounts = self._accounts.items()
            idle = [name for name, one in accounts if one.received == one.saved and not self._is_connected(one, now)]
            if not idle:
                return False
            del self._accounts[min(idle, key=lambda name: self._accounts[name].received > 0)]
        return True

    def register(self, worker: str, actor_version: int, oldest_kept: int, now: float) -> int:
        """Record that a worker has sent a message.

        Args:
            worker: Name of the worker.
            actor_version: Version of the actor that it has.
            oldest_kept: Number of the oldest episode that it can still send.
            now: Current time.

        Returns:
            Number of episodes that are lost: an earlier start of the trainer has received them, and this one continues
            from a checkpoint that does not contain them.
        """
        known = worker in self._accounts
        account = self._accounts.setdefault(worker, _Account())
        account.last_message, account.actor_version = now, actor_version
        lost = max(0, oldest_kept - 1 - account.received)
        account.received += lost
        return lost if known else 0

    def accept_episode(self, worker: str, number: int) -> bool:
        """Record an episode; False if it is not the next one: it arrived before, or another one is missing."""
        account = self._accounts[worker]
        if number != account.received + 1:
            return False
        account.received = number
        return True

    def connected(self, now: float) -> list[str]:
        """Return the workers whose last message is more recent than the timeout."""
        return [worker for worker, account in self._accounts.items() if self._is_connected(account, now)]

    def with_actor(self, version: int, now: float) -> list[str]:
        """Return the connected workers that have this version of the actor; 0 means none of this session."""
        return [worker for worker in self.connected(now) if self._accounts[worker].actor_version == version]

    def received(self) -> dict[str, int]:
        """Return, for each worker, the number of the last episode that has arrived."""
        return {worker: account.received for worker, account in self._accounts.items()}

    def saved(self) -> dict[str, int]:
        """Return, for each worker, the number of the last episode that a checkpoint contains."""
        return {worker: account.saved for worker, account in self._accounts.items()}

    def steps_per_worker(self, wanted: int, now: float) -> int:
        """Return how many of the wanted steps each connected worker should collect."""
        return math.ceil(max(0, wanted) / max(1, len(self.connected(now))))

    def mark_saved(self, received: Mapping[str, int]) -> None:
        """Record that a checkpoint contains all episodes up to these numbers."""
        for worker, number in received.items():
            self._accounts[worker].saved = number

    def load(self, received: Mapping[str, int]) -> None:
        """Continue from what ``received`` returned when a checkpoint was made."""
        self._accounts = {worker: _Account(received=number, saved=number) for worker, number in received.items()}

    def _is_connected(self, account: _Account, now: float) -> bool:
        return account.last_message is not None and now - account.last_message <= self._timeout


def distribute_episodes(
    wanted: int, assigned: Mapping[str, int], done: Mapping[str, int], workers: Sequence[str]
) -> dict[str, int]:
    """Assign episodes to workers as evenly as possible, once: a fast worker takes none from a slow one.

    Otherwise the episodes that end first would be the ones that count, and the long ones would be missing. Only the
    episodes that disconnected workers have not finished are assigned again.

    Args:
        wanted: Number of episodes in total.
        assigned: Number of episodes that each worker was assigned before, disconnected ones included.
        done: Number of episodes that each worker has finished, disconnected ones included.
        workers: Workers that can drive more; the first ones take what cannot be distributed evenly.

    Returns:
        Number of episodes that each worker is assigned in total.
    """
    under_way = sum(max(0, assigned.get(worker, 0) - done.get(worker, 0)) for worker in workers)
    missing = max(0, wanted - sum(done.values()) - under_way) if workers else 0
    share, remainder = divmod(missing, max(1, len(workers)))
    more = {worker: share + (index < remainder) for index, worker in enumerate(workers)}
    return {worker: assigned.get(worker, 0) + more.get(worker, 0) for worker in {**assigned, **more}}
