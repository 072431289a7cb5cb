"""Messages between workers and trainer: plain data that is checked before it is used."""

import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import AfterValidator, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from app.config.types import BelowOne, Count, Positive
from app.core.console import printable
from app.core.errors import UserError
from app.core.json_data import parse_json
from app.distributed.wire_format import MAX_BYTES, dumps, loads
from app.evaluation.results import Episode
from app.replay.row_format import RowFormat, StoredStep

PROTOCOL_VERSION = 2  # to be raised with every change of a message or of the row format
MAX_ROWS = 100_000  # of one message
_MAX_FRAME_BYTES = 500_000_000  # of the uncompressed frames of one message
_MAX_REST_BYTES = 100_000  # of a message of an episode beside its rows and frames, and of frames that zlib makes longer
_MAX_REASON = 300  # characters of the reason why a message is invalid, which may contain what a peer sent
_COMPRESSION_LEVEL = 1  # of zlib: higher levels cost more time than they save bytes
_STRICT = ConfigDict(extra="forbid")

Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^\P{C}+$")]  # no control characters
CountPerWorker = dict[Name, Count]


def _check_settings(text: str) -> str:
    """Return settings as JSON that can be read."""
    if not isinstance(parse_json(text), dict):
        raise ValueError("it contains no settings")
    return text


def _check_episode(episode: Episode) -> Episode:
    """Return an evaluation episode whose numbers can be averaged; the share of the lap may be missing."""
    numbers = (episode.ret, episode.start, episode.lap_time, episode.native_return, episode.lap_bound)
    if not all(math.isfinite(number) for number in numbers if number is not None) or math.isinf(episode.lap_share):
        raise ValueError("it contains a number that is not finite")
    if episode.length < 1 or not re.fullmatch(r"\w{1,50}", episode.outcome):
        raise ValueError("it is not the result of an episode")
    return episode


class MessageError(Exception):
    """A message is invalid; the text says why, in a line that a terminal can show."""

    def __init__(self, reason: str):
        super().__init__(printable(reason)[:_MAX_REASON].rstrip("."))


@dataclass(frozen=True, config=_STRICT)
class Heartbeat:
    """Sign of life that a worker sends every second.

    Attributes:
        worker: Name of the worker, new at every start.
        fingerprint: Digest of its environment, observation and model.
        actor_version: Version of the actor that it has; 0 if it has none yet.
        oldest_kept: Positive of the oldest episode that it can still send; that of the next one if it keeps none.
    """

    worker: Name
    fingerprint: Name
    actor_version: Count
    oldest_kept: Positive
    kind: Literal["heartbeat"] = "heartbeat"


@dataclass(frozen=True, config=_STRICT)
class EpisodeMessage:
    """Complete training episode.

    Attributes:
        worker: Name of the worker that collected it.
        fingerprint: See ``Heartbeat``.
        number: 1, 2, ... for each worker, so that no episode is lost or stored twice.
        oldest_kept: See ``Heartbeat``.
        actor_version: Version of the actor that acted.
        row_count: Positive of rows, the reset included.
        episode_return: Undiscounted return.
        rows: Rows in the format of ``RowFormat``, float32, little-endian.
        frames: Grey frames of all rows, uint8, compressed with zlib; empty without images.
        terminated: Whether the last step terminated the episode.
        truncated: Whether the last step truncated the episode.
    """

    worker: Name
    fingerprint: Name
    number: Positive
    oldest_kept: Positive
    actor_version: Count
    row_count: Annotated[int, Field(ge=2, le=MAX_ROWS)]
    episode_return: FiniteFloat
    rows: bytes
    frames: bytes
    terminated: bool
    truncated: bool
    kind: Literal["episode"] = "episode"


