"""Replay buffer: rebuilt transitions, returns, sampling and state."""

import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.replay.batch import Batch, random_batch
from app.replay.row_format import SampleCompressor
from app.replay.storage import MemoryStorage
from tests.helpers.replay import GAMMA, HORIZONS, append_steps, make_memory, random_steps, replay_spec


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
    replay_spec,
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
def test_rebuilt_transitions_equal_the_recorded_ones(spec, lengths, capacity, chunks, n_step, seed):
    steps = random_steps(spec, lengths, seed)
    memory = append_steps(make_memory(spec, capacity, n_step=n_step), spec, steps, chunks)
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


def test_window_stops_at_the_reset_of_its_episode():
    spec = replay_spec(window=6)
    steps = random_steps(spec, [9] * 20)
    memory = append_steps(make_memory(spec), spec, steps)
    ages = np.array([step[5] for step in steps])
    rows = memory._draw()
    batch = memory._gather(rows)
    for obs, age in ((batch.obs, ages[rows] - 1), (batch.next_obs, ages[rows])):
        filled = (obs["window"] != 0).any(dim=2).sum(dim=1).numpy()
        assert np.array_equal(filled, np.minimum(age + 1, 6))


def test_window_of_next_obs_is_shifted_by_one_step():
    spec = replay_spec()
    batch = append_steps(make_memory(spec), spec, random_steps(spec, [40] * 5)).sample()
    assert torch.equal(batch.next_obs["window"][:, :-1], batch.obs["window"][:, 1:])
    assert not torch.equal(batch.next_obs["window"], batch.obs["window"])


def test_rows_before_a_reset_are_zero_whatever_the_ring_holds():
    """Rows before a reset are zeros even where the ring holds NaN from an episode long gone."""
    spec = replay_spec()

    class Dirty(MemoryStorage):
        def array(self, name, shape, dtype):
            return np.full(shape, np.nan if dtype.kind == "f" else 1, dtype)

    memory = make_memory(spec, storage=Dirty())
    batch = append_steps(memory, spec, random_steps(spec, [3, 2, 4])).sample()
    assert all(tensor.isfinite().all() for tensor in (batch.obs["window"], batch.next_obs["window"], batch.reward))
    assert batch.future_rewards.isfinite().all()


def test_steps_of_simulator_size_are_reproduced_bit_for_bit():
    """The same with the sizes of the built-in simulator, through tmrl's own compressor call."""
    sensors = 22
    spec = replay_spec(sensors, 3, 2, (4, 64, 64), 16, (0, *range(3, sensors)))
    steps = random_steps(spec, [60, 3, 40])
    memory = append_steps(make_memory(spec, capacity=90), spec, steps, chunks=(1, 7))
    rows = np.flatnonzero(memory._is_complete(np.arange(90)))
    batch = memory._gather(rows)
    assert batch.obs["floats"].shape[1:] == (28,) and batch.obs["window"].shape[1:] == (16, 24)
    assert batch.obs["images"].dtype == torch.uint8 and batch.obs["images"].shape[1:] == (4, 64, 64)
    for b, row in enumerate(rows):
        assert_same(batch, b, expected(steps, len(steps) - 90 + row, 1, 90))


def test_vector_task_gets_floats_only():
    spec = replay_spec(3, 1, 0, None, 0, ())
    batch = append_steps(make_memory(spec), spec, random_steps(spec, [30, 30])).sample()
    assert set(batch.obs) == {"floats"} and batch.obs["floats"].shape == (64, 3)


# --- returns and ends ---


def test_terminated_and_truncated_are_kept_apart():
    spec = replay_spec()
    steps = random_steps(spec, [2] * 60)
    memory = append_steps(make_memory(spec), spec, steps)
    rows = np.flatnonzero(memory._is_complete(np.arange(len(memory))))
    batch = memory._gather(rows)
    assert batch.terminated.bool().tolist() == [steps[row][3] for row in rows]
    assert batch.truncated.bool().tolist() == [steps[row][4] for row in rows]
    assert batch.terminated.any() and batch.truncated.any()


