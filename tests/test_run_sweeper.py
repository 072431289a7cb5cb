"""Sweeper of a plain -m: what it refuses before any job starts."""

from pathlib import Path

import pytest

from app.core.errors import UserError
from app.sweep.run_sweeper import RunSweeper
from tests.helpers.make import QuickLoader, raw


class HydraContext:
    config_loader = QuickLoader()


def refusal(runs: Path | str, *arguments: str, base: tuple[str, ...] = ()) -> str:
    sweeper = RunSweeper(None)
    sweeper.hydra_context, sweeper.config = HydraContext(), raw(f"runs_dir={runs}", *base, hydra=True)
    with pytest.raises(UserError) as caught:
        sweeper.sweep(list(arguments))
    return str(caught.value)


@pytest.mark.parametrize(("arguments", "base"), [(["seed=0,1"], ("device=cuda",)), (["device=cpu,cuda"], ())])
def test_device_that_this_machine_lacks_is_refused_before_any_job(tmp_path, monkeypatch, arguments, base):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert "device = cuda: this machine has 0 CUDA devices" in refusal(tmp_path, *arguments, base=base)


def test_folder_of_runs_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    assert "runs_dir = /dev/null/a: the folder cannot be made or written" in refusal("/dev/null/a", "seed=0,1")
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "(it is read-only). Make it writable, or choose another" in refusal(tmp_path, "seed=0,1")


def test_home_folder_of_a_file_is_expanded_for_the_launch_and_its_jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    sweeper = RunSweeper(None)
    sweeper.config = raw("runs_dir='~/runs'", hydra=True)
    sweeper._configure_jobs(2, ["seed"])
    hydra = sweeper.config.hydra
    assert hydra.sweep.dir == f"{tmp_path}/runs" and hydra.overrides.hydra[-1] == f"hydra.sweep.dir='{tmp_path}/runs'"
    sweeper.config = raw("runs_dir=runs", hydra=True)
    sweeper._configure_jobs(2, ["seed"])
    assert "sweep.dir" not in "".join(sweeper.config.hydra.overrides.hydra)


def test_values_that_are_no_list_are_refused(tmp_path):
    text = refusal(tmp_path, "agent.gamma=interval(0.9,0.99)")
    assert text.startswith("agent.gamma=interval(0.9,0.99): an interval has no list of values to run.")
    assert "stands for no value" in refusal(tmp_path, "agent.gamma=range(3,3)")
