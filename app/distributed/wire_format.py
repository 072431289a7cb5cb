"""Messages as bytes: msgpack, so that a peer can send data and never code, in frames. Imports nothing heavy."""

import hmac
from collections.abc import Iterator
from typing import Any

import msgpack

HEADER = 8  # digits of the length of a message, so that no message reaches 100 MB
MAX_BYTES = 10**HEADER - 1
_MAX_ITEMS = 20_000  # of one list or dict, whose length is believed before its items have been read
_MAX_VALUES = 100_000  # in one message, because an empty dict takes sixty times the byte that announces it


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
    values = 0

    def count(items: Any) -> Any:
        nonlocal values
        values += 1 + len(items)
        if values > _MAX_VALUES:
            raise ValueError(f"it contains more than {_MAX_VALUES:,} values")
        return items

    limits = {"max_array_len": max_items, "max_map_len": max_items, "max_ext_len": 0}
    return msgpack.unpackb(data, use_list=False, list_hook=count, object_hook=count, **limits)


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
