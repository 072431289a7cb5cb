"""Mutated messages, of the kinds that damage and malice make."""

import random
from typing import Any

import msgpack

_VALUES = (
    None, True, 0, -1, 2**63, -(2**63), 1.5, float("nan"), float("inf"), "", "\x1b[2J", "x" * 200, "kings", b"",
    b"\xff" * 64, [], {}, [[]] * 50, {"a": {"b": {}}}, ["trainers"], {"trainers": 1},
    {"workers": -1}, {"trainers": 2**40},
)  # fmt: skip


def mutate(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Return a message with one to four changes, of bytes or of the values in it."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice((_flip, _cut, _insert, _repeat, _splice, _change_value, _change_value))(data, others, rng)
    return data


def _place(data: bytes, rng: random.Random) -> int:
    return rng.randrange(len(data) + 1) if rng.random() < 0.5 else min(len(data), rng.randrange(40))


def _flip(data: bytes, _: list[bytes], rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        if changed:
            changed[min(_place(data, rng), len(changed) - 1)] = rng.randrange(256)
    return bytes(changed)


def _cut(data: bytes, _: list[bytes], rng: random.Random) -> bytes:
    start = _place(data, rng)
    return data[:start] + data[start + rng.choice((1, 3, len(data))) :]


def _insert(data: bytes, _: list[bytes], rng: random.Random) -> bytes:
    start = _place(data, rng)
    inserted = rng.choice((rng.randbytes(3), b"\x80" * 200, b"\xdd\xff\xff\xff\xff", b"\x91" * 2000, b"99999999"))
    return data[:start] + inserted + data[start:]


def _repeat(data: bytes, _: list[bytes], rng: random.Random) -> bytes:
    start = _place(data, rng)
    return data[:start] + data[start : start + 50] * rng.choice((2, 20)) + data[start:]


def _splice(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others)
    return data[: _place(data, rng)] + other[_place(other, rng) :]


def _change_value(data: bytes, _: list[bytes], rng: random.Random) -> bytes:
    try:
        message = msgpack.unpackb(data, strict_map_key=False)
        return msgpack.packb(_changed(message, rng))
    except Exception:  # an earlier change has damaged it
        return data


def _changed(value: Any, rng: random.Random) -> Any:
    """Return a value in which one part at any depth is replaced, removed or added."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key, changed = rng.choice(list(value)), dict(value)
        if rng.random() < 0.2:
            del changed[key]
        elif rng.random() < 0.1:
            changed[rng.choice(("more", "\x1b[2J", "kind"))] = rng.choice(_VALUES)
        else:
            changed[key] = _changed(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        return [*value[:place], _changed(value[place], rng), *value[place + 1 :]]
    return rng.choice(_VALUES)
