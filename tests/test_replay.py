"""The replay rebuilds what the environment showed; each test is named after the bug it forbids."""

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config.schema import ReplayConfig
from app.envs.observation import ObservationBuilder
from app.envs.spec import ObservationSpec
from app.replay.batch import Batch
from app.replay.compress import SampleCompressor
from app.replay.forecast import (
    HEADROOM,
    Forecast,
    ReplayTooLarge,
    _group_memory,
    available_memory,
    check,
    forecast,
)
from app.replay.layout import capacity_of, slack_of
from app.replay.memory import ReplayMemory
from app.replay.storage import MemoryStorage
from app.tmrl_api import Buffer

GAMMA = 0.9
HORIZONS = (1, 3, 5)


def make_spec(sensors=5, action_dim=2, action_history=2, image=(4, 3, 2), window=6, shown=(0, 3, 4)):
    return ObservationSpec(
        sensors,
        action_dim,
        action_history,
        image,
        window,
        tuple(shown),
        sensor_scale=(1.0,) * sensors,
        reward_scale=1.0,
    )


def make_memory(
    spec,
    capacity=500,
    batch_size=64,
    n_step=1,
    horizons=HORIZONS,
    seed=0,
    storage=None,
    slack=0,
    recent_share=0.0,
    recent_rows=1,
):
    cfg = ReplayConfig(capacity, batch_size, recent_share, recent_rows, keep=True)
    return ReplayMemory(spec, cfg, n_step, GAMMA, horizons, 3, "cpu", seed, storage or MemoryStorage(), slack)


def record(spec, lengths, seed=0, endings=("terminated", "truncated", "cut")):
    """Play random episodes: a list of steps (act, obs, rew, terminated, truncated, age), resets included.

    An episode that is "cut" ends without a sign: the next row is simply a reset.
    """
    rng = np.random.default_rng(seed)
    builder, steps = ObservationBuilder(spec), []

    def look():
        frame = None if spec.image_shape is None else rng.integers(0, 256, spec.image_shape[1:], dtype=np.uint8)
        return rng.standard_normal(spec.sensors, dtype=np.float32), frame

    for length in lengths:
        ending = endings[rng.integers(len(endings))]
        steps.append((None, builder.reset(*look()), 0.0, False, False, 0))
        for age in range(1, length + 1):
            action = rng.uniform(-1, 1, spec.action_dim).astype(np.float32)
            reward, last = float(rng.normal()), age == length
            obs = builder.append(*look(), action, reward)
            steps.append((action, obs, reward, last and ending == "terminated", last and ending == "truncated", age))
    return steps


def feed(memory, spec, steps, chunks=(10_000,)):
    """Hand the steps to the memory the way a worker does, in buffers of the given sizes (repeated)."""
    compress = SampleCompressor(spec)
    done = turn = 0
    while done < len(steps):
        buffer = Buffer()
        for *step, _ in steps[done : done + chunks[turn % len(chunks)]]:
            buffer.append_sample(compress(*step, info={"outcome": "lap"}))
        done, turn = done + len(buffer), turn + 1
        memory.append(buffer)
    return memory


def expected(steps, i, n_step, capacity):
    """The transition of stream row i by naive loops, or None if it must not be sampled."""
    if steps[i][5] == 0:
        return None
    last = i
    while last + 1 < len(steps) and last + 1 - i < n_step and steps[last + 1][5] > 0:
        last += 1
    reward = sum(GAMMA**k * np.float32(steps[i + k][2]) for k in range(last - i + 1))
    future, mask = [], []
    for h in HORIZONS:
        inside = i + h - 1 < len(steps) and all(steps[j][5] > 0 for j in range(i, i + h))
        future.append(np.float32(steps[i + h - 1][2]) if inside else 0.0)
        mask.append(float(inside))
    return Batch(
        obs=steps[i - 1][1],
        action=steps[i][0],
        reward=reward,
        next_obs=steps[last][1],
        terminated=float(steps[last][3]),
        truncated=float(steps[last][4]),
        discount=GAMMA ** (last - i + 1),
        future_rewards=np.array(future),
        future_mask=np.array(mask),
    )


