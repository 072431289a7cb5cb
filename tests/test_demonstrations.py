"""Demonstrations: their file, what is refused, and what a run makes of them."""

import dataclasses
import json
import os
import zipfile

import numpy as np
import pytest

from app.config.schema import Config
from app.core.errors import UserError
from app.driving_game.game import play
from app.driving_game.recorder import EpisodeRecorder
from app.envs.driving.sim_env import SimEnv
from app.evaluation.episodes import Start, run_episodes
from app.replay.buffer import ReplayMemory
from app.replay.demonstrations import read_demonstrations, write_demonstrations
from app.replay.storage import MemoryStorage
from app.runs.run_folder import RunFolder
from app.training import run as run_module
from app.training.stop import INTERRUPTED, Stopped
from tests.helpers.make import compose
from tests.helpers.play import SHORT_TRACK, headless
from tests.helpers.runs import TINY, first_difference, result
from tests.helpers.stopped_runs import QUICK, raise_at_safe_point, stop_and_resume

# A replay that holds them with all steps of the run.
RUN = (*QUICK, *SHORT_TRACK, "replay.capacity=1000")


@pytest.fixture(scope="module")
def laps(tmp_path_factory):
    """A file with two laps of the reference driver, and their episodes."""
    folder = tmp_path_factory.mktemp("demonstrations")
    path = folder / "laps.npz"
    return path, play(headless(folder, "laps=2", "start=null", f"record={path}"))


@pytest.fixture(scope="module")
def env():
    return compose("env=sim_lidar", *SHORT_TRACK).env


def configure(folder, path, *overrides) -> Config:
    demonstrations = [] if path is None else [f"training.demonstrations={path}"]
    return compose(*RUN, *demonstrations, f"runs_dir={folder}", "run_name=run", *overrides)


def make_memory(spec, n_step=1, capacity=2000) -> ReplayMemory:
    config = dataclasses.replace(compose(*TINY).replay, capacity=capacity)
    return ReplayMemory(spec, config, n_step, 0.99, (), 1, "cpu", 0, MemoryStorage())


def drive_at_random(config, episodes, max_steps=60):
    """Return the observations, actions and rewards of episodes, and their steps as the replay stores them."""
    env = SimEnv(dataclasses.replace(config, max_steps=max_steps), [1, 2], seed=0)
    recorder, rng, driven, steps = EpisodeRecorder(env), np.random.default_rng(0), [], []
    for number in range(episodes):
        seen = []

        def policy(_, observations, seen=seen):
            seen.append((observations[0], np.clip(rng.normal([1.0, -1.0, 0.0], 0.5), -1, 1).astype(np.float32)))
            return [seen[-1][1]]

        run_episodes([recorder], [Start(1 + number % 2, 0.3 * number)], policy)
        driven.append(seen)
        steps.append(recorder.steps)
    return env.observation_spec, driven, steps


@pytest.mark.parametrize("option", ["sim", "sim_lidar"])
def test_replay_returns_the_observations_of_the_driver_bit_for_bit(tmp_path, option):
    config = compose(f"env={option}", *SHORT_TRACK).env
    spec, driven, steps = drive_at_random(config, 3)
    write_demonstrations(tmp_path / "x.npz", config, spec, steps, [{}] * 3)
    memory = make_memory(spec)
    memory.append_demonstrations(read_demonstrations(tmp_path / "x.npz", config, spec))
    assert len(memory) == sum(map(len, steps)) and memory.env_steps == 0
    row = 0
    for seen in driven:
        for age, (obs, action) in enumerate(seen, start=1):
            stored, stored_action, _, _, terminated, truncated, _ = memory.get_transition(row + age)
            assert all(np.array_equal(obs[part], stored[part]) for part in obs)
            assert np.array_equal(action, stored_action) and (terminated or truncated) == (age == len(seen))
        row += len(seen) + 1


def test_sums_of_several_rewards_end_with_the_episode(env, tmp_path):
    spec, driven, steps = drive_at_random(env, 2)
    write_demonstrations(tmp_path / "x.npz", env, spec, steps, [{}] * 2)
    one, many = make_memory(spec), make_memory(spec, n_step=8)
    for memory in (one, many):
        memory.append_demonstrations(read_demonstrations(tmp_path / "x.npz", env, spec))
    last = len(driven[0])  # row of the last transition of the first episode
    rewards = [one.get_transition(last - back)[2] for back in (2, 1, 0)]
    expected = sum(0.99**power * reward for power, reward in enumerate(rewards))
    assert many.get_transition(last - 2)[2] == pytest.approx(expected, rel=1e-5)


