"""Conversion of a random generator's state to an array and back."""

import numpy as np


def pack_rng(rng: np.random.Generator) -> np.ndarray:
    """Return the state of a PCG64 generator as ``(6,)`` int64: its words, bit for bit."""
    state = rng.bit_generator.state
    words = [half for number in state["state"].values() for half in divmod(number, 2**64)]
    return np.array([*words, state["has_uint32"], state["uinteger"]], np.uint64).view(np.int64)


def unpack_rng(rng: np.random.Generator, packed: np.ndarray) -> None:
    """Set a PCG64 generator to the state that ``pack_rng`` returned.

    Args:
        rng: The generator to change.
        packed: ``(6,)`` int64.
    """
    words = packed.view(np.uint64).tolist()
    rng.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": words[0] * 2**64 + words[1], "inc": words[2] * 2**64 + words[3]},
        "has_uint32": words[4],
        "uinteger": words[5],
    }