def test_n_step_return_ends_at_the_newest_row():
    """A partial sum bootstraps from the newest row; nothing of the oldest rows of the ring leaks in."""
    spec = replay_spec()
    steps = random_steps(spec, [100])
    memory = append_steps(make_memory(spec, capacity=40, n_step=3), spec, steps)
    batch = memory._gather(np.array([37, 38, 39]))
    rewards = np.array([step[2] for step in steps[-3:]], dtype=np.float32)
    assert batch.discount.tolist() == pytest.approx([GAMMA**3, GAMMA**2, GAMMA])
    assert batch.reward[1].item() == pytest.approx(rewards[1] + GAMMA * rewards[2], rel=1e-5)
    assert batch.reward[2].item() == rewards[2]
    newest = torch.from_numpy(steps[-1][1]["floats"])
    assert all(torch.equal(floats, newest) for floats in batch.next_obs["floats"])
    assert not batch.terminated.any() and not batch.truncated.any()
    assert batch.future_mask.tolist() == [[1, 1, 0], [1, 0, 0], [1, 0, 0]]


def test_n_step_return_ends_at_a_terminal_step():
    spec = replay_spec()
    steps = random_steps(spec, [4, 4], endings=("terminated",))
    batch = append_steps(make_memory(spec, n_step=3), spec, steps)._gather(np.array([1, 2, 3, 4]))
    assert batch.discount.tolist() == pytest.approx([GAMMA**3, GAMMA**3, GAMMA**2, GAMMA])
    assert batch.terminated.tolist() == [0, 1, 1, 1]


# --- sampling ---


def test_transitions_are_sampled_uniformly_and_resets_never():
    spec = replay_spec()
    memory = append_steps(make_memory(spec, batch_size=1000), spec, random_steps(spec, [1, 2, 3, 30, 1, 1, 5]))
    counts = np.bincount(sampled_rows(memory, 200), minlength=len(memory))
    fits = memory._is_complete(np.arange(len(memory)))
    assert (counts[~fits] == 0).all()
    mean = 200_000 / fits.sum()
    chi_square = ((counts[fits] - mean) ** 2 / mean).sum()
    assert chi_square < fits.sum() + 5 * np.sqrt(2 * fits.sum())


def test_sampling_depends_on_the_seed_alone():
    spec = replay_spec()
    steps = random_steps(spec, [20] * 10)

    def batches(seed, chunks):
        return [batch.reward for batch in append_steps(make_memory(spec, seed=seed), spec, steps, chunks)]

    first = batches(7, (500,))
    assert len(first) == 3
    assert all(torch.equal(a, b) for a, b in zip(first, batches(7, (3, 11)), strict=True))
    assert not torch.equal(first[0], batches(8, (500,))[0])


def test_share_of_a_batch_comes_from_the_newest_rows_and_the_rest_from_all():
    spec = replay_spec()
    memory = make_memory(spec, batch_size=40, recent_share=0.25, recent_rows=50)
    append_steps(memory, spec, random_steps(spec, [20] * 20))
    rows = np.concatenate([memory._draw().reshape(1, -1) for _ in range(200)])
    assert (rows[:, 30:] >= len(memory) - 50).all()
    assert rows[:, :30].min() < 20 and rows[:, :30].max() > len(memory) - 20
    assert len(np.unique(rows[:, 30:])) > 30


def test_newest_rows_without_a_transition_leave_the_batch_to_all_rows():
    spec = replay_spec()
    memory = make_memory(spec, batch_size=8, recent_share=1.0, recent_rows=3)
    append_steps(memory, spec, random_steps(spec, [20] * 3 + [0] * 5))
    assert memory.sample().reward.shape == (8,)


