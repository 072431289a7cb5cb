"""Messages of the workers that wait on the server until the trainer asks for them."""

from collections import deque
from collections.abc import Hashable, Iterator

_OVERHEAD = 300  # bytes that a short message takes beyond its own


class Mailbox:
    """One queue for each sender, with a limit for all of them.

    When it is full, the newest messages of the sender that takes the most are dropped, so that one sender cannot push
    out the others. A worker sends what the trainer has not confirmed again, in order, so nothing is lost.

    Args:
        limit: Bytes of all messages; a single larger one is kept nevertheless.
        max_senders: Most senders, those that have left included; the oldest is forgotten first.

    Attributes:
        size: Bytes that wait.
    """

    def __init__(self, limit: int, max_senders: int):
        self._limit, self._max_senders = limit, max_senders
        self._queues: dict[Hashable, deque[bytes]] = {}
        self._sizes: dict[Hashable, int] = {}
        self.size = 0

    def put(self, sender: Hashable, message: bytes) -> int:
        """Add a message; return how many were dropped for it, possibly itself."""
        dropped = 0
        if sender not in self._queues:
            if len(self._queues) == self._max_senders:
                dropped += self._forget(next(iter(self._queues)))
            self._queues[sender], self._sizes[sender] = deque(), 0
        self._queues[sender].append(message)
        self._add_size(sender, len(message) + _OVERHEAD)
        while self.size > self._limit and (len(self._queues) > 1 or len(self._queues[sender]) > 1):
            largest = max(self._sizes, key=self._sizes.__getitem__)
            self._remove(largest, self._queues[largest].pop())
            dropped += 1
        return dropped

    def take(self, max_bytes: int, max_messages: int) -> Iterator[bytes]:
        """Yield and remove messages, one of each sender in turn, the oldest first, until a limit is reached."""
        taken = 0
        for _ in range(max_messages):
            if taken >= max_bytes or not self._queues:
                return
            sender, queue = next(iter(self._queues.items()))
            message = queue.popleft()
            self._queues[sender] = self._queues.pop(sender)  # its turn comes again after all others
            self._remove(sender, message)
            taken += len(message)
            yield message

    def _add_size(self, sender: Hashable, size: int) -> None:
        self._sizes[sender] += size
        self.size += size

    def _remove(self, sender: Hashable, message: bytes) -> None:
        self._add_size(sender, -len(message) - _OVERHEAD)
        if not self._queues[sender]:
            del self._queues[sender], self._sizes[sender]

    def _forget(self, sender: Hashable) -> int:
        self.size -= self._sizes.pop(sender)
        return len(self._queues.pop(sender))
