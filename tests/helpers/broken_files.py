"""Files as accidents and strangers leave them."""

import json
import os
import pickle
import random
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

CANARY = "hacked"  # file that code in a broken file would make in the working folder


class RunsCode:
    """What a pickle runs when it is read without care."""

    def __reduce__(self):
        return open, (CANARY, "w")


ODD_VALUES = (
    None, True, False, 0, -1, 1, 1.5, -1e308, 1e400, float("nan"), 10**400, 2**63, "", "x", "../../x", "\ud800", [], {},
    [[]], {"": None}, [None], {"a": {"b": 1}}, "1", "nan", "!!python/object/apply:os.system [id]",
)  # fmt: skip
_LAUGHS = b"a0: &a0 [x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 9)
)
_BYTES = (
    b"", b"\0", b"\n", b"\xff\xfe", b"\xc3\x28", b"null", b"[]", b"{}", b"{", b"[" * 5_000, b"{a: " * 50_000,
    b'{"a":' * 50_000, b"- " * 5_000, b"NaN", b"1e999", b"9" * 5_000, b"\x00" * 4096, pickle.dumps(RunsCode()),
    b"PK\x03\x04", b"%PDF-1.4", b"!!python/object/apply:builtins.open [" + CANARY.encode() + b", w]\n",
    b"x: &a [*a]\n", b"? {a: b}\n: c\n", b"a: 1\na: 2\n", _LAUGHS,
)  # fmt: skip


def break_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return the content of a file with one to three accidents: cut, flipped, doubled, overwritten, or replaced."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 2, 8, 64, 1024)))
        kind = rng.randrange(8)
        if kind == 0:
            data = data[:at]
        elif kind == 1 and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        elif kind == 2:
            data = data[:at] + data[end:]
        elif kind == 3:
            data = data[:end] + data[at:]
        elif kind == 4:
            data = data[:at] + rng.choice(_BYTES) + data[at:]
        elif kind == 5:
            data = data[:at] + rng.randbytes(end - at) + data[end:]
        elif kind == 6 and (numbers := list(re.finditer(rb"-?\d+(\.\d+)?", data[:20_000]))):
            number = rng.choice(numbers)
            odd = rng.choice(
                (b"-1", b"1e999", b"NaN", b"null", b'"x"', b"[]", b"{}", b"9" * 30, b"true", b"0", b".", b"-")
            )
            data = data[: number.start()] + odd + data[number.end() :]
        elif kind == 7 and rng.random() < 0.3:
            data = rng.choice(_BYTES)
    return data


def break_value(value: Any, rng: random.Random) -> Any:
    """Return nested lists and mappings with one part of them changed, removed, renamed or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key, kind = rng.choice(list(value)), rng.randrange(6)
        if kind == 0:
            return {name: part for name, part in value.items() if name != key}
        if kind == 1:
            return {(f"{name}x" if name == key else name): part for name, part in value.items()}
        return {**value, key: break_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value[:at] + value[at + 1 :]
        return [*value[:at], break_value(value[at], rng), *value[at + 1 :]]
    return rng.choice(ODD_VALUES)


def break_json(data: bytes, rng: random.Random) -> bytes:
    """Return JSON, or one line of several, with a part of it changed; sometimes a key twice."""
    lines = data.splitlines() if data.count(b"\n{") else [data]
    at = rng.randrange(len(lines))
    text = json.dumps(break_value(json.loads(lines[at]), rng))
    if rng.random() < 0.1 and text.startswith('{"'):
        text = '{"format": 7, ' + text[1:]
    lines[at] = text.encode()
    return b"\n".join(lines) + b"\n"


def break_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Return a safetensors file with another header."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    text = json.dumps(break_value(header, rng)).encode()
    size = rng.choice((len(text), len(text), len(text), 0, 2**40, 2**63))
    return struct.pack("<Q", size) + text + data[8 + length :]


Breaker = Callable[[bytes, random.Random], bytes]


def break_path(path: Path, breaker: Breaker, rng: random.Random) -> str:
    """Break a file in one of many ways; return which, for a message."""
    data = path.read_bytes()
    kind = rng.randrange(12)
    if kind == 0:
        path.unlink()
        path.mkdir()
        return "a folder"
    if kind == 1:
        path.unlink()
        path.symlink_to(path.name)
        return "a link to itself"
    if kind == 2:
        path.unlink()
        return "missing"
    broken = (breaker if kind < 8 else break_bytes)(data, rng)
    path.write_bytes(broken)
    return f"{len(broken)} bytes {broken[:200]!r}"


def copy_folder(source: Path, target: Path) -> Path:
    """Copy a folder in place of what is there."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


def remove_canary() -> bool:
    """Remove the file that code in a broken file has made in the working folder; return whether there was one."""
    if found := os.path.exists(CANARY):
        os.unlink(CANARY)
    return found