@dataclass(frozen=True, config=_STRICT)
class EvaluationResult:
    """Evaluation episode that a worker has driven.

    Attributes:
        worker: Name of the worker.
        fingerprint: See ``Heartbeat``.
        evaluation: Positive of the evaluation.
        number: 1, 2, ... for each worker in this evaluation, so that no episode counts twice.
        deterministic: Whether the policy acted deterministically.
        episode: Result of the episode.
    """

    worker: Name
    fingerprint: Name
    evaluation: Count
    number: Positive
    deterministic: bool
    episode: Annotated[Episode, AfterValidator(_check_episode)]
    kind: Literal["evaluation result"] = "evaluation result"


@dataclass(frozen=True, config=_STRICT)
class TrainerStatus:
    """State of the trainer, sent to all workers twice a second.

    Attributes:
        session: Random name of this start of the trainer.
        generation: Random name of what the run has learned so far; it changes when the replay is cleared, and workers
            then drop the episodes that they keep.
        fingerprint: Digest of the trainer's environment, observation and model.
        fingerprint_json: The fingerprint itself.
        actor_version: Version of the newest actor.
        received: For each worker, the number of the last episode that has arrived.
        saved: For each worker, the number of the last episode that a checkpoint contains.
        steps_ahead: Steps that each worker may collect beyond those that have arrived; None for no limit.
        evaluation: Positive of the current evaluation; 0 if there is none.
        evaluation_episodes: For each worker, how many episodes to drive: deterministic, and with sampled actions.
        evaluation_results: For each worker, how many of them have arrived.
        deterministic_share: Share of the training episodes that the deterministic action drives.
        finished: Whether the run has ended.
    """

    session: Name
    generation: Name
    fingerprint: Name
    fingerprint_json: Annotated[str, AfterValidator(_check_settings)]
    actor_version: Count
    received: CountPerWorker
    saved: CountPerWorker
    steps_ahead: Count | None
    evaluation: Count
    evaluation_episodes: dict[Name, tuple[Count, Count]]
    evaluation_results: CountPerWorker
    deterministic_share: BelowOne
    finished: bool
    kind: Literal["trainer status"] = "trainer status"


@dataclass(frozen=True, config=_STRICT)
class Weights:
    """Weights of the newest actor.

    Attributes:
        session: See ``TrainerStatus``.
        fingerprint: See ``TrainerStatus``.
        actor_version: Positive of the broadcast in this session.
        data: The weights in safetensors format.
    """

    session: Name
    fingerprint: Name
    actor_version: Count
    data: bytes
    kind: Literal["weights"] = "weights"


Message = Heartbeat | EpisodeMessage | EvaluationResult | TrainerStatus | Weights
_ADAPTER = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def encode_message(message: Message) -> bytes:
    """Serialise a message.

    Raises:
        ValueError: It is larger than a message may be.
    """
    return dumps({"protocol": PROTOCOL_VERSION, **asdict(message)})


