"""The trainer's book: which workers there are, what has come from each, and what each may do next."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class _Account:
    """One worker's page.

    Attributes:
        received: number of the last episode that has arrived; all before it have, too.
        durable: number of the last episode that a checkpoint holds.
        heard: time of the last word, s; None: not since this start.
        version: of the actor that it has.
    """

    received: int = 0
    durable: int = 0
    heard: float | None = None
    version: int = 0


class Ledger:
    """Keeps one account per worker, by the worker's name.

    Args:
        patience: seconds without a word after which a worker counts as gone.
    """

    def __init__(self, patience: float):
        self._patience = patience
        self._accounts: dict[str, _Account] = {}

    def hear(self, worker: str, version: int, first: int, now: float) -> int:
        """Note that a worker has said something.

        Args:
            worker: who.
            version: of the actor that it has.
            first: number of the oldest episode that it can still send.
            now: s.

        Returns:
            How many episodes are lost: an earlier trainer held them, and this one begins from before.
        """
        known = worker in self._accounts
        account = self._accounts.setdefault(worker, _Account())
        account.heard, account.version = now, version
        lost = max(0, first - 1 - account.received)
        account.received += lost
        return lost if known else 0

    def take(self, worker: str, number: int) -> bool:
        """Enter an episode; returns False if it is not the next one: it came before, or one in between is missing."""
        account = self._accounts[worker]
        if number != account.received + 1:
            return False
        account.received = number
        return True

    def alive(self, now: float) -> list[str]:
        """Return the workers that have said something lately."""
        accounts = self._accounts.items()
        return [worker for worker, one in accounts if one.heard is not None and now - one.heard <= self._patience]

    def have(self, version: int, now: float) -> list[str]:
        """Return the living workers that have this version of the actor; 0: none of this session yet."""
        return [worker for worker in self.alive(now) if self._accounts[worker].version == version]

    def received(self) -> dict[str, int]:
        """Return per worker the number of the last episode that has arrived."""
        return {worker: account.received for worker, account in self._accounts.items()}

    def durable(self) -> dict[str, int]:
        """Return per worker the number of the last episode that a checkpoint holds."""
        return {worker: account.durable for worker, account in self._accounts.items()}

    def credit(self, wanted: int, now: float) -> int:
        """Return how many of the wanted steps each living worker is to bring."""
        return math.ceil(max(0, wanted) / max(1, len(self.alive(now))))

    def saved(self, received: Mapping[str, int]) -> None:
        """Note that a checkpoint holds all episodes up to these numbers."""
        for worker, number in received.items():
            self._accounts[worker].durable = number

    def load(self, received: Mapping[str, int]) -> None:
        """Go on from what ``received`` returned when a checkpoint was made."""
        self._accounts = {worker: _Account(received=number, durable=number) for worker, number in received.items()}


def shares(wanted: int, done: Mapping[str, int], alive: list[str]) -> dict[str, int]:
    """Share out episodes.

    Args:
        wanted: episodes in all.
        done: how many each worker has brought.
        alive: who can bring more.

    Returns:
        How many each living worker should bring in all; the first ones take what cannot be shared evenly.
    """
    left = max(0, wanted - sum(done.values()))
    even, odd = divmod(left, max(1, len(alive)))
    return {worker: done.get(worker, 0) + even + (place < odd) for place, worker in enumerate(alive)}
