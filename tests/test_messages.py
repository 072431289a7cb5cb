"""Messages of the network: they arrive unchanged, invalid ones are refused, and nothing in them is executed."""

import dataclasses
import math
import pickle
import tracemalloc
import zlib

import numpy as np
import pytest

from app.distributed.messages import (
    EvaluationResult,
    Heartbeat,
    MessageError,
    TrainerStatus,
    Weights,
    decode_message,
    encode_message,
    pack_episode,
    unpack_episode,
    unpack_weights,
)
from app.distributed.wire_format import MAX_BYTES, dumps, loads
from app.envs.env_factory import make_env, make_spec
from app.evaluation.episodes import Start, make_episode
from app.replay.row_format import RowFormat, SampleCompressor
from tests.helpers.episodes import episode_message, random_episode, same_steps
from tests.helpers.make import compose
from tests.helpers.runs import TINY

IMAGES = ("env.images=true", "env.image_size=16")


@pytest.mark.parametrize("overrides", [(), IMAGES], ids=["lidar", "images"])
def test_episode_is_the_same_after_the_wire(overrides):
    spec = make_spec(compose(*TINY, *overrides).env)
    episode = random_episode(spec, 7)
    message = decode_message(encode_message(episode_message(spec, 7)))
    assert same_steps(unpack_episode(message, RowFormat.of(spec)), episode)


def test_compressed_episode_of_an_environment_is_the_same_after_the_wire():
    config = compose(*TINY, *IMAGES)
    env, spec = make_env(config.env, config.env.train_tracks, 0), make_spec(config.env)
    obs, _ = env.reset()
    compress = SampleCompressor(spec)
    steps = [compress(None, obs, 0.0, False, False, {})]
    for _ in range(3):
        action = np.zeros(3, np.float32)
        obs, reward, terminated, truncated, info = env.step(action)
        steps.append(compress(action, obs, reward, terminated, truncated, info))
    message = episode_message(spec, **pack_episode(steps, RowFormat.of(spec)))
    assert same_steps(unpack_episode(message, RowFormat.of(spec)), steps)


@pytest.mark.parametrize("overrides", [(), IMAGES], ids=["lidar", "images"])
def test_episode_is_sent_in_the_row_format_of_the_replay(overrides):
    spec = make_spec(compose(*TINY, *overrides).env)
    arrays, message = RowFormat.of(spec).encode(random_episode(spec, 7)), episode_message(spec, 7)
    assert message.rows == arrays["rows"].tobytes()
    assert message.frames == b"" or zlib.decompress(message.frames) == arrays["frames"].tobytes()


def test_every_kind_of_message_survives_serialisation():
    episode = make_episode(Start(0, 0.0, 0), 1.5, 3, {"outcome": "lap", "lap_share": 1.0})
    messages = [
        Heartbeat("w", "f", 3, 1),
        TrainerStatus("s", "g", "f", "{}", 1, {"w": 2}, {"w": 1}, 7, 0, {"w": (1, 2)}, {"w": 1}, 0.25, False),
        TrainerStatus("s", "g", "f", "{}", 1, {}, {}, None, 0, {}, {}, 0.0, True),
        Weights("s", "f", 1, b"\x00\xff"),
        EvaluationResult("w", "f", 1, 1, True, episode),
        episode_message(make_spec(compose(*TINY).env)),
    ]
    for message in messages:
        assert decode_message(encode_message(message)) == message


@pytest.mark.parametrize(
    "data",
    [
        None, 1, [], {}, {"kind": "nothing"}, {"kind": "heartbeat"}, {"kind": ["heartbeat"]},
        {"kind": "heartbeat", "worker": "w", "fingerprint": "f", "actor_version": -1, "oldest_kept": 1},
        {"kind": "heartbeat", "worker": "w" * 101, "fingerprint": "f", "actor_version": 1, "oldest_kept": 1},
        {"kind": "heartbeat", "worker": "w", "fingerprint": "f", "actor_version": 1, "oldest_kept": 1, "more": 1},
        {"kind": "episode", "worker": "w", "fingerprint": "f", "number": 0, "oldest_kept": 1, "actor_version": 1,
         "row_count": 2, "episode_return": 0.0, "rows": b"", "frames": b"", "terminated": True, "truncated": False},
    ],
)  # fmt: skip
def test_invalid_message_is_refused(data):
    with pytest.raises(MessageError) as error:
        decode_message(dumps({"protocol": 2, **data} if isinstance(data, dict) else data))
    assert "version" not in str(error.value).replace("actor_version", "")


