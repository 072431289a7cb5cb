"""The doctor's checks of this program: packages, device, environment, replay and folders."""

import shutil
import tempfile

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement

from app.diagnostics import system_checks
from app.diagnostics.check import Finding
from tests.helpers.doctor import (
    config_of,
    finding_of,
    isolate_home,
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    return isolate_home(tmp_path, monkeypatch)


def test_missing_package_is_reported(monkeypatch):
    assert system_checks.unmet_requirements(Requirement("gymnasium[box2d]>=1.1")) == []
    assert system_checks.unmet_requirements(Requirement("no-such-package>=1")) == ["no-such-package is not installed"]
    assert system_checks.unmet_requirements(Requirement("numpy>=1000")) == [f"numpy is {np.__version__}, not >=1000"]
    assert finding_of("packages", config_of()).state == "ok"
    true = system_checks.metadata.version

    def version(name):
        if name.lower() == "box2d":  # required by an extra of a required package
            raise system_checks.metadata.PackageNotFoundError(name)
        return {"rich": "1.0"}.get(name) or true(name)

    monkeypatch.setattr(system_checks.metadata, "version", version)
    finding = finding_of("packages", config_of())
    assert finding.state == "missing" and "pip install -c constraints.txt" in finding.remedy
    for words in ("ox2", "is not installed", "rich is 1.0, not >=13"):
        assert words in finding.message


def test_missing_extra_is_only_a_note(monkeypatch):
    monkeypatch.setattr(
        system_checks.metadata, "requires", lambda _: ["numpy", 'no-such>=2; extra == "board"', 'rich; extra == "b"']
    )

    class Headers(dict):
        def get_all(self, name):
            return ["board", "b"]

    monkeypatch.setattr(system_checks.metadata, "metadata", lambda _: Headers({"Requires-Python": ">=99"}))
    finding = finding_of("extras", config_of())
    assert finding.state == "note" and finding.message.endswith(": board (no-such is not installed)")
    assert finding_of("packages", config_of()).state == "ok"
    assert finding_of("Python", config_of()).state == "broken"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_reported(monkeypatch):
    finding = finding_of("device", config_of("device=cuda:1"))
    assert finding.state == "missing" and "device=cpu" in finding.remedy
    monkeypatch.setattr(system_checks.shutil, "which", lambda _: None)
    monkeypatch.setattr(system_checks.Path, "exists", lambda _: False)
    assert finding_of("device", config_of()).state == "ok"
    # A driver, and a torch without CUDA.
    monkeypatch.setattr(system_checks.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert finding_of("device", config_of()).state == "note"
    assert finding_of("device", config_of("device=cpu")).state == "ok"


def test_gpu_is_named_and_tried(monkeypatch):
    """The CPU stands in for a GPU."""
    monkeypatch.setattr("app.training.setup.resolve_device", lambda _: "cpu:0")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3_000_000_000, 8_000_000_000))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "GeForce")
    finding = finding_of("device", config_of())
    assert finding == Finding("ok", "cpu:0 is a GeForce with 8.0 GB of memory, 3.0 GB free")
    monkeypatch.setattr(torch, "arange", lambda *_, device: torch.zeros(8))
    assert finding_of("device", config_of()).state == "broken"


def test_more_threads_than_cores_are_noted(monkeypatch):
    monkeypatch.setattr(system_checks, "usable_cores", lambda: 4)
    assert finding_of("cores", config_of("threads=4")).state == "ok"
    assert finding_of("cores", config_of("threads=5")).state == "note"


@pytest.mark.parametrize("env", ["env=gym env.id=Pendulum-v1", "env=car_racing", "env=sim"])
def test_working_environment_is_ok(env):
    assert finding_of("environment", config_of("model=mlp", *env.split())).state == "ok"


def test_misspelt_task_is_reported():
    config = config_of("model=mlp", "env=gym", "env.id=Pandulum-v1")
    finding = finding_of("environment", config)
    assert finding.state == "broken" and "Pandulum" in finding.message
    assert finding_of("replay", config).state == "missing"


def test_replay_that_does_not_fit_is_reported(monkeypatch):
    finding = finding_of("replay", config_of("replay.capacity=100000000000"))
    assert finding.state == "missing" and "would fit" in finding.remedy and "of memory" in finding.message
    assert finding_of("replay", config_of()).state == "ok"
    small = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(system_checks.shutil, "disk_usage", lambda _: small)
    finding = finding_of("replay", config_of())
    assert finding.state == "missing" and "1.0 kB of the disk" in finding.message and "runs_dir=" in finding.remedy


def test_existing_replay_needs_no_further_space(home, monkeypatch):
    replay = home / "runs" / "droq_contextual-sim_lidar-seed0" / "replay"
    replay.mkdir(parents=True)
    monkeypatch.setattr(system_checks.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
    config = config_of("env=sim_lidar", "replay.capacity=2000", "replay.batch_size=64", "training.start_training=100")
    assert finding_of("replay", config).state == "missing"
    (replay / "x.bin").write_bytes(bytes(10_000_000))
    assert finding_of("replay", config).state == "ok"
    assert system_checks.occupied_bytes(home / "none") == 0


@pytest.mark.parametrize("kind", ["file", "below a file", "dangling", "forbidden"])
def test_folder_that_cannot_be_written_is_reported(home, kind, monkeypatch):
    place = home / "place"
    if kind == "dangling":
        place.symlink_to(home / "gone")
    elif kind == "forbidden":
        place.mkdir()

        def refuse(dir):
            raise PermissionError(13, "Permission denied", str(dir))

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    else:
        place.write_text("")
    folder = place / "runs" if kind == "below a file" else place
    finding = finding_of("runs_dir", config_of(f"runs_dir={folder}"))
    assert finding.state == "broken" and str(place) in finding.message and "runs_dir=" in finding.remedy
    assert ("Permission denied" in finding.message) == (kind == "forbidden")


def test_folder_that_can_be_made_is_ok_and_not_made(home):
    for folder in ("new/runs", str(home / "other"), "."):
        finding = finding_of("runs_dir", config_of(f"runs_dir={folder}"))
        assert finding.state == "ok" and "free" in finding.message
    assert list(home.iterdir()) == []
