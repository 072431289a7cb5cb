"""The comparison with other libraries, without the other libraries: simulator, settings, clock, tables."""

import json
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch

from app.evaluation.episodes import make_starts
from app.evaluation.evaluator import LocalEvaluator
from app.models.trunk import ScaleInputs
from benchmarks.peers import PER_CALL, Rates, lap_peers, rates_as_rows, updates_table
from benchmarks.peers_env import VectorSim, evaluate
from benchmarks.peers_laps import (
    READY,
    LapRun,
    Limits,
    is_done,
    laps_table,
    parse_evaluations,
    run_until_lap,
    summarize,
    summary_table,
)
from tests.helpers.make import compose

CONFIG = compose("model=droq", "env=sim_lidar")
SETTINGS = json.loads(json.dumps(asdict(CONFIG.env)))  # as a peer process gets it
SETUP = "import json, pathlib, time; folder = pathlib.Path({folder!r}); folder.mkdir(); (folder / {ready!r}).touch()\n"
LINE = "open(folder / 'metrics.jsonl', 'a').write(json.dumps(dict(laps_det={laps}, updates={updates})) + chr(10))\n"


def lap_run(agent: str, seed: int, laps: list[float], failure: str | None = None) -> LapRun:
    lines = [
        {"laps_det": share, "updates": 500 * i, "env_steps": 1000 * i, "cpu_s": 10.0 * i, "lap_time_det": 30.0}
        for i, share in enumerate(laps, 1)
    ]
    return LapRun(agent, seed, 2.0, 10.0 * len(laps), 99.0, 1.0, failure, lines)


def run_script(tmp_path, script: str, limits: Limits) -> LapRun:
    folder = tmp_path / "run"
    script = SETUP.format(folder=str(folder), ready=READY) + script
    return run_until_lap("fake", 0, [sys.executable, "-c", script], folder, {}, limits)


# The simulator


def test_peers_see_the_vector_that_our_networks_see():
    env = VectorSim(SETTINGS, seed=3)
    options = {"track": 1, "start": 0.25}
    seen, _ = env.reset(options=options)
    floats = env.unwrapped.reset(options=options)[0]["floats"]
    ours = ScaleInputs(env.unwrapped.observation_spec).floats({"floats": torch.from_numpy(floats)[None]})[0]
    assert seen.dtype == np.float32 and seen.shape == env.observation_space.shape == (28,)
    np.testing.assert_array_equal(seen, ours.numpy())


def test_peers_are_evaluated_as_our_agents_are():
    starts = make_starts(CONFIG.env.eval_tracks, 3, offset=0.0)
    action = np.array([0.6, -1, 0.1], np.float32)

    class Constant:
        device = "cpu"

        def actions(self, obs, *_):
            return torch.from_numpy(action).expand(len(obs["floats"]), -1)

    ours = LocalEvaluator(CONFIG.env, 0, lambda: None).evaluate(Constant(), starts, starts).metrics()
    envs = [VectorSim(SETTINGS, 0) for _ in starts]
    rows = [(start.track, start.position, start.seed) for start in starts]
    theirs = evaluate(lambda obs: np.tile(action, (len(obs), 1)), envs, rows)
    assert theirs == {name: ours[name] for name in ("laps_det", "lap_share_det")}


# Settings


def test_peers_as_ours_do_as_many_updates_per_step():
    for ratio in (0.3, 0.5, 1.0, 4.0, 20.0):
        config = compose("model=droq", f"training.max_training_steps_per_env_step={ratio}")
        for name, peer in lap_peers(config).items():
            if name.endswith("as-ours"):
                assert peer.agent["gradient_steps"] / peer.agent["train_freq"] == pytest.approx(ratio)
                assert peer.agent["batch_size"] == config.replay.batch_size
                assert peer.library == "sb3" or peer.agent["gradient_steps"] >= PER_CALL


# The clock


def test_half_a_line_is_read_when_it_is_whole():
    assert parse_evaluations('{"laps_det": 0.5}\n{"laps_d', 0) == [{"laps_det": 0.5}]
    assert parse_evaluations('{"laps_det": 0.5}\n{"laps_det": 1.0}\n', 1) == [{"laps_det": 1.0}]
    assert parse_evaluations("", 0) == []


