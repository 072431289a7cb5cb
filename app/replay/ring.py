"""Ring buffer of rows, with rows pinned by checkpoints and checksums that detect damage.

A checkpoint refers to the rows that were in the ring when it was saved. They stay in place until the next
checkpoints exist, because newer rows are written to the slack beyond the capacity.
"""

import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from app.replay.storage import Storage

UNLIMITED = sys.maxsize
BLOCKS_OF_SLACK = 8  # blocks of checksums in the slack: the fewer, the more of the slack is lost to rounding
_MIN_SLACK = 1024  # rows
_SLACK_SHARE = 20  # capacity per row of slack

Checksums = Mapping[str, int]  # CRC-32 by array
# Returns the checksums of the rows [begin, end), continued from those of the rows before.
ChecksumFunction = Callable[[int, int, Checksums], Checksums]


def slack_rows(capacity: int) -> int:
    """Return the number of rows that a replay in files has beyond its capacity.

    Args:
        capacity: Number of rows that can be sampled.
    """
    return max(_MIN_SLACK, capacity // _SLACK_SHARE)


def largest_capacity(rows: int) -> int:
    """Return the largest capacity that needs no more than ``rows`` rows with its slack; 0 if there is none."""
    return max(0, min(rows - _MIN_SLACK, rows * _SLACK_SHARE // (_SLACK_SHARE + 1)))


@dataclass(frozen=True)
class Segment:
    """Checksums of adjacent rows.

    Attributes:
        begin: First row, counted from the first ever appended.
        end: Row after the last.
        crc: CRC-32 of their bytes, by array.
    """

    begin: int
    end: int
    crc: Checksums

    def first_damaged_array(self, checksum: ChecksumFunction) -> str | None:
        """Read the rows again; return the name of the first array whose checksum differs, None if there is none."""
        found = checksum(self.begin, self.end, {})
        return next((name for name, crc in self.crc.items() if found.get(name) != crc), None)


class Segments:
    """Adjacent segments that cover the live rows; each lies within one block of ``length`` rows.

    Only the newest block can be incomplete. Its checksum is continued when rows are added, so that there are never
    more segments than blocks, however often a checkpoint is saved.

    Args:
        length: Rows of a block.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._segments: list[Segment] = []

    def cover(self, oldest: int, newest: int, readable: int, checksum: ChecksumFunction) -> None:
        """Cover the rows [oldest, newest) and drop the segments before them.

        Args:
            oldest: Oldest live row.
            newest: Row after the newest.
            readable: Oldest row that is not overwritten. A segment that begins before it cannot be checked any more,
                so that all rows are read again; this happens only without slack or without pinned rows.
            checksum: Reads rows.
        """
        kept = [segment for segment in self._segments if segment.end > oldest and segment.begin >= readable]
        if kept and kept[0].begin > oldest:
            kept = []
        begin = kept[-1].end if kept else oldest
        while begin < newest:
            end = min((begin // self._length + 1) * self._length, newest)
            if kept and begin % self._length:
                incomplete = kept.pop()
                kept.append(Segment(incomplete.begin, end, checksum(begin, end, incomplete.crc)))
            else:
                kept.append(Segment(begin, end, checksum(begin, end, {})))
            begin = end
        self._segments = kept

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the segments as plain dicts."""
        return [asdict(segment) for segment in self._segments]

    def load_state_dict(self, state: Iterable[Mapping[str, Any]]) -> None:
        """Restore what ``state_dict`` returned."""
        self._segments = [Segment(**saved) for saved in state]


class Ring:
    """Ring buffer: row ``i`` of the stream is at position ``i % rows`` of every array.

    The newest ``capacity`` rows are live: they can be sampled. Rows that a checkpoint needs can be pinned. They stay
    in place while newer rows are written to the slack, so that a killed run can continue from its last checkpoint
    or the one before, also when the ring has wrapped. Hence only ``free_rows`` can be appended between checkpoints.

    Args:
        kinds: Shape and dtype of every array by name; the shapes begin with capacity + slack.
        storage: Provides the arrays.
        capacity: Largest number of live rows.
        slack: Number of rows beyond the capacity.

    Attributes:
        arrays: Arrays by name.
        rows: Number of rows of every array, capacity + slack.
        appended: Number of rows ever appended.
        size: Number of live rows.
    """

    def __init__(
        self, kinds: Mapping[str, tuple[tuple[int, ...], np.dtype]], storage: Storage, capacity: int, slack: int
    ) -> None:
        self.arrays = {name: storage.array(name, *kind) for name, kind in kinds.items()}
        self.rows, self.appended, self.size = capacity + slack, 0, 0
        self._storage, self._capacity = storage, capacity
        self._segments = Segments(max(1, (slack or capacity) // BLOCKS_OF_SLACK))
        self._flushed = 0  # rows before this one are durable
        self._oldest_pinned: int | None = None

    @property
    def head(self) -> int:
        """Position of the next row."""
        return self.appended % self.rows

    @property
    def oldest(self) -> int:
        """Oldest live row."""
        return self.appended - self.size

    @property
    def free_rows(self) -> int:
        """Number of rows that can be appended before a pinned one would be overwritten."""
        if self._oldest_pinned is None:
            return UNLIMITED
        return max(0, self._oldest_pinned + self.rows - self.appended)

    def append(self, values: Mapping[str, np.ndarray]) -> None:
        """Append rows.

        Args:
            values: Rows of every array, equally many.

        Raises:
            ValueError: They are more than ``free_rows``.
            UserError: The storage cannot take them. Nothing is appended in either case.
        """
        count = len(next(iter(values.values())))
        if count > self.free_rows:
            raise ValueError(
                f"{count} rows cannot be appended: checkpoints need all but {self.free_rows} rows of the replay. "
                "Save a checkpoint first, and append no more than free_rows at once."
            )
        self._storage.reserve(min(self.appended + count, self.rows))
        # More rows than the ring has address a position twice; NumPy keeps the last assignment.
        positions = (self.head + np.arange(count)) % self.rows
        for name, array in self.arrays.items():
            array[positions] = values[name]
        self.appended += count
        self.size = min(self.size + count, self._capacity)

    def pin(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Pin the rows that some states need, and no others.

        Args:
            states: Results of ``state_dict``; none unpins all rows.
        """
        oldest = [
            min((segment["begin"] for segment in state["segments"]), default=state["appended"]) for state in states
        ]
        self._oldest_pinned = min(oldest, default=None)

    def flush(self) -> None:
        """Make all rows durable and compute the checksums of the new ones."""
        readable = self.appended - self.rows
        for first, count in self._spans(max(self._flushed, readable), self.appended):
            self._storage.flush(first, count)
        self._flushed = self.appended
        self._segments.cover(self.oldest, self.appended, readable, self._checksum)

    def state_dict(self) -> dict[str, Any]:
        """Flush, and return all that is not in the arrays, as plain numbers, lists and dicts."""
        self.flush()
        return {"appended": self.appended, "size": self.size, "segments": self._segments.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned; the arrays must contain what they contained then.

        Raises:
            ValueError: The state is of a ring of another capacity.
        """
        if not self._fits(state):
            raise ValueError(self._misfit(state))
        self.appended, self.size = state["appended"], state["size"]
        self._segments.load_state_dict(state["segments"])
        self._flushed = self.appended

    def find_damage(self, state: Mapping[str, Any]) -> str | None:
        """Read all rows that a state needs.

        Args:
            state: Result of ``state_dict``.

        Returns:
            A sentence about the first damage, or None if the state can be loaded.
        """
        if not self._fits(state):
            return self._misfit(state) + "."
        if state["size"] == 0:
            return None
        if damage := self._storage.find_damage():
            return damage
        segments = [Segment(**saved) for saved in state["segments"]]
        if not _cover(segments, state["appended"] - state["size"], state["appended"]):
            return f"not all of its {state['size']:,} rows of the replay have a checksum."
        for segment in segments:
            if name := segment.first_damaged_array(self._checksum):
                spans = " and ".join(
                    f"{first:,} to {first + count - 1:,}" for first, count in self._spans(segment.begin, segment.end)
                )
                return f"{self._storage.location(name)} is damaged: the checksum of its rows {spans} does not match."
        return None

    def _fits(self, state: Mapping[str, Any]) -> bool:
        return state["appended"] >= 0 and state["size"] == min(state["appended"], self._capacity)

    def _misfit(self, state: Mapping[str, Any]) -> str:
        return (
            f"{state['appended']} rows appended and {state['size']} held do not fit a replay of {self._capacity} rows"
        )

    def _checksum(self, begin: int, end: int, before: Checksums) -> Checksums:
        """Continue the checksums of every array over the rows [begin, end) of the stream."""
        crc = {name: before.get(name, 0) for name in self.arrays}
        for first, count in self._spans(begin, end):
            for name, array in self.arrays.items():
                crc[name] = zlib.crc32(array[first : first + count], crc[name])
        return crc

    def _spans(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield position and length of the adjacent parts of the arrays that the rows [begin, end) occupy."""
        while begin < end:
            first = begin % self.rows
            count = min(end - begin, self.rows - first)
            yield first, count
            begin += count


def _cover(segments: Iterable[Segment], oldest: int, newest: int) -> bool:
    """Tell whether segments in order cover all rows [oldest, newest)."""
    covered = oldest
    for segment in segments:
        if segment.begin <= covered:
            covered = max(covered, segment.end)
    return covered >= newest
