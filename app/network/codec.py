"""Bytes on the wire: msgpack, so that a peer can send data and never code. Imports nothing heavy."""

from typing import Any

import msgpack

HEADER = 8  # digits in which tlspyo writes the length of a message: what comes in is below 100 MB
LARGEST = 10**HEADER - 1  # bytes


def dumps(value: Any) -> bytes:
    """Serialise numbers, strings, bytes, None, and lists, tuples and dicts of them.

    Raises:
        ValueError: it is larger than a message may be.
        TypeError: it holds anything else.
    """
    data = msgpack.packb(value)
    if len(data) > LARGEST:
        raise ValueError(f"a message of {len(data):,} bytes is larger than {LARGEST:,}")
    return data


def loads(data: bytes) -> Any:
    """Return what ``dumps`` was given, with tuples for lists.

    Raises:
        ValueError: it is not msgpack, or not whole.
    """
    return msgpack.unpackb(data, use_list=False)
