"""Runs of a lab on the disk: how they ended, and the table of evidence made from them."""

import pytest

from app.ablation.evidence_table import write_evidence
from app.ablation.lab_plan import LabPlan
from app.ablation.lab_runs import LabFolder, has_ended
from app.core.errors import UserError
from tests.helpers.labs import epochs, plan_of, read_rows, write_run


@pytest.fixture
def plan(tmp_path) -> LabPlan:
    return plan_of(tmp_path, "lab=smoke")


def write_table(plan: LabPlan, labs_dir) -> list[dict[str, str]]:
    folder = LabFolder(labs_dir / "smoke")
    folder.write_plan([planned.run for planned in plan.runs])
    write_evidence(folder)
    return read_rows(folder.path)


@pytest.mark.parametrize(
    "summary, end, ended",
    [
        ({"stop_reason": "finished", "epoch": 2}, "finished", True),
        ({"stop_reason": "finished", "epoch": 9}, "finished", True),
        ({"stop_reason": "finished", "epoch": 1}, "running/stopped", False),
        ({"stop_reason": "interrupted", "epoch": 1}, "running/stopped", False),
        ({"stop_reason": "terminated", "epoch": 1}, "running/stopped", False),
        ({"stop_reason": "not finite: loss_critic", "epoch": 1}, "not finite: loss_critic", True),
        ({}, "running/stopped", False),
    ],
)
def test_end_of_a_run_is_its_stop_reason(plan, summary, end, ended):
    run = write_run(plan, "fixed-seed0", epochs(2), **summary)
    assert run.end() == end and has_ended(end) is ended


def test_run_without_a_folder_is_to_be_done(plan):
    assert plan.runs[0].run.end() == "to be done" and not has_ended("to be done")


@pytest.mark.parametrize("text", ["{", "[]", "null", ""])
def test_run_with_a_damaged_summary_continues(plan, text):
    run = write_run(plan, "fixed-seed0", epochs(2))
    run.folder.summary.write_text(text)
    assert run.end() == "running/stopped"


def test_failure_is_one_sentence_and_does_not_hide_that_a_run_is_finished(plan):
    run = plan.runs[0].run
    run.record_failure(UserError("disk: is full.\nFree some space."))
    assert run.end() == "failed: disk: is full." and not has_ended(run.end())
    write_run(plan, run.name, epochs(2), stop_reason="finished", epoch=2)
    assert run.end() == "finished"


def test_table_has_a_row_for_every_epoch_in_the_order_of_arm_seed_and_epoch(plan, tmp_path):
    for name in ("collapse-seed0", "fixed-seed1"):
        write_run(plan, name, epochs(2, q_mean=1.0), stop_reason="finished", epoch=2)
    rows = write_table(plan, tmp_path)
    assert [(row["arm"], row["seed"], row["end"], row["epoch"]) for row in rows] == [
        ("fixed", "0", "to be done", ""),
        ("fixed", "1", "finished", "1"),
        ("fixed", "1", "finished", "2"),
        ("collapse", "0", "finished", "1"),
        ("collapse", "0", "finished", "2"),
        ("collapse", "1", "to be done", ""),
    ]
    assert list(rows[0]) == [
        "arm", "seed", "task", "end", "collapsed_at", "epoch", "updates", "env_steps", "wall_s", "q_mean"
    ]  # fmt: skip
    assert rows[1]["task"] == "sim_lidar" and rows[2]["updates"] == "20" and rows[2]["wall_s"] == "4"


def test_numbers_have_six_digits_and_unknown_metrics_are_empty(plan, tmp_path):
    lines = epochs(1, a=1 / 3, b=None, c=12345678, d=float("nan"), e=1e-9)
    write_run(plan, "fixed-seed0", lines)
    write_run(plan, "fixed-seed1", epochs(1, f=2.5))
    first, second, *_ = write_table(plan, tmp_path)
    assert [first.get(name) for name in "abcdef"] == ["0.333333", None, "12345678", None, "1e-09", ""]
    assert [second[name] for name in "acef"] == ["", "", "", "2.5"]


def test_collapse_is_found_at_its_first_epoch(plan, tmp_path):
    healthy, broken = {"return_test_det": 400.0}, {"return_test_det": None}
    lines = [line | (broken if i >= 2 else healthy) for i, line in enumerate(epochs(4))]
    write_run(plan, "collapse-seed0", lines)
    write_run(plan, "fixed-seed0", epochs(2, **healthy))
    rows = write_table(plan, tmp_path)
    assert {row["collapsed_at"] for row in rows if row["arm"] == "collapse" and row["epoch"]} == {"3"}
    assert {row["collapsed_at"] for row in rows if row["arm"] == "fixed"} == {""}


def test_damaged_metrics_are_a_row_with_the_reason(plan, tmp_path):
    run = write_run(plan, "fixed-seed0", epochs(2))
    run.folder.metrics.write_text("{\n{}\n")
    row = write_table(plan, tmp_path)[0]
    assert row["end"].startswith(f"failed: {run.folder.metrics}: cannot be read (") and row["epoch"] == ""
    assert run.epochs_done == 0


@pytest.mark.parametrize(
    "text", ["{\n{}\n", "5\n", '{"step": 4, "epoch": 2}\n', '{"epoch": "x", "updates": 1, "wall_s": 1}\n']
)
def test_finished_run_with_damaged_metrics_has_failed_and_is_tried_again(plan, text):
    run = write_run(plan, "fixed-seed0", epochs(2), stop_reason="finished", epoch=2)
    run.folder.metrics.write_text(text)
    assert run.end().startswith("failed: ") and "is trained anew" in run.end() and not has_ended(run.end())
    assert run.epochs_done == 0


def test_half_a_line_of_a_killed_run_is_ignored(plan, tmp_path):
    run = write_run(plan, "fixed-seed0", epochs(2))
    with run.folder.metrics.open("a") as file:
        file.write('{"step": 30, "ep')
    assert [row["epoch"] for row in write_table(plan, tmp_path) if row["seed"] == "0"][:2] == ["1", "2"]


def test_unreadable_table_is_not_left_behind(plan, tmp_path, monkeypatch):
    write_run(plan, "fixed-seed0", epochs(1))
    write_table(plan, tmp_path)
    before = (tmp_path / "smoke" / "evidence.csv").read_bytes()
    write_run(plan, "fixed-seed1", epochs(2))
    monkeypatch.setattr("csv.writer", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_evidence(LabFolder(tmp_path / "smoke"))
    assert (tmp_path / "smoke" / "evidence.csv").read_bytes() == before