def test_file_holds_whole_laps_and_says_how_they_ended(laps, env):
    path, episodes = laps
    found = read_demonstrations(path, env, SimEnv(env, [1], 0).observation_spec)
    assert found.episodes == 2 and found.steps == sum(episode.length for episode in episodes)
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
    assert [one["outcome"] for one in about["episodes"]] == ["lap", "lap"]
    assert [one["driver"] for one in about["episodes"]] == ["reference"] * 2


def test_folder_of_files_is_read_as_one(laps, env, tmp_path):
    spec = SimEnv(env, [1], 0).observation_spec
    for name in ("a.npz", "b.npz"):
        (tmp_path / name).write_bytes(laps[0].read_bytes())
    one, both = (read_demonstrations(path, env, spec) for path in (laps[0], tmp_path))
    assert both.episodes == 4 and np.array_equal(both.arrays["rows"][len(one.resets) :], one.arrays["rows"])


# What is refused


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("env.step_s=0.1", r"env\.step_s: 0\.05 → 0\.1"),
        ("env.reward_per_metre=1", r"env\.reward_per_metre: 0\.5 → 1\.0"),
        ("env.lidar_beams=21", r"env\.lidar_beams: 19 → 21"),
        ("env.images=true", r"env\.images: false → true"),
        ("env.car.brake=20", r"env\.car\.brake: 14\.0 → 20\.0"),
        ("env.stall_steps=50", r"env\.stall_steps: 40 → 50"),
    ],
)
def test_other_settings_are_refused_with_the_difference(laps, tmp_path, override, line):
    with pytest.raises(UserError, match=rf"training\.demonstrations = .*\n(.*\n)*  {line}\n"):
        run_module.train(configure(tmp_path, laps[0], override))
    assert not (tmp_path / "run").exists()


def test_histories_and_tracks_may_differ(laps, env):
    other = dataclasses.replace(env, window=4, action_history=0, train_tracks=(5,), max_steps=7, random_start=False)
    spec = SimEnv(other, [1], 0).observation_spec
    assert read_demonstrations(laps[0], other, spec).episodes == 2


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def damage(content, path, how):
    """Write a damaged version of the arrays of a file."""
    rows, ends, resets = (content[name].copy() for name in ("rows", "ends", "resets"))
    about = json.loads(str(content["about"]))
    match how:
        case "not finite":
            rows[5, 0] = np.nan
        case "action too large":
            rows[5, -2] = 1.5
        case "open end":
            ends[-1] = False
        case "gap":
            resets[0] = False
        case "reset with a reward":
            rows[0, -1] = 1.0
        case "short":
            ends = ends[:-1]
        case "double precision":
            rows = rows.astype(np.float64)
        case "no rows":
            rows, ends, resets = rows[:0], ends[:0], resets[:0]
        case "newer format":
            about["format"] = 2
        case "no settings":
            about["made_under"] = []
        case "more arrays":
            content = content | {"frames": np.zeros(3)}
    with path.open("wb") as file:
        np.savez(file, **content | {"rows": rows, "ends": ends, "resets": resets, "about": np.array(json.dumps(about))})


@pytest.mark.parametrize(
    "how",
    [
        "not finite", "action too large", "open end", "gap", "reset with a reward", "short", "double precision",
        "no rows", "newer format", "no settings", "more arrays",
    ],
)  # fmt: skip
def test_damaged_file_is_refused(laps, env, tmp_path, how):
    with np.load(laps[0]) as file:
        content = dict(file)
    damage(content, tmp_path / "x.npz", how)
    with pytest.raises(UserError, match=r"training\.demonstrations = .*x\.npz: (is damaged|holds no demonstrations)"):
        read_demonstrations(tmp_path / "x.npz", env, SimEnv(env, [1], 0).observation_spec)


def test_hostile_file_executes_nothing(env, tmp_path):
    np.savez(tmp_path / "x.npz", about=np.array([Hostile(tmp_path / "made")], object))
    with pytest.raises(UserError, match="holds no demonstrations"):
        read_demonstrations(tmp_path / "x.npz", env, SimEnv(env, [1], 0).observation_spec)
    assert not (tmp_path / "made").exists()


