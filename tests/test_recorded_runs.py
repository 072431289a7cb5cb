"""Recorded evidence: what a lab leaves for machines without its run folders, and what such a machine makes of it."""

import io
import shutil

import pytest
from rich.console import Console

from app.ablation.evidence_runs import read_evidence
from app.ablation.evidence_table import write_evidence
from app.ablation.lab_plan import require_same_settings
from app.ablation.lab_runs import LabFolder, has_ended
from app.ablation.recorded_runs import find_recorded, remove_restored, restore, write_arms
from app.core.errors import UserError
from tests.helpers.labs import epochs, plan_of, read_rows, write_run
from tests.helpers.runs import ROOT


@pytest.fixture
def record(tmp_path):
    """The record of a lab with a finished run, a stopped one and one that ended with NaN."""
    plan, folder = plan_of(tmp_path / "there", "lab=smoke"), LabFolder(tmp_path / "there" / "smoke")
    write_run(plan, "fixed-seed0", epochs(2, lap_share_det=0.25, q_mean=1 / 3), stop_reason="finished", epoch=2)
    write_run(plan, "fixed-seed1", epochs(1), stop_reason="interrupted", epoch=1)
    write_run(plan, "collapse-seed1", epochs(1), stop_reason="not finite: loss_critic", epoch=1)
    folder.write_plan([planned.run for planned in plan.runs])
    write_evidence(folder)
    write_arms(folder, plan.runs)
    shutil.rmtree(folder.runs)
    return folder.path


def restore_all(record, labs_dir, *overrides):
    """Plan the lab in another folder and restore the record there; return the plan and what was printed."""
    plan, output = plan_of(labs_dir, "lab=smoke", *overrides), io.StringIO()
    for run in find_recorded(record, plan.runs, Console(file=output, width=1000)):
        restore(record, run)
    return plan, output.getvalue()


def ends(plan):
    return {planned.run.name: planned.run.end() for planned in plan.runs}


def test_runs_that_ended_elsewhere_are_done_here(record, tmp_path):
    plan, printed = restore_all(record, tmp_path / "here")
    assert ends(plan) == {
        "fixed-seed0": "finished",
        "fixed-seed1": "to be done",
        "collapse-seed0": "to be done",
        "collapse-seed1": "not finite: loss_critic",
    }
    assert has_ended(ends(plan)["collapse-seed1"]) and printed == ""
    require_same_settings(plan.runs)


def test_restored_runs_give_the_same_rows_again(record, tmp_path):
    plan, _ = restore_all(record, tmp_path / "here")
    folder = LabFolder(tmp_path / "here" / "smoke")
    folder.write_plan([planned.run for planned in plan.runs])
    write_evidence(folder)
    restored = {"finished", "not finite: loss_critic"}
    both = [[row for row in read_rows(path) if row["end"] in restored] for path in (record, folder.path)]
    assert both[0] == both[1] and len(both[0]) == 3


def test_run_of_this_machine_wins_over_the_record(record, tmp_path):
    plan = plan_of(tmp_path / "here", "lab=smoke")
    run = write_run(plan, "fixed-seed0", epochs(1))
    restore_all(record, tmp_path / "here")
    assert run.end() == "running/stopped" and run.epochs_done == 1


def test_recorded_run_with_fewer_epochs_is_done_again(record, tmp_path):
    plan, printed = restore_all(record, tmp_path / "here", "training.epochs=3")
    assert ends(plan)["fixed-seed0"] == "to be done"
    assert "has fewer epochs than are asked for of fixed-seed0" in printed


def test_restored_run_of_which_more_epochs_are_asked_for_makes_room_for_a_new_one(record, tmp_path):
    restore_all(record, tmp_path / "here")
    plan, output = plan_of(tmp_path / "here", "lab=smoke", "training.epochs=3"), io.StringIO()
    remove_restored([plan.runs[0]], Console(file=output, width=1000))
    assert ends(plan)["fixed-seed0"] == "to be done" and "is trained anew" in output.getvalue()


def test_collapse_of_a_recorded_run_is_that_of_the_record(tmp_path):
    plan, folder = plan_of(tmp_path / "there", "lab=smoke"), LabFolder(tmp_path / "there" / "smoke")
    write_run(plan, "fixed-seed0", epochs(2, return_test_det=None), stop_reason="finished", epoch=2)
    folder.write_plan([planned.run for planned in plan.runs])
    write_evidence(folder)
    write_arms(folder, plan.runs)
    restored, _ = restore_all(folder.path, tmp_path / "here")
    assert restored.runs[0].run.collapsed_at() == 1 and plan.runs[0].run.collapsed_at() is None


def test_recorded_runs_of_other_settings_are_left_out_and_named(record, tmp_path):
    plan, printed = restore_all(record, tmp_path / "here", "agent.lr_actor=3e-4")
    assert set(ends(plan).values()) == {"to be done"}
    assert "the runs of fixed are not used" in printed and "agent.lr_actor: 0.0001 → 0.0003" in printed


def test_recorded_runs_are_used_however_often_the_other_policy_is_judged(record, tmp_path):
    plan, _ = restore_all(record, tmp_path / "here", "training.eval_episodes_other=2")
    assert ends(plan)["fixed-seed0"] == "finished"


def test_half_restored_run_of_a_killed_command_is_restored_again(record, tmp_path):
    plan = plan_of(tmp_path / "here", "lab=smoke")
    draft = plan.runs[0].run.folder.path.with_name(".fixed-seed0")
    draft.mkdir(parents=True)
    (draft / "summary.json").write_text("{}")
    plan, _ = restore_all(record, tmp_path / "here")
    assert ends(plan)["fixed-seed0"] == "finished" and not draft.exists()


NO_UPDATES = "arm,seed,task,end,collapsed_at,epoch\nfixed,0,sim_lidar,finished,,1\nfixed,0,sim_lidar,finished,,2\n"


@pytest.mark.parametrize("text", [None, "", "arm,seed\nfixed,x\n", "\x00", NO_UPDATES])
def test_damaged_record_is_refused_in_one_sentence(record, tmp_path, text):
    table = record / "evidence.csv"
    table.unlink() if text is None else table.write_text(text)
    with pytest.raises(UserError, match=r"lab\.recorded = .* lab\.recorded=null trains every run"):
        restore_all(record, tmp_path / "here")


def test_record_without_an_arms_configuration_is_refused_in_one_sentence(record, tmp_path):
    shutil.rmtree(record / "arms")
    with pytest.raises(UserError, match=r"lab\.recorded = .*fixed\.yaml: cannot be read .* lab\.recorded=null"):
        restore_all(record, tmp_path / "here")


@pytest.mark.parametrize("record", sorted((ROOT / "docs" / "evidence").iterdir()), ids=lambda path: path.name)
def test_committed_record_has_the_configuration_of_every_arm_with_an_epoch(record):
    begun = {run.arm for run in read_evidence(record / "evidence.csv") if len(run.epochs)}
    assert begun and begun <= {path.stem for path in (record / "arms").glob("*.yaml")}