@pytest.mark.parametrize("version", [{}, {"protocol": 1}, {"protocol": 3}, {"protocol": "2"}, {"protocol": [2] * 99}])
def test_message_of_another_protocol_version_is_refused(version):
    fields = {
        key: value for key, value in loads(encode_message(Heartbeat("w", "f", 3, 1))).items() if key != "protocol"
    }
    assert decode_message(dumps(fields | {"protocol": 2})) == Heartbeat("w", "f", 3, 1)
    with pytest.raises(MessageError, match=r"of the protocol, not 2\. Use the same version of this program everywhere"):
        decode_message(dumps(fields | version))


@pytest.mark.parametrize(
    "changes",
    [
        {"row_count": 6},
        {"row_count": 2},
        {"rows": b""},
        {"rows": b"x"},
        {"rows": np.full((6, 31), np.nan, "<f4").tobytes()},
        {"frames": b"no zlib"},
        {"frames": zlib.compress(b"short")},
        {"frames": zlib.compress(bytes(50_000_000))},
    ],
)
def test_rows_that_do_not_fit_the_observation_are_refused(changes):
    spec = make_spec(compose(*TINY, *IMAGES).env)
    with pytest.raises(MessageError):
        unpack_episode(dataclasses.replace(episode_message(spec, 4), **changes), RowFormat.of(spec))


def test_row_that_is_not_finite_is_refused():
    spec = make_spec(compose(*TINY).env)
    message = episode_message(spec, 4)
    rows = np.frombuffer(message.rows, "<f4").copy()
    for value in (np.nan, np.inf):
        rows[7] = value
        with pytest.raises(MessageError, match="not finite"):
            unpack_episode(dataclasses.replace(message, rows=rows.tobytes()), RowFormat.of(spec))


def test_pickle_is_never_run():
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("a pickle was run",)

    for data in (pickle.dumps(Bomb()), pickle.dumps(Bomb(), 0), b"", b"\xc1", dumps([1, 2])[:-1]):
        with pytest.raises(ValueError):
            loads(data)
        with pytest.raises(MessageError, match="cannot be read"):
            decode_message(data)
    with pytest.raises(MessageError, match="damaged"):
        unpack_weights(pickle.dumps(Bomb()))


def test_oversized_message_is_not_sent(monkeypatch):
    monkeypatch.setattr("app.distributed.wire_format.MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="larger than"):
        dumps(bytes(1001))
    assert MAX_BYTES == 99_999_999


def test_message_takes_little_more_memory_than_its_bytes():
    for hostile in (
        b"\xdd\x00\x2f\xff\xff" + b"\x80" * 0x2FFFFF,  # three million empty dicts in three megabytes
        b"\xdd\x7f\xff\xff\xff" * 100,  # lists that announce two billion items each
        (b"\xdc\x4e\x20" + b"\xc0" * 19_999) * 6,
    ):
        tracemalloc.start()
        with pytest.raises(ValueError):
            loads(hostile)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 20_000_000


@pytest.mark.parametrize("field", ["ret", "lap_time", "native_return"])
def test_evaluation_result_that_is_not_finite_is_refused(field):
    episode = make_episode(Start(0, 0.0, 0), 1.5, 3, {"outcome": "lap", "lap_share": math.nan})
    decode_message(encode_message(EvaluationResult("w", "f", 1, 1, True, episode)))
    fields = loads(encode_message(EvaluationResult("w", "f", 1, 1, True, episode)))
    fields["episode"] = fields["episode"] | {field: math.inf}
    with pytest.raises(MessageError, match="not finite"):
        decode_message(dumps(fields))


@pytest.mark.parametrize("settings", ["no JSON", "[]", "[" * 100_000])
def test_status_without_settings_is_refused(settings):
    status = TrainerStatus("s", "g", "f", "{}", 1, {}, {}, None, 0, {}, {}, 0.0, True)
    fields = loads(encode_message(status)) | {"fingerprint_json": settings}
    with pytest.raises(MessageError, match="fingerprint_json"):
        decode_message(dumps(fields))


def test_reason_of_a_refusal_is_a_short_line_without_control_characters():
    fields = loads(encode_message(Heartbeat("w", "f", 3, 1)))
    for changes in ({"worker": "\x1b[2Jw"}, {"\x1b[2J" + "x" * 10_000: 1}):
        with pytest.raises(MessageError) as error:
            decode_message(dumps(fields | changes))
        assert str(error.value).isprintable() and len(str(error.value)) <= 300
