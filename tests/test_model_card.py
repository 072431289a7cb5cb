"""Model card of an exported policy: its metadata, and figures that are those of the recorded episodes."""

import json

import numpy as np
import pytest
import yaml
from scipy import stats

from app.config.schema_commands import ExportConfig
from app.evaluation.results import Episode, Evaluation
from app.export_bundle.model_card import figures, front_matter, recorded_episodes, render_card, task_text
from app.reporting.bootstrap import Precision
from app.runs.run_folder import RunFolder
from tests.helpers.make import compose, with_requirements

LAP_TIMES = (25.0, 24.5, 26.0, 24.0)
REACHED = {"best_epoch": 7, "lap_share_det": 1.0, "lap_time_det": 24.6, "return_test_det": 500.5}
PRECISION = Precision(0.9, 2000)


def episodes(lap_times=LAP_TIMES) -> tuple[Episode, ...]:
    return tuple(
        Episode(500 + i, 490, 1.0 if time else 0.5, time, "lap" if time else "stalled", 1 + i % 2, i / 10, None, 25.0)
        for i, time in enumerate(lap_times)
    )


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder(tmp_path)


def record(path, content, best_epoch=7) -> None:
    path.write_text(json.dumps({"best_epoch": best_epoch, **content}))


def card(rows=(), recorded=None, license=None, env="sim_lidar", **description) -> str:
    given = {"run": "mine", "made_by": "us", "reached": REACHED, "interface": {"step": "0.05 s"}}
    config = compose(*with_requirements(f"env={env}"), "encoder.dropout=0.1" if env == "sim" else "seed=3")
    cfg = ExportConfig("runs/mine", None, license, PRECISION.resamples, PRECISION.confidence, None)
    return render_card({**given, "observation": {"image_shape": None}, **description}, config, rows, recorded, cfg)


def metadata(text: str) -> dict:
    before, block, _ = text.split("---\n", 2)
    assert before == ""
    return yaml.safe_load(block)


def test_figures_and_intervals_are_those_of_the_episodes(run):
    record(run.summary, {"episodes": Evaluation(episodes(), ()).episodes()})
    recorded = recorded_episodes(run, 7)
    rows = {row.key: row for row in figures(recorded, {}, PRECISION)}
    expected = stats.bootstrap(
        [LAP_TIMES], np.mean, confidence_level=0.9, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert rows["lap_time"].value == "0:24.875"
    assert rows["lap_time"].interval == f"0:{expected.low:.3f} to 0:{expected.high:.3f}"
    assert rows["finished_laps"].value == "4 of 4" and rows["lap_time_ratio"].value == "0.995"
    assert rows["mean_reward"].value == "501.5" and rows["mean_reward"].interval != ""
    assert rows["lap_share"].value == "100 %" and rows["lap_share"].interval == ""  # no spread


def test_single_episode_has_no_interval():
    from app.export_bundle.model_card import RecordedEpisodes

    rows = figures(RecordedEpisodes("summary.json", episodes((25.0,))), {}, PRECISION)
    assert all(row.interval == "" for row in rows)


def test_newer_evaluation_goes_before_the_summary(run):
    record(run.summary, {"episodes": Evaluation(episodes(), ()).episodes()})
    record(run.evaluation, Evaluation(episodes((30.0, None)), ()).episodes())
    recorded = recorded_episodes(run, 7)
    assert recorded.file == "evaluation.json" and [episode.lap_time for episode in recorded.episodes] == [30.0, None]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "[" * 100_000, '{"best_epoch": 7}', '{"best_epoch": 7, "deterministic": [{"ret": "<b>"}]}',
     '{"best_epoch": 7, "deterministic": 3}', '{"best_epoch": 6, "deterministic": []}'],
)  # fmt: skip
def test_episodes_of_another_policy_and_damaged_records_are_not_shown(run, text):
    run.evaluation.write_text(text)
    assert recorded_episodes(run, 7) is None


def test_task_without_laps_has_its_return(run):
    found = [Episode(-100.0 - i, 200, float("nan"), None, "timeout", 0, 0.0) for i in range(3)]
    record(run.evaluation, json.loads(json.dumps(Evaluation(tuple(found), ()).episodes()).replace("NaN", "null")))
    assert [row.key for row in figures(recorded_episodes(run, 7), {}, PRECISION)] == ["mean_reward"]


def test_metadata_is_what_the_hub_reads(run):
    record(run.summary, {"episodes": Evaluation(episodes(), ()).episodes()})
    recorded = recorded_episodes(run, 7)
    rows = figures(recorded, {}, PRECISION)
    found = metadata(card(rows, recorded, license="apache-2.0", run='a: b\n--- "x"'))
    assert found["license"] == "apache-2.0" and found["pipeline_tag"] == "reinforcement-learning"
    (result,) = found["model-index"][0]["results"]
    assert found["model-index"][0]["name"] == 'a: b\n--- "x"'
    assert result["dataset"] == {"type": "sim_lidar", "name": "sim_lidar"}
    assert [metric["type"] for metric in result["metrics"]] == [row.key for row in rows]
    assert all(set(metric) == {"type", "name", "value", "verified"} for metric in result["metrics"])


def test_license_that_nobody_stated_is_said_to_be_unknown():
    text = card()
    assert metadata(text)["license"] == "unknown" and "Not stated. Ask the person who trained it" in text
    assert card(license="mit").endswith("## License\n\nmit\n")


def test_result_without_a_metric_is_left_out():
    assert "model-index" not in yaml.safe_load(front_matter("x", compose("env=sim_lidar"), (), "mit"))


def test_figures_that_chose_the_policy_are_said_to_flatter_it():
    rows = figures(None, REACHED, PRECISION)
    text = card(rows)
    assert "so these figures flatter it" in text and "| lap time (m:ss) | 0:24.600 | – |" in text
    assert "(seed 3)" in text and "in epoch 7" in text


@pytest.mark.parametrize("env", ["sim", "sim_lidar", "car_racing", "gym", "trackmania"])
def test_card_of_every_task_says_what_it_drives_and_its_limits(env):
    text = card(env=env)
    config = compose(*with_requirements(f"env={env}"))
    assert task_text(config) in text and "It has no notion of safety" in text
    assert ("Trained with faults" in text) is (env == "sim") and ("encoder.dropout=0.1" in text) is (env == "sim")
