"""Post-mortem of a run: its figures are those of the metrics, it names faults and their repair, and costs no run."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from app.ablation import run_post_mortem as command
from app.ablation.evidence_panels import MEASURES, MECHANISMS
from app.ablation.failure_order import examine, mechanism_metrics
from app.ablation.repair_command import repair_command
from app.ablation.run_post_mortem import run_post_mortem, write_after_collapse
from app.config.faults import FAULTS, faults_of
from app.config.schema_commands import PostMortemConfig
from app.core.errors import UserError
from app.launch import run_role
from app.runs.config_file import write_config
from app.runs.run_folder import RunFolder
from tests.helpers.browser import CHROMIUM, open_page
from tests.helpers.evidence import make_arm, synthetic_rows, write_rows
from tests.helpers.make import compose
from tests.helpers.runs import ROOT
from tests.helpers.stopped_runs import PENDULUM, QUICK, configure
from tests.test_evidence_report import HOSTILE, Cells, drawn

EPOCHS = 12
LABS = {"sim_lidar": "docs/evidence/full"}  # as in conf/postmortem.yaml
FIXED = make_arm("fixed", "reference", (), EPOCHS)
BROKEN = ("env=sim_lidar", "encoder.dropout=0.1", "actor.detach=false")
LOST_LAP = {"lap_share_det": 0.2, "lap_share_stoch": 0.2}


@pytest.fixture
def record(tmp_path) -> Path:
    write_rows(tmp_path / "record" / "evidence.csv", synthetic_rows([FIXED], "sim_lidar", 4))
    (tmp_path / "record" / "arms").mkdir()
    write_config(tmp_path / "record" / "arms" / "fixed.yaml", compose("env=sim_lidar"))
    return tmp_path / "record"


def healthy_lines() -> list[dict]:
    """The metrics of a run that is in the record."""
    lines = []
    for row in synthetic_rows([FIXED], "sim_lidar", 1):
        cells = {name: value for name, value in row.items() if name not in ("arm", "seed", "task", "end")}
        del cells["collapsed_at"], cells["q_mean"]  # from which health would judge rewards that are not here
        numbers = {name: None if value != value else float(value) for name, value in cells.items()}
        lines.append(numbers | {"step": int(row["updates"]), "epoch": row["epoch"]})
    return lines


def make_run(tmp_path, *overrides: str, name: str = "mine", **changed) -> Path:
    """Write a run whose metrics are healthy but for those that change: first epoch and value, by name."""
    lines = healthy_lines()
    for line in lines:
        line |= {metric: value for metric, (epoch, value) in changed.items() if line["epoch"] >= epoch}
    path = tmp_path / "runs" / name
    path.mkdir(parents=True)
    write_config(path / "config.yaml", compose(*(overrides or ("env=sim_lidar",))))
    (path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def settings(run, record=None, **changed) -> PostMortemConfig:
    given = {"run": str(run), "record": None if record is None else str(record), "records": {}}
    return PostMortemConfig(**{**given, "video": False, "video_size": 64, "threads": 1, "env_module": None, **changed})


def page_of(run, record=None, **changed) -> Cells:
    run_post_mortem(settings(run, record, **changed))
    return Cells((run / "postmortem.html").read_text())


# --- what the page says ----------------------------------------------------------------------------------


def test_healthy_run_left_no_band(tmp_path, record):
    text = page_of(make_run(tmp_path), record).text
    assert "No measure left its band." in text and "No fault with a switch" in text
    assert "First out of its band" not in text and "counts as collapsed" not in text


def test_first_measure_that_left_its_band_is_named_and_those_that_followed(tmp_path, record):
    gap = {"train_eval_gap_q": (5, 7.5), "dormant_share": (8, 0.9)}
    run = make_run(tmp_path, *BROKEN, **gap, **{name: (9, value) for name, value in LOST_LAP.items()})
    cells = page_of(run, record)
    assert f"First out of its band, in epoch 5: {MEASURES['train_eval_gap_q'][0]}, 7.5 where" in cells.text
    assert [row[0] for row in cells.rows[1:]] == ["5", "8", "9", "9"]
    share = healthy_lines()[7]["lap_share_det"]
    assert [row[5] for row in cells.rows[1:]][1:3] == [f"{share:.2f}, then down to 0.20", "0.20"]


def test_figures_are_those_of_the_metrics(tmp_path, record):
    run = make_run(tmp_path, entropy=(6, 9.0))
    page_of(run, record)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    shown = {
        tuple(trace["y"]) for one in drawn(run / "postmortem.html").values() for trace in one["data"]
        if trace.get("name") == "run"
    }  # fmt: skip
    for metric in ("entropy", "feature_rank", "lap_share_det", "alpha"):
        assert tuple(line[metric] for line in lines) in shown
    assert tuple(line["q_predicted"] - line["q_earned"] for line in lines) in shown
    axes = {tuple(one["layout"]["xaxis"]["range"]) for one in drawn(run / "postmortem.html").values()}
    assert axes == {(0.5, EPOCHS + 0.5)}


def test_source_of_the_bands_and_its_number_of_runs_are_named(tmp_path, record):
    text = page_of(make_run(tmp_path), record).text
    assert f"healthy runs 4, of {record}" in text and f"the 4 runs of the arm fixed in {record}/evidence.csv" in text


def test_faults_of_the_configuration_and_their_repair_are_named(tmp_path, record):
    text = page_of(make_run(tmp_path, *BROKEN, train_eval_gap_q=(5, 7.5)), record).text
    known = "Known to move the measure that left first, and in this run: fault 3: dropout in the context encoder"
    assert f"{known} (encoder.dropout = 0.1)." in text
    assert "with its measures in their bands or not known: faults 4 and 5: actor gradient" in text
    assert "encoder.dropout: 0.0 → 0.1" in text and "actor.detach: true → false" in text
    assert re.search(r"python app/train.py [^<]*encoder.dropout=0.0 [^<]*without-fault-3", text)
    assert re.search(r"python app/train.py [^<]*actor.detach=true [^<]*without-fault-4-5", text)


def test_collapse_is_told_as_health_sees_it(tmp_path, record):
    overrides = ("env=sim_lidar", "health.collapse.low_score=1", "health.collapse.low_epochs=2")
    text = page_of(make_run(tmp_path, *overrides), record).text
    assert "collapsed from epoch 2 on: the health score is below 1 for 2 epochs" in text


def test_hostile_text_is_harmless(tmp_path, record):
    run = make_run(tmp_path, entropy=(6, 9.0), name="a<img src=x onerror=alert(1)>")
    (run / "summary.json").write_text(json.dumps({"stop_reason": HOSTILE}))
    cells = page_of(run, record)
    assert [tag for tag, _ in cells.tags].count("script") == 2 and not any(tag == "img" for tag, _ in cells.tags)
    assert not any(name.startswith("on") for _, attrs in cells.tags for name in attrs)


# --- without a record that fits --------------------------------------------------------------------------


def test_missing_record_is_told_with_the_command_that_makes_one(tmp_path):
    text = page_of(make_run(tmp_path, *BROKEN), tmp_path / "nowhere", records=LABS).text
    assert f"({tmp_path}/nowhere/evidence.csv is missing). python app/lab.py lab=full arms=[fixed] makes some" in text
    assert "This run has fault 3: dropout in the context encoder" in text


def test_record_of_the_task_is_taken_unless_one_is_named(tmp_path, record):
    run = make_run(tmp_path)
    assert run_post_mortem(settings(run, records={"sim_lidar": str(record)})).record == record
    assert run_post_mortem(settings(run, records={"sim": str(record)})).record is None
    assert "There are no recorded healthy runs on sim_lidar" in Cells((run / "postmortem.html").read_text()).text


def test_two_healthy_runs_are_too_few(tmp_path, record):
    write_rows(record / "evidence.csv", synthetic_rows([FIXED], "sim_lidar", 2))
    assert "has 2 runs of the arm fixed on sim_lidar, and a band needs 3." in page_of(make_run(tmp_path), record).text


def test_epochs_of_another_length_are_not_compared(tmp_path, record):
    run = make_run(tmp_path, "env=sim_lidar", "training.updates_per_epoch=50")
    text = page_of(run, record, records=LABS).text
    assert "An epoch of this run has 50 updates" in text and "lab.name=healthy makes some" in text


# --- faults and commands ---------------------------------------------------------------------------------


def test_every_fault_with_a_switch_has_measures_and_no_other_fault_has():
    with_switch = {fault.number for fault in FAULTS if fault.switch is not None}
    assert {number for one in MECHANISMS for number in one.faults} == with_switch
    assert all(mechanism_metrics(number) for number in with_switch)
    assert {name for one in MECHANISMS for name in one.metrics} <= MEASURES.keys()


@pytest.mark.parametrize(
    "overrides",
    [
        BROKEN,
        ("env=sim", "experiment=collapse", "value=scalar", "seed=3"),
        ("env=sim_lidar", "agent.betas_critic=[0.9,0.999]", "agent.betas_actor=[0.9,0.999]", "agent.gamma=0.95"),
        ("env=gym", "model=mlp", "env.id=Pendulum-v1", "log_std_min=-2", "training=full"),
        ("env=car_racing", "experiment=many_tracks", "training.max_training_steps_per_env_step=20", "model=droq"),
    ],
)
def test_command_repeats_the_run_with_only_its_fault_repaired(overrides):
    config = compose(*overrides)
    broken = [state.fault for state in faults_of(config) if state.fixed is False]
    for fault in broken:
        words = shlex.split(repair_command(config, [fault]))
        again = compose(*words[2:])
        left = {state.fault.number for state in faults_of(again) if state.fixed is False}
        assert left == {one.number for one in broken if one.switch is not fault.switch}
        assert (again.seed, again.env, again.value) == (config.seed, config.env, config.value)
        assert again.run_name == f"{config.run_name}-without-fault-{fault.number}"


# --- wrong input -----------------------------------------------------------------------------------------


def test_folder_without_a_run_or_an_epoch_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"run = .*: holds no run \(.*config.yaml is missing\)"):
        examine(RunFolder(tmp_path), {})
    run = make_run(tmp_path)
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="has not finished an epoch"):
        examine(RunFolder(run), {})


@pytest.mark.parametrize("line", ["{", "[1]", '{"step": 1}', '{"step": 1, "epoch": "one"}'])
def test_damaged_metrics_are_refused_in_one_sentence(tmp_path, line):
    run = make_run(tmp_path)
    (run / "metrics.jsonl").write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"metrics.jsonl: cannot be read \(") as error:
        examine(RunFolder(run), {})
    assert "\n" not in str(error.value)


def test_damaged_record_is_refused_in_one_sentence(tmp_path, record):
    (record / "evidence.csv").write_text("arm\nfixed\n")
    with pytest.raises(UserError, match="is no table of evidence"):
        page_of(make_run(tmp_path), record)


@pytest.mark.e2e
def test_command_writes_the_page_and_answers_mistakes_in_a_sentence(tmp_path, record):
    def postmortem(*words):
        return subprocess.run(
            [sys.executable, "app/postmortem.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=200
        )

    run = make_run(tmp_path, *BROKEN, entropy=(6, 9.0))
    done = postmortem(f"run={run}", f"record={record}")
    assert done.returncode == 0 and "First out of its band, in epoch 6: entropy" in done.stdout, done.stderr
    text = Cells((run / "postmortem.html").read_text()).text
    assert "without-fault-3" in text and "No videos: " in text  # it has no weights
    for words, sentence in (
        ((f"run={tmp_path}/none",), "holds no run"),
        ((f"run={run}", "recrod=x"), "recrod: there is no such key. Did you mean record"),
        ((f"run={run}", "video_size=1"), "video_size = 1: must be"),
    ):
        failed = postmortem(*words)
        assert failed.returncode == 1 and sentence in failed.stderr and "Traceback" not in failed.stderr


# --- by itself after a run -------------------------------------------------------------------------------

COLLAPSES = ("health.collapse.low_score=1", "health.collapse.low_epochs=1")


def test_collapsed_run_writes_the_page_with_both_policies(tmp_path, capsys):
    config = configure(tmp_path, *QUICK, *COLLAPSES, "logger.video=true", "logger.video_size=64")
    run_role(config)
    page = tmp_path / "run" / "postmortem.html"
    assert f"What failed first: {page}" in capsys.readouterr().out.replace("\n", "")
    cells = Cells(page.read_text())
    sources = [attrs["src"][:22] for tag, attrs in cells.tags if tag == "video"]
    assert sources == ["data:video/mp4;base64,"] * 2
    assert "Best policy, after epoch" in cells.text and "Last policy, after epoch 3" in cells.text
    assert "collapsed from epoch 1 on" in cells.text
    written = page.stat().st_mtime_ns
    run_role(config)  # finished already
    assert page.stat().st_mtime_ns == written


def test_run_that_has_not_collapsed_writes_no_page(tmp_path):
    run_role(configure(tmp_path, *PENDULUM, "training.epochs=1"))
    assert not (tmp_path / "run" / "postmortem.html").exists()


def test_page_that_fails_costs_a_line_and_not_the_run(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise ZeroDivisionError("of the page")

    monkeypatch.setattr(command, "examine", fail)
    assert run_role(configure(tmp_path, *QUICK, *COLLAPSES, "training.epochs=1")) == pytest.approx(0.0, abs=1e9)
    assert "The post-mortem cannot be written: ZeroDivisionError: of the page" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["stop_reason"] == "finished"


def test_damaged_metrics_after_a_run_cost_a_line(tmp_path, capsys):
    run = make_run(tmp_path)
    (run / "metrics.jsonl").write_text("{\n")
    write_after_collapse(compose("env=sim_lidar", f"runs_dir={tmp_path}/runs", "run_name=mine"), Console())
    assert "The post-mortem cannot be written: ValueError: line 1" in capsys.readouterr().out


# --- in a browser ----------------------------------------------------------------------------------------


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium in PATH")
@pytest.mark.parametrize("width", [390, 1280])
def test_page_draws_every_figure_in_a_browser_and_asks_for_nothing(tmp_path, record, width):
    run = make_run(tmp_path, *BROKEN, entropy=(6, 9.0), dormant_share=(8, 0.9))
    page_of(run, record)
    seen = open_page(run / "postmortem.html", tmp_path, width)
    assert seen["problems"] == [] and seen["requests"] == []
    assert seen["drawn"] == seen["plots"] == len(drawn(run / "postmortem.html")) > 15
    assert seen["too_wide"] == 0
    shown, needed = seen["width"]
    assert needed <= shown == width