def decode_message(data: bytes) -> Message:
    """Return the message that was passed to ``encode_message``.

    Raises:
        MessageError: The data is not a valid message of this version of the protocol.
    """
    try:
        fields = loads(data)
    except ValueError as error:
        raise MessageError(f"it cannot be read: {error}") from None
    if not isinstance(fields, dict):
        raise MessageError("it is not a message")
    if (version := fields.pop("protocol", 1)) != PROTOCOL_VERSION:
        raise MessageError(
            f"it has version {version!r:.20} of the protocol, not {PROTOCOL_VERSION}. Use the same version of this "
            "program everywhere"
        )
    try:
        return _ADAPTER.validate_python(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise MessageError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def pack_episode(steps: Sequence[StoredStep], row_format: RowFormat) -> dict[str, Any]:
    """Return the fields of an ``EpisodeMessage`` that contain the steps of an episode; the first is the reset."""
    arrays = row_format.encode(steps)
    return {
        "row_count": len(steps),
        "rows": arrays["rows"].astype("<f4", copy=False).tobytes(),
        "frames": zlib.compress(arrays["frames"].tobytes(), _COMPRESSION_LEVEL) if "frames" in arrays else b"",
        "terminated": steps[-1][3],
        "truncated": steps[-1][4],
    }


def require_sendable_episodes(max_steps: int, row_format: RowFormat) -> None:
    """Refuse episodes that may not fit into a message, before the first of them is driven.

    How well the frames of an episode compress is not known before, so they count in full.

    Args:
        max_steps: Most steps of an episode.
        row_format: Format of its rows.

    Raises:
        UserError: They may not; with the steps that do.
    """
    row_bytes = 4 * row_format.width + math.prod(row_format.frame_shape or (0,))
    sendable = min(MAX_ROWS, (MAX_BYTES - _MAX_REST_BYTES) // row_bytes) - 1  # the reset is a row, too
    if max_steps <= sendable:
        return
    raise UserError(
        f"env.max_steps = {max_steps:,}: an episode of {max_steps:,} steps x {row_bytes:,} bytes may not fit into a "
        f"message, and workers send whole episodes, of {MAX_ROWS:,} rows and {MAX_BYTES:,} bytes at most. Set "
        f"env.max_steps to {sendable:,} or less{', or use a smaller env.image_size' if row_format.frame_shape else ''}."
    )


def unpack_episode(message: EpisodeMessage, row_format: RowFormat) -> list[StoredStep]:
    """Return the steps that were passed to ``pack_episode``.

    Raises:
        MessageError: They do not have this row format.
    """
    count, width = message.row_count, row_format.width
    if len(message.rows) != (expected := count * width * 4):
        raise MessageError(f"{count} rows of this observation are {expected} bytes, not {len(message.rows)}")
    arrays = {
        "rows": np.frombuffer(message.rows, "<f4").reshape(count, width).astype(np.float32),
        "ends": np.zeros((count, 2), np.bool_),
    }
    if not np.isfinite(arrays["rows"]).all():
        raise MessageError("it contains a number that is not finite")
    arrays["ends"][-1] = message.terminated, message.truncated
    if row_format.frame_shape is not None:
        arrays["frames"] = _decompress_frames(message.frames, (count, *row_format.frame_shape))
    return row_format.decode(arrays)


def pack_weights(module: nn.Module) -> bytes:
    """Serialise the parameters and buffers of a module."""
    return save({name: part.detach().cpu().contiguous() for name, part in module.state_dict().items()})


def unpack_weights(data: bytes) -> dict[str, Tensor]:
    """Return the state dict of the module that was passed to ``pack_weights``; nothing in the data is executed.

    Raises:
        MessageError: The data is damaged.
    """
    try:
        weights = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise MessageError(f"the weights are damaged: {error}") from None
    if not all(torch.isfinite(tensor).all() for tensor in weights.values()):
        raise MessageError("the weights contain a number that is not finite")
    return weights


def load_weights(module: nn.Module, data: bytes) -> None:
    """Load what was passed to ``pack_weights`` into a module of the same kind.

    Raises:
        MessageError: The data is damaged or belongs to another model; the module is unchanged.
    """
    weights = unpack_weights(data)
    shapes, expected = ({name: part.shape for name, part in parts.items()} for parts in (weights, module.state_dict()))
    if shapes != expected:
        raise MessageError("the weights belong to another model")
    module.load_state_dict(weights)


def _decompress_frames(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    size = math.prod(shape)
    if size > _MAX_FRAME_BYTES:
        raise MessageError(f"{shape[0]} frames of this observation are {size:,} bytes, more than {_MAX_FRAME_BYTES:,}")
    try:
        raw = zlib.decompressobj().decompress(data, size + 1)  # a limit, whatever a peer has compressed
    except zlib.error as error:
        raise MessageError(f"the frames are damaged: {error}") from None
    if len(raw) != size:
        raise MessageError(f"{shape[0]} frames of this observation are {size} bytes")
    return np.frombuffer(raw, np.uint8).reshape(shape).copy()
