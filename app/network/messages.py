"""What workers and trainer tell each other: plain data, checked before it is used."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from app.envs.spec import ObservationSpec
from app.replay.compress import StoredStep
from app.reporting.results import Episode

MAX_ROWS = 100_000  # of one message
_FAST = 1  # level of zlib: the others cost more time than they save bytes
_PLAIN = ConfigDict(extra="forbid")

Id = Annotated[str, Field(min_length=1, max_length=100)]
Count = Annotated[int, Field(ge=0)]
Number = Annotated[int, Field(ge=1)]
PerWorker = dict[Id, Count]


class MessageError(Exception):
    """A message is not what it should be; the text says how."""


@dataclass(frozen=True, config=_PLAIN)
class Hello:
    """A worker is there. Workers say so every second.

    Attributes:
        worker: its name, new at every start.
        fingerprint: digest of what it drives and how it sees.
        version: of the actor that it has; 0: none yet.
        first: number of the oldest episode that it would still send; the next one's, if it keeps none.
    """

    worker: Id
    fingerprint: Id
    version: Count
    first: Number
    kind: Literal["hello"] = "hello"


@dataclass(frozen=True, config=_PLAIN)
class Steps:
    """A whole training episode.

    Attributes:
        worker: who drove.
        fingerprint: digest, as in Hello.
        number: 1, 2, ... per worker: nothing is lost or taken twice.
        first: as in Hello.
        version: of the actor that drove.
        count: rows, the reset included.
        ret: undiscounted return.
        rows: sensors, action and reward of each row, float32.
        frames: grey pictures of all rows, compressed; empty without images.
        ends: terminated, truncated.
    """

    worker: Id
    fingerprint: Id
    number: Number
    first: Number
    version: Count
    count: Annotated[int, Field(ge=2, le=MAX_ROWS)]
    ret: float
    rows: bytes
    frames: bytes
    ends: tuple[bool, bool]
    kind: Literal["steps"] = "steps"


@dataclass(frozen=True, config=_PLAIN)
class Result:
    """An evaluation episode that a worker drove.

    Attributes:
        worker: who drove.
        fingerprint: digest, as in Hello.
        request: number of the evaluation.
        number: 1, 2, ... of this worker in it: what arrives twice counts once.
        test: with the policy's mode; else with samples.
        episode: what came of it.
    """

    worker: Id
    fingerprint: Id
    request: Count
    number: Number
    test: bool
    episode: Episode
    kind: Literal["result"] = "result"


@dataclass(frozen=True, config=_PLAIN)
class Note:
    """What the trainer tells all workers, twice a second.

    Attributes:
        session: of this start of the trainer.
        life: of what the run has learned: another one wants no episodes that were driven for this one.
        fingerprint: digest.
        keys: the fingerprint itself, as JSON.
        version: of the newest actor.
        received: per worker, the number of the last episode that has arrived.
        durable: per worker, the number of the last episode that a checkpoint holds.
        credit: steps that each worker may drive beyond those that have arrived; None: as many as it can.
        request: number of the present evaluation, 0 without one.
        episodes: per worker, evaluation episodes to drive in it: with the mode, with samples.
        brought: per worker, how many of them have arrived.
        finished: the trainer needs no more.
    """

    session: Id
    life: Id
    fingerprint: Id
    keys: str
    version: Count
    received: PerWorker
    durable: PerWorker
    credit: Count | None
    request: Count
    episodes: dict[Id, tuple[Count, Count]]
    brought: PerWorker
    finished: bool
    kind: Literal["note"] = "note"


@dataclass(frozen=True, config=_PLAIN)
class Weights:
    """The newest actor.

    Attributes:
        session: of this start of the trainer.
        fingerprint: digest.
        version: counts the broadcasts of this session.
        data: safetensors.
    """

    session: Id
    fingerprint: Id
    version: Count
    data: bytes
    kind: Literal["weights"] = "weights"


Message = Hello | Steps | Result | Note | Weights
_ADAPTER = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def to_plain(message: Message) -> dict[str, Any]:
    """Return a message as plain data."""
    return asdict(message)


def from_plain(data: Any) -> Message:
    """Return the message that ``to_plain`` was given.

    Raises:
        MessageError: it is none.
    """
    try:
        return _ADAPTER.validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise MessageError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def pack_steps(steps: Sequence[StoredStep]) -> dict[str, Any]:
    """Return the parts of a ``Steps`` that hold an episode, a reset row first."""
    sensors = np.stack([step[1]["sensors"] for step in steps]).astype("<f4")
    actions = np.zeros((len(steps), len(steps[-1][0])), "<f4")
    for row, step in zip(actions[1:], steps[1:], strict=True):
        row[:] = step[0]
    rewards = np.array([[step[2]] for step in steps], "<f4")
    frames = [step[1]["frame"] for step in steps if step[1]["frame"] is not None]
    return {
        "count": len(steps),
        "rows": np.concatenate([sensors, actions, rewards], axis=1).tobytes(),
        "frames": zlib.compress(np.stack(frames).tobytes(), _FAST) if frames else b"",
        "ends": (steps[-1][3], steps[-1][4]),
    }


def unpack_steps(message: Steps, spec: ObservationSpec) -> list[StoredStep]:
    """Return the rows of an episode as ``SampleCompressor`` made them.

    Raises:
        MessageError: they are not rows of this observation.
    """
    count, sensors, actions = message.count, spec.sensors, spec.action_dim
    width = sensors + actions + 1
    if len(message.rows) != count * width * 4:
        raise MessageError(f"{count} rows of this observation are {count * width * 4} bytes, not {len(message.rows)}")
    rows = np.frombuffer(message.rows, "<f4").reshape(count, width).astype(np.float32)
    if not np.isfinite(rows).all():
        raise MessageError("a number in it is not finite")
    frames = _unpack_frames(message.frames, spec, count)
    return [
        (
            rows[i, sensors:-1].copy() if i else None,
            {"sensors": rows[i, :sensors].copy(), "frame": frames[i]},
            float(rows[i, -1]),
            i == count - 1 and bool(message.ends[0]),
            i == count - 1 and bool(message.ends[1]),
            {},
        )
        for i in range(count)
    ]


def pack_weights(module: nn.Module) -> bytes:
    """Serialise a module's weights and buffers."""
    return save({name: part.detach().cpu().contiguous() for name, part in module.state_dict().items()})


def unpack_weights(data: bytes) -> dict[str, Tensor]:
    """Return what ``pack_weights`` was given; nothing in it can execute.

    Raises:
        MessageError: it is damaged.
    """
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise MessageError(f"the weights are damaged: {error}") from None


def _unpack_frames(data: bytes, spec: ObservationSpec, count: int) -> Any:
    if spec.image_shape is None:
        return [None] * count
    shape = (count, *spec.image_shape[1:])
    size = math.prod(shape)
    inflate = zlib.decompressobj()
    try:
        raw = inflate.decompress(data, size + 1)  # never more than that, whatever a peer has packed
    except zlib.error as error:
        raise MessageError(f"the frames are damaged: {error}") from None
    if len(raw) != size:
        raise MessageError(f"{count} frames of this observation are {size} bytes")
    return np.frombuffer(raw, np.uint8).reshape(shape).copy()
