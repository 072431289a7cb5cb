"""Messages of the network: they arrive unchanged, invalid ones are refused, and nothing in them is executed."""

import dataclasses
import math
import pickle
import re
import tracemalloc
import zlib

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.errors import UserError
from app.distributed.messages import (
    EpisodeMessage,
    EvaluationResult,
    Heartbeat,
    MessageError,
    TrainerStatus,
    Weights,
    decode_message,
    encode_message,
    pack_episode,
    require_sendable_episodes,
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


@pytest.mark.parametrize("overrides", [("env=sim_lidar",), ("env=sim_lidar", *IMAGES, "env.image_size=64")])
def test_longest_episode_that_fits_into_a_message_can_be_sent_and_a_longer_one_is_refused(overrides, monkeypatch):
    for module in ("messages", "wire_format"):
        monkeypatch.setattr(f"app.distributed.{module}.MAX_BYTES", 5_000_000)
    row_format = RowFormat.of(make_spec(compose(*TINY, *overrides).env))
    with pytest.raises(UserError, match=r"env\.max_steps = 1,000,000: an episode of 1,000,000 steps x") as refused:
        require_sendable_episodes(1_000_000, row_format)
    longest = int(re.search(r"Set env\.max_steps to ([\d,]+) or less", str(refused.value))[1].replace(",", ""))
    require_sendable_episodes(longest, row_format)
    with pytest.raises(UserError):
        require_sendable_episodes(longest + 1, row_format)
    rows = np.zeros((longest + 1, row_format.width), "<f4")
    noise = np.random.default_rng(0).bytes((longest + 1) * math.prod(row_format.frame_shape or (0,)))
    frames = zlib.compress(noise, 1) if row_format.frame_shape else b""  # which no compression makes smaller
    message = EpisodeMessage("w" * 100, "f" * 100, 1, 1, 1, longest + 1, 0.0, rows.tobytes(), frames, True, False)
    encode_message(message)  # is not too large


@given(st.binary(max_size=100))
@settings(max_examples=300, deadline=None)
def test_bytes_are_read_as_msgpack_reads_them(data):
    try:
        expected = msgpack.unpackb(data, use_list=False, max_array_len=20_000, max_map_len=20_000, max_ext_len=0)
    except (ValueError, TypeError) as error:
        with pytest.raises((type(error), ValueError)):
            loads(data)
    else:
        assert repr(loads(data)) == repr(expected)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(max_size=70_000),
    lambda inner: st.lists(inner, max_size=40).map(tuple) | st.dictionaries(st.text(), inner, max_size=40),
)


@given(_VALUES)
@settings(max_examples=200, deadline=None)
def test_values_come_back_as_they_were(value):
    assert repr(loads(dumps(value))) == repr(value)


def test_message_takes_little_more_memory_than_its_bytes():
    for hostile in (
        b"\xdd\x00\x2f\xff\xff" + b"\x80" * 0x2FFFFF,  # three million empty dicts in three megabytes
        b"\xdd\x7f\xff\xff\xff" * 100,  # lists that announce two billion items each
        b"\xdd\x00\x00\x4e\x20" * 2000,  # lists in lists
        b"\x95" + b"\xdc\x4e\x20" * 500,
        (b"\xdc\x4e\x20" + b"\xc0" * 19_999) * 6,
    ):
        tracemalloc.start()
        with pytest.raises(ValueError):
            loads(hostile)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2_000_000


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
