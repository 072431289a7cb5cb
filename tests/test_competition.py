"""Rules of tmrl's competition, and the latency of an act."""

import json
import math

import numpy as np
import pytest

from app.config.schema_commands import EvaluateConfig
from app.core.errors import UserError
from app.evaluation import competition
from app.evaluation.competition import TimedPolicy, drive_competition, latency
from app.evaluation.results import Episode
from app.training.evaluate_run import evaluate_run
from tests.helpers.runs import TINY
from tests.test_export import SMALLEST, make_run

CRASH = None


def drive(*lap_times: float | None) -> competition.CompetitionResult:
    """Episodes with these lap times in seconds; None is a crash."""
    ends = [Episode(1.0, 10, 0.5, time, "stalled" if time is None else "lap", 1, 0.0) for time in lap_times]
    result = drive_competition(lambda number: ends[number])
    assert len(result.attempts) == len(lap_times)
    return result


def config(run, **changed) -> EvaluateConfig:
    values = {"run": str(run), "bundle": None, "protocol": "tmrl", "folder": None, "tracks": None, "episodes": 10}
    values |= {"episodes_stochastic": 0, "device": "cpu", "threads": 1, "seed": 0, "video": False, "video_size": 64}
    values |= {"env_module": None}
    return EvaluateConfig(**values | changed)


def test_score_is_the_mean_time_of_ten_runs():
    result = drive(*np.arange(30.0, 40.0))
    assert result.score == (34.5, pytest.approx(math.sqrt(8.25))) and not result.is_eliminated


def test_crash_is_not_counted_and_adds_ten_seconds_to_the_next_run():
    result = drive(30.0, CRASH, *[30.0] * 9)
    assert result.times == [30.0, 40.0, *[30.0] * 8] and result.crashes == 1
    assert result.score[0] == 31.0


def test_penalties_of_crashes_in_a_row_add_up():
    assert drive(CRASH, CRASH, *[30.0] * 10).times == [50.0, *[30.0] * 9]


def test_policy_is_out_after_three_crashes():
    result = drive(*[30.0] * 9, CRASH, CRASH, CRASH)
    assert result.is_eliminated and result.score is None and len(result.times) == 9


def test_latency_is_that_of_the_acts():
    seconds = [0.001 * i for i in range(1, 101)]
    found = latency(seconds, 0.0905)
    assert found.mean == pytest.approx(np.mean(seconds)) and found.late == 0.1
    assert (found.p95, found.p99) == (pytest.approx(0.09505), pytest.approx(0.09901))


def test_every_act_is_timed(monkeypatch):
    times = iter([1.0, 1.5, 2.0, 2.25])
    monkeypatch.setattr(competition.time, "perf_counter", lambda: next(times))
    policy = TimedPolicy(lambda running, observations: [len(observations)])
    assert [policy([0], ["a"]), policy([0], ["a", "b"])] == [[1], [2]]
    assert policy.seconds == [0.5, 0.25]


def test_command_drives_from_the_start_line_of_every_track_and_records_all(tmp_path, capsys):
    make_run(tmp_path / "run", *TINY, "env.max_steps=5")
    evaluate_run(config(tmp_path / "run", tracks=(3, 4)))
    found = json.loads((tmp_path / "run" / "competition.json").read_text())
    assert [(one["track"], one["start"], one["outcome"]) for one in found["attempts"]] == [
        (3, 0.0, "timeout"), (4, 0.0, "timeout"), (3, 0.0, "timeout")
    ]  # fmt: skip
    assert found["eliminated"] and found["crashes"] == 3 and found["mean_time"] is None and found["best_epoch"] == 3
    assert 0 < found["latency_s"]["mean"] <= found["latency_s"]["p99"] and found["step_s"] == 0.05
    said = capsys.readouterr().out
    assert "eliminated after 3 crashes" in said and "ms of the 50 ms of a step" in said and "+20 s" in said


def test_task_without_laps_and_another_number_of_runs_are_refused_in_one_sentence(tmp_path):
    make_run(tmp_path / "gym", *SMALLEST)
    with pytest.raises(UserError, match="protocol = tmrl: env=Pendulum-v1 has no laps"):
        evaluate_run(config(tmp_path / "gym"))
    make_run(tmp_path / "run", *TINY)
    with pytest.raises(UserError, match="protocol = tmrl: drives 10 deterministic runs"):
        evaluate_run(config(tmp_path / "run", episodes=3))