@pytest.mark.parametrize(
    ("laps", "hold", "done"),
    [
        ([], 0, False),
        ([0.9], 0, False),
        ([1.0], 0, True),
        ([1.0], 1, False),
        ([1.0, 0.0], 1, True),
        ([1.0, 0], 3, False),
    ],
)
def test_a_run_is_done_after_its_first_full_evaluation_and_those_to_hold(laps, hold, done):
    assert is_done([{"laps_det": share} for share in laps], hold) == done


def test_a_run_ends_at_its_first_full_evaluation(tmp_path):
    script = LINE.format(laps=0.5, updates=500) + LINE.format(laps=1.0, updates=1000) + "time.sleep(60)"
    run = run_script(tmp_path, script, Limits(cpu_s=30, hold=0))
    assert run.failure is None and run.first_full["updates"] == 1000 and run.wall_s < 30
    assert 0 < run.start_cpu_s <= run.first_full["cpu_s"] <= run.cpu_s and run.held is None


def test_a_run_over_its_limit_is_ended_and_says_so(tmp_path):
    run = run_script(tmp_path, LINE.format(laps=0.5, updates=500) + "while True: pass", Limits(cpu_s=0.3, hold=0))
    assert run.failure == "ended after 0.3 CPU s" and run.first_full is None
    assert run.as_row()["best_laps"] == 0.5 and run.as_row()["cpu_s_full"] is None


def test_a_run_that_crashes_is_reported_with_its_last_words(tmp_path):
    run = run_script(tmp_path, "raise SystemExit('no wheels')", Limits(cpu_s=30, hold=0))
    assert run.failure == "exit code 1: no wheels" and not run.evaluations


# Tables


def test_the_share_that_holds_counts_the_evaluations_after_the_first_full_one():
    run = lap_run("droq", 0, [0.1, 1.0, 1.0, 0.9, 1.0])
    assert run.first_full["updates"] == 1000 and run.held == pytest.approx(2 / 3)


def test_the_summary_counts_failed_seeds_as_slower_than_all_others():
    failed = "ended after 30 CPU s"
    runs = [lap_run("droq", seed, [0.0] * seed + [1.0]) for seed in range(3)]
    runs += [lap_run("slow", 0, [0.0, 0.0, 0.0, 1.0]), lap_run("slow", 1, [1.0]), lap_run("slow", 2, [0.5], failed)]
    runs += [lap_run("worse", 0, [1.0]), lap_run("worse", 1, [0.5], failed), lap_run("worse", 2, [], failed)]
    rows = [run.as_row() for run in runs]
    droq, slow, worse = summarize(rows, "droq")
    assert (droq["full"], droq["cpu_s"], droq["times_ours"], droq["updates_full"]) == (3, 20.0, 1.0, 1000)
    assert (slow["full"], slow["cpu_s"], slow["times_ours"], slow["cpu_s_after_start"]) == (2, 40.0, 2.0, 38.0)
    assert (worse["full"], worse["cpu_s"], worse["times_ours"]) == (1, None, None)
    assert "| worse |                   1 of 3 |             - |" in summary_table([droq, slow, worse], "droq")
    table = laps_table(rows).splitlines()
    assert (
        len(table) == 2 + len(runs)
        and table[-1].endswith(f"| {failed} |")
        and table[2].endswith("|                 done |")
    )


def test_updates_are_compared_within_a_family_and_a_batch():
    rates = [
        Rates("SAC", 64, "ours", 1, 200, 1.5, [2.5, 2.0, 1.0]),
        Rates("SAC", 64, "peer", PER_CALL, 200, 9.0, [4.0, 5.0, 1.0]),
        Rates("SAC", 256, "ours", 1, 200, 8.0, [8.0]),
        Rates("DroQ", 64, "ours", 1, 200, 8.0, [8.0]),
        Rates("DroQ", 64, "peer", 1, 200, 8.0, [2.0]),
        Rates("SAC", 256, "peer", 1, 200, 8.0, [4.0]),
    ]
    rows = rates_as_rows(rates)
    assert [row["ours_times_faster"] for row in rows] == [1.0, 2.0, 1.0, 1.0, 0.25, 0.5]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in updates_table(rows).splitlines()[2:]]
    assert [line[:3] for line in lines] == [
        ["SAC", "ours", "64"],
        ["SAC", "peer", "64"],
        ["SAC", "ours", "256"],
        ["SAC", "peer", "256"],
        ["DroQ", "ours", "64"],
        ["DroQ", "peer", "64"],
    ]
    assert lines[1] == ["SAC", "peer", "64", "10", "50", "40", "200", "2.00", "5.0 s"]