def test_sampling_without_a_transition_is_refused():
    spec = replay_spec()
    memory = make_memory(spec)
    with pytest.raises(RuntimeError, match="empty"):
        memory.sample()
    append_steps(memory, spec, random_steps(spec, [0, 0, 0]))
    with pytest.raises(RuntimeError, match="none of the replay's 3 rows"):
        memory.sample()


def test_sample_apart_leaves_the_batches_of_training_as_they_are():
    spec = replay_spec()
    memories = [append_steps(make_memory(spec), spec, random_steps(spec, [20] * 5)) for _ in range(2)]
    first, again, other = (memories[0].sample_apart(32, seed) for seed in ((0, 1), (0, 1), (0, 2)))
    assert len(first.reward) == 32 and torch.equal(first.reward, again.reward)
    assert not torch.equal(first.reward, other.reward)
    assert torch.equal(*(memory.sample().reward for memory in memories))
    assert make_memory(spec).sample_apart(32, (0, 1)) is None


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 14), min_size=1, max_size=12),
    capacity=st.integers(2, 60),
    n_step=st.integers(1, 4),
    since=st.integers(0, 60),
    limit=st.integers(1, 60),
    seed=st.integers(0, 10**6),
)
def test_finished_episodes_are_the_newest_whole_ones_within_the_limit(lengths, capacity, n_step, since, limit, seed):
    spec = replay_spec(image=(2, 3, 2))
    steps = random_steps(spec, lengths, seed)
    memory = append_steps(make_memory(spec, capacity, n_step=n_step), spec, steps)
    rng = memory.rng.bit_generator.state
    oldest, wanted = len(steps) - len(memory), []
    for end in reversed(range(max(since, oldest), len(steps))):
        if not (steps[end][3] or steps[end][4]):
            continue
        first = max(end + 1 - steps[end][5], end + 1 - limit + sum(map(len, wanted)))
        rows = [i for i in range(first, end + 1) if i >= oldest and history_start(spec, steps, i) >= oldest]
        if not rows:
            break
        wanted.insert(0, rows)
    episodes = memory.finished_episodes(since, limit)
    assert [len(one.reward) for one in episodes] == [len(rows) for rows in wanted]
    for episode, rows in zip(episodes, wanted, strict=True):
        for b, i in enumerate(rows):
            assert_same(episode, b, expected(steps, i, n_step, capacity))
    assert memory.rng.bit_generator.state == rng


def test_gap_in_the_stream_is_refused():
    spec = replay_spec()
    steps = random_steps(spec, [3, 3], endings=("terminated",))
    with pytest.raises(ValueError, match="gap"):
        append_steps(make_memory(spec), spec, steps[1:])
    with pytest.raises(ValueError, match="gap"):
        append_steps(make_memory(spec), spec, steps[:4] + steps[5:])


def test_batch_keeps_its_values_after_the_next_sample():
    spec = replay_spec()
    memory = append_steps(make_memory(spec), spec, random_steps(spec, [20] * 10))
    batch = memory.sample()
    before = pickle.dumps(batch)
    memory.sample()
    append_steps(memory, spec, random_steps(spec, [30] * 30))
    assert pickle.dumps(batch) == before


def test_pickle_in_the_working_directory_is_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.pkl").write_bytes(b"not ours")
    assert len(make_memory(replay_spec())) == 0


def test_single_transition_has_tmrls_order():
    spec = replay_spec()
    steps = random_steps(spec, [5, 5], endings=("terminated",))
    memory = append_steps(make_memory(spec), spec, steps)
    obs, action, reward, next_obs, terminated, truncated = memory[5]
    assert np.array_equal(obs["images"], steps[4][1]["images"])
    assert np.array_equal(next_obs["window"], steps[5][1]["window"])
    assert np.array_equal(action, steps[5][0]) and reward == np.float32(steps[5][2])
    assert terminated == 1 and truncated == 0
    with pytest.raises(IndexError):
        memory[6]  # a reset


# --- state ---


