"""Serialisation with msgpack, so that a peer can send data and never code. Imports nothing heavy."""

from typing import Any

import msgpack

HEADER = 8  # digits of the length of a message in tlspyo's header, so that no message reaches 100 MB
MAX_BYTES = 10**HEADER - 1


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


def loads(data: bytes) -> Any:
    """Return what was passed to ``dumps``, with tuples in place of lists.

    Raises:
        ValueError: The data is not msgpack, or incomplete.
    """
    return msgpack.unpackb(data, use_list=False)