def test_compressed_file_is_refused_before_it_is_unpacked(laps, env, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.npy", bytes(10_000_000))
    with pytest.raises(UserError, match="compressed"):
        read_demonstrations(tmp_path / "x.npz", env, SimEnv(env, [1], 0).observation_spec)


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip at all"])
def test_other_file_is_refused(env, tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(UserError, match="holds no demonstrations"):
        read_demonstrations(tmp_path / "x.npz", env, SimEnv(env, [1], 0).observation_spec)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
def test_pipe_is_refused_and_not_waited_for(env, tmp_path):
    os.mkfifo(tmp_path / "x.npz")
    with pytest.raises(UserError, match="is no regular file"):
        read_demonstrations(tmp_path, env, SimEnv(env, [1], 0).observation_spec)


def test_missing_file_and_empty_folder_are_refused(env, tmp_path):
    spec = SimEnv(env, [1], 0).observation_spec
    with pytest.raises(UserError, match=r"nowhere\.npz: there is no such file.*app/play\.py"):
        read_demonstrations(tmp_path / "nowhere.npz", env, spec)
    with pytest.raises(UserError, match=r"the folder holds no file \*\.npz"):
        read_demonstrations(tmp_path, env, spec)


def test_more_rows_than_the_replay_holds_are_refused(laps, tmp_path):
    with pytest.raises(UserError, match=r"rows and training\.start_training = 30 are more than replay\.capacity = 200"):
        run_module.train(configure(tmp_path, laps[0], "replay.capacity=200"))


# Runs


def counted(folder) -> tuple[int, int]:
    """Return the environment steps of a run, and the rows ever appended to its replay."""
    summary = json.loads(RunFolder(folder).summary.read_text())
    return summary["env_steps"], result(folder)["replay"]["appended"]


@pytest.fixture(scope="module")
def whole(laps, tmp_path_factory):
    """The result of a run that began with the laps and was never stopped."""
    runs = tmp_path_factory.mktemp("whole")
    run_module.train(configure(runs, laps[0]))
    return runs / "run"


def test_laps_count_as_no_steps_of_the_run(laps, whole, tmp_path, capsys):
    run_module.train(configure(tmp_path, None))
    (env_steps, _), (with_laps, rows) = counted(tmp_path / "run"), counted(whole)
    assert with_laps == env_steps
    lap_rows = sum(episode.length + 1 for episode in laps[1])
    assert lap_rows + env_steps < rows <= lap_rows + 2 * env_steps
    assert "demonstrated" not in capsys.readouterr().out


def test_rows_are_said_and_learned_from(laps, whole, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        raise_at_safe_point(patch, 5, Stopped(INTERRUPTED))
        run_module.train(configure(tmp_path, laps[0]))
    steps = sum(episode.length for episode in laps[1])
    text = " ".join(capsys.readouterr().out.split())
    assert f"The replay begins with {steps} steps of 2 demonstrated episodes from {laps[0]}" in text
    rewards = [json.loads(line)["reward_max"] for line in RunFolder(whole).metrics.read_text().splitlines()]
    assert rewards[0] > 0.9  # a car at 36 m/s or more, which no untrained policy reaches on this track


def test_file_of_a_new_run_is_read_once(laps, tmp_path, monkeypatch):
    read = []

    def count(path, *arguments):
        read.append(path)
        return read_demonstrations(path, *arguments)

    monkeypatch.setattr("app.training.resume.read_demonstrations", count)
    raise_at_safe_point(monkeypatch, 1, Stopped(INTERRUPTED))
    run_module.train(configure(tmp_path, laps[0]))
    assert read == [laps[0]]


def test_continued_run_does_not_load_them_twice(laps, whole, tmp_path, monkeypatch, capsys):
    stop_and_resume(monkeypatch, configure(tmp_path, laps[0]), 20, Stopped(INTERRUPTED))
    assert capsys.readouterr().out.count("demonstrated") == 1
    assert first_difference(result(whole), result(tmp_path / "run")) is None


def test_continued_run_takes_no_other_demonstrations(laps, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        raise_at_safe_point(patch, 20, Stopped(INTERRUPTED))
        run_module.train(configure(tmp_path, None))
    with pytest.raises(UserError, match=r"training\.demonstrations = .*would continue with its own replay"):
        run_module.train(configure(tmp_path, laps[0]))