def history_start(spec, steps, i):
    """The oldest stream row that the observation before row i is made of."""
    reach = max(spec.window, spec.action_history, spec.image_shape[0] if spec.image_shape else 1, 1) - 1
    return i - 1 - min(reach, steps[i - 1][5])


def assert_same(batch, b, want):
    for part, wanted in ((batch.obs, want.obs), (batch.next_obs, want.next_obs)):
        assert part.keys() == wanted.keys()
        for name in part:
            got = part[name][b].numpy()
            assert got.dtype == wanted[name].dtype and got.shape == wanted[name].shape
            assert got.tobytes() == wanted[name].tobytes(), name  # bit for bit
    assert np.array_equal(batch.action[b].numpy(), want.action)
    assert batch.terminated[b] == want.terminated and batch.truncated[b] == want.truncated
    assert batch.reward[b].item() == pytest.approx(want.reward, rel=1e-5, abs=1e-6)
    assert batch.discount[b].item() == pytest.approx(want.discount, rel=1e-6)
    assert np.array_equal(batch.future_rewards[b].numpy(), want.future_rewards.astype(np.float32))
    assert np.array_equal(batch.future_mask[b].numpy(), want.future_mask)


def sampled_rows(memory, draws):
    return np.concatenate([memory._draw() for _ in range(draws)])


# --- reconstruction ---


specs = st.builds(
    make_spec,
    action_history=st.integers(0, 3),
    image=st.one_of(st.none(), st.tuples(st.integers(1, 5), st.just(3), st.just(2))),
    window=st.sampled_from([0, 2, 6]),
    shown=st.sampled_from([(), (4, 0), (0, 1, 2, 3, 4)]),
)


@settings(max_examples=300, deadline=None)
@given(
    spec=specs,
    lengths=st.lists(st.integers(0, 14), min_size=1, max_size=12),
    capacity=st.integers(2, 60),
    chunks=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    n_step=st.integers(1, 4),
    seed=st.integers(0, 10**6),
)
def test_rebuilt_observation_differs_from_what_was_seen(spec, lengths, capacity, chunks, n_step, seed):
    steps = record(spec, lengths, seed)
    memory = feed(make_memory(spec, capacity, n_step=n_step), spec, steps, chunks)
    assert len(memory) == min(capacity, len(steps))
    assert memory.env_steps == sum(lengths)

    oldest = len(steps) - len(memory)
    complete = memory._is_complete(np.arange(len(memory)))
    for row in range(len(memory)):
        i = oldest + row
        fits = steps[i][5] > 0 and history_start(spec, steps, i) >= oldest
        assert complete[row] == fits  # nothing overwritten is sampled, and nothing that is there is left out
    rows = np.flatnonzero(complete)
    if len(rows) == 0:
        with pytest.raises(RuntimeError, match="replay"):
            memory.sample()
        return
    batch = memory._gather(rows)
    for b, row in enumerate(rows):
        assert_same(batch, b, expected(steps, oldest + row, n_step, capacity))
    assert np.isin(sampled_rows(memory, 3), rows).all()


def test_window_crosses_an_episode_border():
    spec = make_spec(window=6)
    steps = record(spec, [9] * 20)
    memory = feed(make_memory(spec), spec, steps)
    ages = np.array([step[5] for step in steps])
    rows = memory._draw()
    batch = memory._gather(rows)
    for obs, age in ((batch.obs, ages[rows] - 1), (batch.next_obs, ages[rows])):
        filled = (obs["window"] != 0).any(dim=2).sum(dim=1).numpy()
        assert np.array_equal(filled, np.minimum(age + 1, 6))


def test_window_of_next_obs_is_that_of_obs():
    spec = make_spec()
    batch = feed(make_memory(spec), spec, record(spec, [40] * 5)).sample()
    assert torch.equal(batch.next_obs["window"][:, :-1], batch.obs["window"][:, 1:])
    assert not torch.equal(batch.next_obs["window"], batch.obs["window"])


