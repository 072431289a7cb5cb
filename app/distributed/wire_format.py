"""Messages as bytes: msgpack, so that a peer can send data and never code, in frames. Imports nothing heavy."""

import hmac
from collections.abc import Iterator
from typing import Any

import msgpack

HEADER = 8  # digits of the length of a message, so that no message reaches 100 MB
MAX_BYTES = 10**HEADER - 1
_MAX_ITEMS = 20_000  # of one list or dict, whose length is believed before its items have been read
_MAX_VALUES = 100_000  # in one message, because an empty dict takes sixty times the byte that announces it
# By the first byte of a value: bytes of a number, of the length of a text, of the count of a list, and of a dict.
_NUMBERS = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_TEXTS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_LISTS, _DICTS = {0xDC: 2, 0xDD: 4}, {0xDE: 2, 0xDF: 4}


class FrameError(Exception):
    """What a peer sent is no frame of this program; the text says why."""


def dumps(value: Any) -> bytes:
    """Serialise numbers, strings, bytes, None, and lists, tuples and dicts of them.

    Raises:
        ValueError: The result is larger than a message may be.
        TypeError: The value contains anything else.
    """
    data = msgpack.packb(value)
    if len(data) > MAX_BYTES:
        raise ValueError(f"a message of {len(data):,} bytes is larger than {MAX_BYTES:,}")
    return data


def loads(data: bytes, max_items: int = _MAX_ITEMS) -> Any:
    """Return what was passed to ``dumps``, with tuples in place of lists.

    Args:
        data: The bytes. The result takes little more memory than they do, whatever they are.
        max_items: Most items of one list or dict.

    Raises:
        ValueError: The data is not msgpack, is incomplete, or contains too many values.
    """
    _require_few_values(data)
    return msgpack.unpackb(data, use_list=False, max_array_len=max_items, max_map_len=max_items, max_ext_len=0)


def _require_few_values(data: bytes) -> None:
    """Count the values that a message announces, before any list is made: msgpack makes each at its full length.

    Raises:
        ValueError: There are too many.
    """
    position, announced, missing = 0, 1, 1
    while missing and position < len(data):
        missing -= 1
        size, items = _size_and_items(data, position)
        position, announced, missing = position + size, announced + items, missing + items
        if announced > _MAX_VALUES:
            raise ValueError(f"it contains more than {_MAX_VALUES:,} values")


def _size_and_items(data: bytes, position: int) -> tuple[int, int]:
    """Return the bytes of a value, and how many values follow as its items; a dict has two for each key."""
    first = data[position]

    def number(length: int) -> int:
        return int.from_bytes(data[position + 1 : position + 1 + length], "big")

    if first < 0x80 or first >= 0xE0:  # an integer
        return 1, 0
    if first < 0xA0:  # a short dict or list
        return 1, 2 * (first & 0x0F) if first < 0x90 else first & 0x0F
    if first < 0xC0:  # a short text
        return 1 + (first & 0x1F), 0
    if first in _TEXTS:
        return 1 + _TEXTS[first] + number(_TEXTS[first]), 0
    if first in _LISTS:
        return 1 + _LISTS[first], number(_LISTS[first])
    if first in _DICTS:
        return 1 + _DICTS[first], 2 * number(_DICTS[first])
    return 1 + _NUMBERS.get(first, 0), 0  # a number, None, a truth value, or what msgpack refuses


def frame(data: bytes, secret: bytes = b"") -> bytes:
    """Return a message with its length and, for a server, the password before it."""
    return f"{len(data):<{HEADER}}".encode() + secret + data


class FrameReader:
    """Splits a stream of bytes into the messages that were passed to ``frame``.

    Args:
        secret: Bytes that must follow every length.
        limit: Bytes of the largest message; may be changed.
    """

    def __init__(self, secret: bytes = b"", limit: int = MAX_BYTES):
        self._secret, self.limit = secret, limit
        self._buffer = bytearray()

    def __len__(self) -> int:
        """Return the number of bytes that wait for the rest of their message."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the messages that are complete with these bytes.

        Raises:
            FrameError: The stream is none of frames, the password is wrong, or a message is too large.
        """
        self._buffer += data
        while (message := self._next()) is not None:
            yield message

    def _next(self) -> bytes | None:
        buffer, start = self._buffer, HEADER + len(self._secret)
        if len(buffer) < start:
            return None
        length = bytes(buffer[:HEADER]).rstrip(b" ")
        if not length.isdigit():
            raise FrameError("it does not speak the protocol of this program, or uses TLS on one side only")
        if not hmac.compare_digest(bytes(buffer[HEADER:start]), self._secret):
            raise FrameError("wrong password")
        if int(length) > self.limit:
            raise FrameError(f"it announced a message of {int(length):,} bytes; {self.limit:,} are allowed")
        end = start + int(length)
        if len(buffer) < end:
            return None
        with memoryview(buffer) as view:
            message = bytes(view[start:end])
        del buffer[:end]
        return message