class SharedArrays(MemoryStorage):
    """Arrays in memory that a second replay can open, as the files of a run."""

    def __init__(self):
        self._arrays = {}

    def array(self, name, shape, dtype):
        return self._arrays.setdefault(name, np.zeros(shape, dtype))


def test_restored_replay_samples_the_same_batches():
    spec = replay_spec()
    steps = random_steps(spec, [20] * 10)
    storage = SharedArrays()
    memory = append_steps(make_memory(spec, capacity=90, storage=storage), spec, steps[:150])
    memory.sample()
    state = json.loads(json.dumps(memory.state_dict()))
    again = make_memory(spec, capacity=90, storage=storage, seed=99)
    again.load_state_dict(state)
    assert len(again) == 90 and again.env_steps == memory.env_steps
    assert torch.equal(again.sample().obs["window"], memory.sample().obs["window"])
    append_steps(again, spec, steps[150:])  # the open episode continues
    with pytest.raises(ValueError, match="do not fit a replay of 80 rows"):
        make_memory(spec, capacity=80).load_state_dict(state)


@pytest.mark.parametrize("recent_share", [0.0, 0.3, 1.0])
def test_restored_replay_draws_the_rows_of_one_that_was_never_stopped(recent_share):
    spec, storage = replay_spec(), SharedArrays()
    steps = random_steps(spec, [20] * 15)
    options = {"capacity": 120, "batch_size": 32, "recent_share": recent_share, "recent_rows": 30}
    never_stopped = make_memory(spec, **options)
    stopped = make_memory(spec, storage=storage, **options)
    for memory in (never_stopped, stopped):
        append_steps(memory, spec, steps[:200])
        sampled_rows(memory, 3)
    state = json.loads(json.dumps(stopped.state_dict()))
    restored = make_memory(spec, storage=storage, seed=99, **options)
    restored.load_state_dict(state)
    assert np.array_equal(sampled_rows(restored, 3), sampled_rows(never_stopped, 3))
    for memory in (never_stopped, restored):
        append_steps(memory, spec, steps[200:])
    assert np.array_equal(sampled_rows(restored, 3), sampled_rows(never_stopped, 3))


def test_compressor_is_picklable_and_keeps_only_the_newest_sensors_and_frame():
    spec = replay_spec(22, 3, 2, (4, 64, 64), 16, (0, *range(3, 22)))
    _, obs, rew, terminated, truncated, _ = random_steps(spec, [5])[-1]
    act, small, *_, info = pickle.loads(pickle.dumps(SampleCompressor(spec)))(
        None, obs, rew, terminated, truncated, {1: 2}
    )
    assert act is None and info == {}
    assert np.array_equal(small["frame"], obs["images"][-1]) and small["frame"].base is None
    assert np.array_equal(small["sensors"], obs["floats"][:22]) and small["sensors"].base is None


# --- random batches ---


@pytest.mark.parametrize("image", [(4, 3, 2), None])
def test_random_batch_has_the_shapes_of_a_sampled_one(image):
    spec = replay_spec(image=image)
    sampled = append_steps(make_memory(spec, batch_size=4), spec, random_steps(spec, [20])).sample()
    noise = random_batch(spec, 4, len(HORIZONS))
    for one, other in zip(noise, sampled, strict=True):
        assert not isinstance(other, dict) or one.keys() == other.keys()
        parts = ((one[key], other[key]) for key in other) if isinstance(other, dict) else ((one, other),)
        assert all((a.shape, a.dtype) == (b.shape, b.dtype) for a, b in parts)


def test_random_batch_depends_on_its_generator_alone():
    spec = replay_spec()
    state = torch.get_rng_state()
    first, second = (random_batch(spec, 4, 3, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first.obs["floats"], second.obs["floats"]) and torch.equal(first.reward, second.reward)
    assert not torch.equal(first.obs["floats"], first.next_obs["floats"])
    assert torch.equal(torch.get_rng_state(), state)
