"""Restart in tmrl's own data folder: the files of the named run are taken, and those of other runs stay."""

import os
from pathlib import Path

import pytest

from app.core.errors import UserError
from app.runs.manifest import KINDS
from app.runs.restart.apply import archive, remove
from app.runs.restart.tmrl_data import plan_tmrl_data
from tests.helpers.restart import listed_world, needs_links, shown, snapshot


@pytest.fixture
def w(tmp_path):
    return listed_world(tmp_path)


@pytest.fixture
def tmrl(tmp_path):
    """A TmrlData folder, and the files in it that belong to the run "car"."""
    taken = {
        "dataset/rows.pkl": True, "dataset/a b ü.pkl": True, "dataset/notes.txt": False, "dataset/1.png": False,
        "dataset/deep/rows.pkl": False, "checkpoints/car_t.tcpt": True, "checkpoints/car": True,
        "checkpoints/car2_t.tcpt": False, "checkpoints/car_v2_t.tcpt": False, "checkpoints/dataset.tar": False,
        "weights/car.tmod": True, "weights/car_t.tmod": True, "weights/car_22_11_2026_22_30_15.tmod": True,
        "weights/car2.tmod": False, "weights/car_2.tmod": False, "weights/mycar.tmod": False,
        "weights/car/x.tmod": False, "reward/reward.pkl": False, "reward/car.pkl": False, "config/config.json": False,
        "config/car.tmod": False, "maps/car.Map.Gbx": False, "car.tmod": False, "x.pkl": False,
    }  # fmt: skip
    for path in taken:
        (tmp_path / "TmrlData" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "TmrlData" / path).write_text(path)
    return tmp_path / "TmrlData", {path for path, of_car in taken.items() if of_car}


def test_only_the_run_and_the_dataset_are_removed_from_tmrl_data(tmrl, w):
    data, taken = tmrl
    before = snapshot(data)
    plan = plan_tmrl_data(data, "car", KINDS)
    assert {item.path.relative_to(data).as_posix() for item in plan.items} == taken
    assert {item.path.parent.name: item.kind for item in plan.items} == {
        "dataset": "replay", "checkpoints": "checkpoints", "weights": "weights"
    }  # fmt: skip
    both = w.plan(("replay",)).joined(plan)
    receipt = remove(both)
    assert len(receipt.done) == 1 + len(taken) and receipt.path.parent.parent == w.root / "history"
    assert snapshot(data) == {path: node for path, node in before.items() if Path(path).as_posix() not in taken}


def test_tmrl_data_is_moved_to_the_archive_of_the_run(tmrl, w):
    data, taken = tmrl
    receipt = archive(w.plan().joined(plan_tmrl_data(data, "car", KINDS)))
    assert all((receipt.moved_to / "TmrlData" / path).read_text() == path for path in taken)
    assert (receipt.moved_to / "replay" / "rows.bin").is_file()
    assert {"dataset", "checkpoints", "weights"} <= set(os.listdir(data))  # tmrl expects them to be there


def test_only_the_chosen_kinds_are_taken_from_tmrl_data(tmrl):
    data, _ = tmrl
    assert {item.path.parent.name for item in plan_tmrl_data(data, "car", ["weights"]).items} == {"weights"}
    assert plan_tmrl_data(data, "car", ["study"]).items == ()


def test_files_of_another_run_are_reported_as_left_alone(tmrl):
    data, _ = tmrl
    refused = {skipped.path.name for skipped in plan_tmrl_data(data, "car", KINDS).skipped}
    assert refused == {"car_v2_t.tcpt", "car_2.tmod", "car"}  # the last is a folder in weights/


@needs_links
def test_links_in_tmrl_data_are_not_followed(tmp_path):
    data, elsewhere = tmp_path / "TmrlData", tmp_path / "elsewhere"
    for folder in (data / "weights", elsewhere):
        folder.mkdir(parents=True)
    for name in ("a.pkl", "car_t.tcpt", "car.tmod"):
        (elsewhere / name).write_text("theirs")
    (data / "dataset").symlink_to(elsewhere)
    (data / "weights" / "car.tmod").symlink_to(elsewhere / "car.tmod")
    plan = plan_tmrl_data(data, "car", KINDS)
    assert not plan.items and {skipped.path.name for skipped in plan.skipped} == {"dataset", "car.tmod"}


def test_missing_tmrl_data_has_an_empty_plan(tmp_path):
    assert plan_tmrl_data(tmp_path / "TmrlData", "car", KINDS).items == ()


def test_run_that_tmrl_does_not_have_is_told(tmrl):
    data, _ = tmrl
    (told,) = (one for one in plan_tmrl_data(data, "cra", KINDS).skipped if one.path == data)
    assert told.reason == "holds no checkpoint and no weights of a run cra (restart.tmrl_run)"
    assert not any(one.path == data for one in plan_tmrl_data(data, "car", ("replay",)).skipped)


def test_empty_name_of_a_tmrl_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"restart\.tmrl_run = ''"):
        plan_tmrl_data(tmp_path, "", KINDS)


@pytest.mark.skipif(os.name != "posix", reason="names are Unicode elsewhere")
def test_name_that_is_not_unicode_can_be_printed_and_recorded(tmp_path, monkeypatch, w):
    monkeypatch.chdir(tmp_path)  # a longer path is folded
    path = tmp_path / "TmrlData" / "dataset" / os.fsdecode(b"\xff.pkl")
    path.parent.mkdir(parents=True)
    try:
        path.write_text("x")
    except OSError:
        pytest.skip("the file system takes only Unicode")
    plan = w.plan().joined(plan_tmrl_data(tmp_path / "TmrlData", "car", KINDS))
    assert "\\xff.pkl" in shown(plan, "delete", False)
    assert "\\\\xff.pkl" in remove(plan).path.read_text("utf-8")
