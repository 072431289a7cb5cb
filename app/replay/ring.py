"""A ring of rows: which of them count, which a checkpoint counts on, and whether they are still what they were."""

import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from app.replay.segments import Checksums, Segments, first_damaged, first_row, gap
from app.replay.storage import Storage

UNLIMITED = sys.maxsize
BLOCKS_OF_SLACK = 8  # segments that fill the slack: the fewer, the more of it is lost to rounding


class Ring:
    """The arrays of a stream of rows; row ``i`` of the stream lies at position ``i % rows`` of each.

    The newest ``capacity`` rows count. Those that a checkpoint counts on stay in place while the rows that came
    after it go into the slack: a run that is killed goes on from its checkpoint, and from the one before it, also
    when the ring has wrapped. Hence the number of rows that can be appended between checkpoints has a limit,
    ``room``.

    Attributes:
        arrays: The arrays by name.
        rows: Number of rows of the arrays: capacity and slack.
        appended: Number of rows ever appended.
        size: Number of rows that count, the newest ones.
    """

    def __init__(
        self, kinds: Mapping[str, tuple[tuple[int, ...], np.dtype]], storage: Storage, capacity: int, slack: int
    ) -> None:
        """Make or open the arrays.

        Args:
            kinds: Shape, of capacity + slack rows, and dtype of every array.
            storage: Where they lie.
            capacity: Number of rows that count at most.
            slack: Number of rows beyond.
        """
        self.arrays = {name: storage.array(name, *kind) for name, kind in kinds.items()}
        self.rows, self.appended, self.size = capacity + slack, 0, 0
        self._storage, self._capacity = storage, capacity
        self._segments = Segments(max(1, (slack or capacity) // BLOCKS_OF_SLACK))
        self._durable = 0  # rows before this one are flushed
        self._needed: int | None = None  # the oldest row that must stay

    @property
    def head(self) -> int:
        """Position of the next row."""
        return self.appended % self.rows

    @property
    def oldest(self) -> int:
        """The oldest row that counts."""
        return self.appended - self.size

    @property
    def room(self) -> int:
        """Rows that can be appended before one is overwritten that a protected checkpoint counts on."""
        return UNLIMITED if self._needed is None else max(0, self._needed + self.rows - self.appended)

    def append(self, values: Mapping[str, np.ndarray]) -> None:
        """Append rows.

        Args:
            values: The rows of every array, equally many.

        Raises:
            ValueError: If they are more than ``room``.
            UserError: If the storage cannot take them. Nothing is appended then.
        """
        count = len(next(iter(values.values())))
        if count > self.room:
            raise ValueError(
                f"{count} rows cannot be appended: a checkpoint counts on all but {self.room} rows of the replay. "
                f"Save a checkpoint first, and append no more than its room at once"
            )
        self._storage.reserve(min(self.appended + count, self.rows))
        # More rows than the ring holds name a position twice; the last assignment holds.
        where = (self.head + np.arange(count)) % self.rows
        for name, array in self.arrays.items():
            array[where] = values[name]
        self.appended += count
        self.size = min(self.size + count, self._capacity)

    def protect(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Keep the rows that some states count on, and no others; without any, nothing is kept."""
        needed = [first_row(state["segments"], default=state["appended"]) for state in states]
        self._needed = min(needed, default=None)

    def seal(self) -> None:
        """Make all rows durable and remember their checksums."""
        readable = self.appended - self.rows
        for first, count in self._spans(max(self._durable, readable), self.appended):
            self._storage.flush(first, count)
        self._durable = self.appended
        self._segments.cover(self.oldest, self.appended, readable, self._checksum)

    def state(self) -> dict[str, Any]:
        """Seal, and return all that is not in the arrays as plain numbers, lists and dicts."""
        self.seal()
        return {"appended": self.appended, "size": self.size, "segments": self._segments.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state`` returned; the arrays must hold what they held then.

        Raises:
            ValueError: If the state is not of a ring of this capacity.
        """
        if misfit := self._misfit(state):
            raise ValueError(misfit)
        self.appended, self.size = state["appended"], state["size"]
        self._segments.load(state["segments"])
        self._durable = self.appended

    def verify(self, state: Mapping[str, Any]) -> str:
        """Read all rows that a state counts on; return "" or a sentence about the first that is damaged."""
        if misfit := self._misfit(state):
            return f"{misfit}."
        if state["size"] == 0:
            return ""
        if trouble := self._storage.damage():
            return trouble
        if gap(state["segments"], state["appended"] - state["size"], state["appended"]):
            return f"not all of its {state['size']:,} rows of the replay have a checksum."
        damaged = first_damaged(state["segments"], self._checksum)
        if damaged is None:
            return ""
        name, segment = damaged
        spans = " and ".join(
            f"{first:,} to {first + count - 1:,}" for first, count in self._spans(segment.begin, segment.end)
        )
        return f"{self._storage.place(name)} is damaged: the checksum of its rows {spans} does not fit."

    def _misfit(self, state: Mapping[str, Any]) -> str:
        appended, size = state["appended"], state["size"]
        if appended >= 0 and size == min(appended, self._capacity):
            return ""
        return f"{appended} rows appended and {size} held do not fit a replay of {self._capacity} rows"

    def _checksum(self, begin: int, end: int, before: Checksums) -> Checksums:
        """Go on with the checksums of every array over the rows [begin, end) of the stream."""
        crc = {name: before.get(name, 0) for name in self.arrays}
        for first, count in self._spans(begin, end):
            for name, array in self.arrays.items():
                crc[name] = zlib.crc32(array[first : first + count], crc[name])
        return crc

    def _spans(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield position and length of the adjacent parts that the rows [begin, end) of the stream lie in."""
        while begin < end:
            first = begin % self.rows
            count = min(end - begin, self.rows - first)
            yield first, count
            begin += count