def test_stale_window_rows_of_a_wrapped_ring_are_seen():
    """Rows before a reset are zeros even where the ring holds NaN from an episode long gone."""
    spec = make_spec()

    class Dirty(MemoryStorage):
        def array(self, name, shape, dtype):
            return np.full(shape, np.nan if dtype.kind == "f" else 1, dtype)

    memory = make_memory(spec, storage=Dirty())
    batch = feed(memory, spec, record(spec, [3, 2, 4])).sample()
    assert all(tensor.isfinite().all() for tensor in (batch.obs["window"], batch.next_obs["window"], batch.reward))
    assert batch.future_rewards.isfinite().all()


def test_whole_environment_run_is_not_reproduced_bit_for_bit():
    """The same with the sizes of the built-in simulator, through tmrl's own compressor call."""
    sensors = 22
    spec = make_spec(sensors, 3, 2, (4, 64, 64), 16, (0, *range(3, sensors)))
    steps = record(spec, [60, 3, 40])
    memory = feed(make_memory(spec, capacity=90), spec, steps, chunks=(1, 7))
    rows = np.flatnonzero(memory._is_complete(np.arange(90)))
    batch = memory._gather(rows)
    assert batch.obs["floats"].shape[1:] == (28,) and batch.obs["window"].shape[1:] == (16, 24)
    assert batch.obs["images"].dtype == torch.uint8 and batch.obs["images"].shape[1:] == (4, 64, 64)
    for b, row in enumerate(rows):
        assert_same(batch, b, expected(steps, len(steps) - 90 + row, 1, 90))


def test_vector_task_gets_images_or_a_window():
    spec = make_spec(3, 1, 0, None, 0, ())
    batch = feed(make_memory(spec), spec, record(spec, [30, 30])).sample()
    assert set(batch.obs) == {"floats"} and batch.obs["floats"].shape == (64, 3)


# --- returns and ends ---


def test_terminated_and_truncated_are_mixed_up():
    spec = make_spec()
    steps = record(spec, [2] * 60)
    memory = feed(make_memory(spec), spec, steps)
    rows = np.flatnonzero(memory._is_complete(np.arange(len(memory))))
    batch = memory._gather(rows)
    assert batch.terminated.bool().tolist() == [steps[row][3] for row in rows]
    assert batch.truncated.bool().tolist() == [steps[row][4] for row in rows]
    assert batch.terminated.any() and batch.truncated.any()


def test_n_step_return_reaches_past_the_newest_row():
    """A partial sum bootstraps from the newest row; nothing of the oldest rows of the ring leaks in."""
    spec = make_spec()
    steps = record(spec, [100])
    memory = feed(make_memory(spec, capacity=40, n_step=3), spec, steps)
    batch = memory._gather(np.array([37, 38, 39]))
    rewards = np.array([step[2] for step in steps[-3:]], dtype=np.float32)
    assert batch.discount.tolist() == pytest.approx([GAMMA**3, GAMMA**2, GAMMA])
    assert batch.reward[1].item() == pytest.approx(rewards[1] + GAMMA * rewards[2], rel=1e-5)
    assert batch.reward[2].item() == rewards[2]
    newest = torch.from_numpy(steps[-1][1]["floats"])
    assert all(torch.equal(floats, newest) for floats in batch.next_obs["floats"])
    assert not batch.terminated.any() and not batch.truncated.any()
    assert batch.future_mask.tolist() == [[1, 1, 0], [1, 0, 0], [1, 0, 0]]


def test_n_step_return_reaches_past_a_terminal_step():
    spec = make_spec()
    steps = record(spec, [4, 4], endings=("terminated",))
    batch = feed(make_memory(spec, n_step=3), spec, steps)._gather(np.array([1, 2, 3, 4]))
    assert batch.discount.tolist() == pytest.approx([GAMMA**3, GAMMA**3, GAMMA**2, GAMMA])
    assert batch.terminated.tolist() == [0, 1, 1, 1]


# --- sampling ---


def test_reset_rows_or_some_steps_are_favoured():
    spec = make_spec()
    memory = feed(make_memory(spec, batch_size=1000), spec, record(spec, [1, 2, 3, 30, 1, 1, 5]))
    counts = np.bincount(sampled_rows(memory, 200), minlength=len(memory))
    fits = memory._is_complete(np.arange(len(memory)))
    assert (counts[~fits] == 0).all()
    mean = 200_000 / fits.sum()
    chi_square = ((counts[fits] - mean) ** 2 / mean).sum()
    assert chi_square < fits.sum() + 5 * np.sqrt(2 * fits.sum())


