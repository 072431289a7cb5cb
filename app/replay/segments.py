"""Checksums of the rows of a stream, in blocks: only new rows are read when a checkpoint is written."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

Checksums = Mapping[str, int]  # by array
# Checksums of the rows [begin, end) of every array, going on from those of the rows before.
Checksum = Callable[[int, int, Checksums], Checksums]


@dataclass(frozen=True)
class Segment:
    """The rows [begin, end) of the stream and, by array, the CRC-32 of their bytes."""

    begin: int
    end: int
    crc: Checksums


class Segments:
    """Adjacent segments that cover the rows that count; each lies within one block of ``length`` rows.

    Only the newest block can be incomplete. It goes on from its checksum, so that there are never more
    segments than blocks, however often a checkpoint is written.

    Args:
        length: Rows of a block.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._segments: list[Segment] = []

    def cover(self, oldest: int, newest: int, readable: int, checksum: Checksum) -> None:
        """Cover the rows [oldest, newest) and forget the segments before them.

        Args:
            oldest: The oldest row that counts.
            newest: The row after the newest.
            readable: The oldest row that is not overwritten. A segment that reaches further back cannot be
                checked, and all rows are read again; it takes a ring without slack, or without ``protect``.
            checksum: Reads rows.
        """
        kept = [segment for segment in self._segments if segment.end > oldest and segment.begin >= readable]
        if kept and kept[0].begin > oldest:
            kept = []
        begin = kept[-1].end if kept else oldest
        while begin < newest:
            end = min((begin // self._length + 1) * self._length, newest)
            if kept and begin % self._length:
                before = kept.pop()
                kept.append(Segment(before.begin, end, checksum(begin, end, before.crc)))
            else:
                kept.append(Segment(begin, end, checksum(begin, end, {})))
            begin = end
        self._segments = kept

    def state(self) -> list[dict[str, Any]]:
        """Return the segments as plain dicts."""
        return [asdict(segment) for segment in self._segments]

    def load(self, state: Iterable[Mapping[str, Any]]) -> None:
        """Take over what ``state`` returned; none at all forgets everything."""
        self._segments = [Segment(**saved) for saved in state]


def first_row(state: Iterable[Mapping[str, Any]], default: int) -> int:
    """Return the first row of saved segments, ``default`` if there are none."""
    return min((saved["begin"] for saved in state), default=default)


def gap(state: Iterable[Mapping[str, Any]], oldest: int, newest: int) -> bool:
    """Tell whether saved segments leave a row of [oldest, newest) uncovered."""
    covered = oldest
    for saved in state:
        if saved["begin"] <= covered:
            covered = max(covered, saved["end"])
    return covered < newest


def first_damaged(state: Iterable[Mapping[str, Any]], checksum: Checksum) -> tuple[str, Segment] | None:
    """Read the rows of saved segments again; return the first array and segment that differ, if any does."""
    for saved in state:
        segment = Segment(**saved)
        found = checksum(segment.begin, segment.end, {})
        for name, crc in segment.crc.items():
            if found.get(name) != crc:
                return name, segment
    return None