def test_sampling_depends_on_more_than_the_seed():
    spec = make_spec()
    steps = record(spec, [20] * 10)

    def batches(seed, chunks):
        return [batch.reward for batch in feed(make_memory(spec, seed=seed), spec, steps, chunks)]

    first = batches(7, (500,))
    assert len(first) == 3
    assert all(torch.equal(a, b) for a, b in zip(first, batches(7, (3, 11)), strict=True))
    assert not torch.equal(first[0], batches(8, (500,))[0])


def test_share_of_a_batch_comes_from_the_newest_rows_and_the_rest_from_all():
    spec = make_spec()
    memory = make_memory(spec, batch_size=40, recent_share=0.25, recent_rows=50)
    feed(memory, spec, record(spec, [20] * 20))
    rows = np.concatenate([memory._draw().reshape(1, -1) for _ in range(200)])
    assert (rows[:, 30:] >= len(memory) - 50).all()
    assert rows[:, :30].min() < 20 and rows[:, :30].max() > len(memory) - 20
    assert len(np.unique(rows[:, 30:])) > 30


def test_newest_rows_without_a_transition_leave_the_batch_to_all_rows():
    spec = make_spec()
    memory = make_memory(spec, batch_size=8, recent_share=1.0, recent_rows=3)
    feed(memory, spec, record(spec, [20] * 3 + [0] * 5))
    assert memory.sample().reward.shape == (8,)


def test_nothing_to_sample_loops_for_ever():
    spec = make_spec()
    memory = make_memory(spec)
    with pytest.raises(RuntimeError, match="empty"):
        memory.sample()
    feed(memory, spec, record(spec, [0, 0, 0]))
    with pytest.raises(RuntimeError, match="none of the replay's 3 rows"):
        memory.sample()


def test_a_gap_in_the_stream_is_stored():
    spec = make_spec()
    steps = record(spec, [3, 3], endings=("terminated",))
    with pytest.raises(ValueError, match="gap"):
        feed(make_memory(spec), spec, steps[1:])
    with pytest.raises(ValueError, match="gap"):
        feed(make_memory(spec), spec, steps[:4] + steps[5:])


def test_batch_is_overwritten_by_the_next_sample():
    spec = make_spec()
    memory = feed(make_memory(spec), spec, record(spec, [20] * 10))
    batch = memory.sample()
    before = pickle.dumps(batch)
    memory.sample()
    feed(memory, spec, record(spec, [30] * 30))
    assert pickle.dumps(batch) == before


def test_tmrl_reads_a_pickle_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.pkl").write_bytes(b"not ours")
    assert len(make_memory(make_spec())) == 0


def test_single_transition_differs_from_tmrls_order():
    spec = make_spec()
    steps = record(spec, [5, 5], endings=("terminated",))
    memory = feed(make_memory(spec), spec, steps)
    obs, action, reward, next_obs, terminated, truncated = memory[5]
    assert np.array_equal(obs["images"], steps[4][1]["images"])
    assert np.array_equal(next_obs["window"], steps[5][1]["window"])
    assert np.array_equal(action, steps[5][0]) and reward == np.float32(steps[5][2])
    assert terminated == 1 and truncated == 0
    with pytest.raises(IndexError):
        memory[6]  # a reset


# --- state, storage, memory ---


def test_restored_replay_samples_something_else():
    spec = make_spec()
    steps = record(spec, [20] * 10)

    class Kept(MemoryStorage):
        arrays = {}

        def array(self, name, shape, dtype):
            return self.arrays.setdefault(name, np.zeros(shape, dtype))

    memory = feed(make_memory(spec, capacity=90, storage=Kept()), spec, steps[:150])
    memory.sample()
    state = json.loads(json.dumps(memory.state_dict()))
    again = make_memory(spec, capacity=90, storage=Kept(), seed=99)
    again.load_state_dict(state)
    assert len(again) == 90 and again.env_steps == memory.env_steps
    assert torch.equal(again.sample().obs["window"], memory.sample().obs["window"])
    feed(again, spec, steps[150:])  # the open episode goes on
    with pytest.raises(ValueError, match="do not fit a replay of 80 rows"):
        make_memory(spec, capacity=80).load_state_dict(state)


def test_compressor_is_not_picklable_or_keeps_whole_observations():
    spec = make_spec(22, 3, 2, (4, 64, 64), 16, (0, *range(3, 22)))
    _, obs, rew, terminated, truncated, _ = record(spec, [5])[-1]
    act, small, *_, info = pickle.loads(pickle.dumps(SampleCompressor(spec)))(
        None, obs, rew, terminated, truncated, {1: 2}
    )
    assert act is None and info == {}
    assert np.array_equal(small["frame"], obs["images"][-1]) and small["frame"].base is None
    assert np.array_equal(small["sensors"], obs["floats"][:22]) and small["sensors"].base is None


@pytest.mark.parametrize("image", [(4, 64, 64), (4, 32, 32), None])
def test_memory_exceeds_the_raw_bytes(image):
    spec = make_spec(22, 3, 2, image, 16, (0, *range(3, 22)))
    memory = make_memory(spec, capacity=1000, slack=slack_of(1000))
    frame = 0 if image is None else image[1] * image[2]
    assert memory.nbytes <= 1.1 * 2024 * (frame + 26 * 4)
    told = forecast(spec, 1000)
    assert told.total_bytes == memory.nbytes and told.bytes_per_step * 2024 == memory.nbytes


# --- forecast ---


def test_too_large_replay_is_refused_without_advice():
    told = Forecast(
        capacity=1_000_000,
        bytes_per_step=4000,
        total_bytes=4_000_000_000,
        available_bytes=2_000_000_000,
        fitting_capacity=450_123,
    )
    with pytest.raises(ReplayTooLarge) as refusal:
        check(told)
    message = str(refusal.value)
    for part in (
        "replay.capacity=1000000 needs 4.0 GB",
        "only 2.0 GB are free",
        "replay.capacity=450000 would fit",
    ):
        assert part in message


def test_replay_that_fits_is_refused_or_takes_the_last_byte():
    spec = make_spec()
    fitting = forecast(spec, 10).fitting_capacity
    check(forecast(spec, fitting // 2))
    assert forecast(spec, fitting).total_bytes <= HEADROOM * available_memory() * 1.2  # others allocate meanwhile
    with pytest.raises(ReplayTooLarge):
        check(forecast(spec, fitting * 2))


@given(rows=st.integers(0, 10**9))
def test_slack_is_left_out_of_the_capacity_that_fits(rows):
    fitting = capacity_of(rows)
    assert fitting == 0 or fitting + slack_of(fitting) <= rows
    assert fitting + 2 + slack_of(fitting + 2) > rows


@pytest.mark.parametrize("version", [1, 2])
def test_limit_of_a_container_is_ignored(tmp_path, version):
    """The machine may have more memory than the control group, or a group above it, grants."""
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    if version == 2:
        group, names, line = root / "job", ("memory.max", "memory.current", "inactive_file"), "0::/job/step\n"
    else:
        group, line = root / "memory" / "job", "9:cpu,cpuacct:/\n4:memory:/job/step\n"
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (group / "step").mkdir(parents=True)
    membership.write_text(line)
    for folder, limit in ((group, 1000), (group / "step", 5000)):
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text("400\n")
        (folder / "memory.stat").write_text(f"anon 300\n{names[2]} 100\n")
    assert sorted(_group_memory(membership, root)) == [700, 4700]
    if version == 2:
        (group / names[0]).write_text("max\n")
        assert _group_memory(membership, root) == [4700]
    assert _group_memory(tmp_path / "not linux", root) == []


def test_free_memory_of_the_control_group_is_not_asked(monkeypatch):
    monkeypatch.setattr("app.replay.forecast._group_memory", lambda *_: [12345])
    assert available_memory() == 12345
    monkeypatch.setattr("app.replay.forecast._group_memory", lambda *_: [])
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=77))
    assert available_memory() == 77
