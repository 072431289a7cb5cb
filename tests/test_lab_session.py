"""One command of a lab with a launcher of its own in place of Hydra's, and jobs that train nothing."""

import json
import signal

import pytest
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus

import app.lab
from app.ablation import lab_job, lab_session
from app.ablation.lab_runs import LabFolder
from app.ablation.lab_sweeper import LabSweeper
from app.config.load import load
from app.config.schema_lab import LabConfig
from app.core.errors import UserError
from app.runs.config_file import write_config
from app.runs.lock import Lock
from tests.helpers.labs import epochs, lab_context, plan_of, read_rows, write_run


class FakeLauncher:
    """Runs jobs in this process, one after the other, as Hydra's basic launcher does."""

    def __init__(self, loader, cfg):
        self._loader, self._cfg, self.launched = loader, cfg, []

    def launch(self, job_overrides, initial_job_idx):
        return [self._run(list(overrides)) for overrides in job_overrides]

    def _run(self, overrides):
        cfg = self._loader.load_sweep_config(self._cfg, overrides)
        lab = load(lab_session.without_hydra(cfg), LabConfig)
        self.launched.append(lab.run_name)
        result = JobReturn()
        try:
            result.return_value = lab_job.run_job(lab)
            result.status = JobStatus.COMPLETED
        except Exception as error:
            result.return_value = error
            result.status = JobStatus.FAILED
        return result


def fake_train(config, propagate_interrupt):
    """Leave what a finished run leaves."""
    folder = lab_job.Path(config.runs_dir) / config.run_name
    write_config(folder / "config.yaml", config)
    lines = epochs(config.training.epochs, lap_share_det=0.5)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text(json.dumps({"stop_reason": "finished", "epoch": config.training.epochs}))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command with overrides; return the names of the runs that were launched."""
    monkeypatch.setattr(lab_job, "train", fake_train)
    monkeypatch.setattr(
        "app.ablation.report.write_report",
        lambda evidence, arms, folder, **commands: run_command.commands.update(commands) or (folder / "report.html",),
    )

    def run_command(*overrides):
        overrides = ("lab=smoke", f"labs_dir={tmp_path}", *overrides)
        with lab_context(*overrides) as (context, arguments):
            launcher = FakeLauncher(context["hydra_context"].config_loader, context["config"])
            monkeypatch.setattr(Plugins, "instantiate_launcher", lambda self, **_: launcher)
            try:
                lab_session.run_lab(context, arguments)
            finally:
                run_command.launched = launcher.launched
        return launcher.launched

    run_command.commands = {}
    return run_command


def ends(labs_dir) -> dict[str, str]:
    return {f"{row['arm']}-seed{row['seed']}": row["end"] for row in read_rows(labs_dir / "smoke")}


ALL = ["fixed-seed0", "collapse-seed0", "fixed-seed1", "collapse-seed1"]


def test_command_registers_the_sweeper_that_the_configuration_names():
    with lab_context() as (context, _):
        name = context["config"].hydra.sweeper._target_
    assert app.lab and Plugins.instance().class_name_to_class[name] is LabSweeper


def test_all_runs_are_launched_once_and_reported(run, tmp_path, capsys):
    assert run() == ALL and set(ends(tmp_path).values()) == {"finished"}
    out = capsys.readouterr().out
    assert "runs: 4, of which 0 are done" in out and f"report    {tmp_path}/smoke/report.html" in out
    assert run() == []
    assert "runs: 4, of which 4 are done" in capsys.readouterr().out


def test_device_that_this_machine_lacks_is_refused_before_any_run(run, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(UserError, match="device = cuda: this machine has 0 CUDA devices"):
        run("device=cuda")
    assert run.launched == []


def test_report_shows_the_command_and_the_runs_as_they_were_made(run, tmp_path):
    run("training.epochs=1", "arms=[fixed]")
    shown = run.commands
    assert shown["command"] == f"python app/lab.py lab=smoke labs_dir={tmp_path} training.epochs=1 'arms=[fixed]'"
    assert shown["run_overrides"]["fixed"] == ("env=sim_lidar", "training=smoke", "training.epochs=1")
    assert shown["run_overrides"]["collapse"][-1] == "experiment=collapse"


def test_more_epochs_continue_what_is_finished(run, tmp_path):
    run()
    assert run("training.epochs=1") == []
    assert run("training.epochs=3", "seeds=[1]") == ["fixed-seed1", "collapse-seed1"]
    assert len(read_rows(tmp_path / "smoke")) == 2 * 2 + 2 * 3


def test_chosen_runs_alone_are_launched_and_the_others_stay_in_the_table(run, tmp_path):
    assert run("arms=[collapse]", "seeds=[0]") == ["collapse-seed0"]
    assert ends(tmp_path) == dict.fromkeys(ALL, "to be done") | {"collapse-seed0": "finished"}


def test_failed_run_is_a_row_and_is_tried_again(run, tmp_path, monkeypatch, capsys):
    def train(config, propagate_interrupt):
        if config.run_name == "collapse-seed0":
            raise UserError("replay.capacity = 1: needs more memory.\nTake less.")
        fake_train(config, propagate_interrupt)

    with monkeypatch.context() as patch:
        patch.setattr(lab_job, "train", train)
        with pytest.raises(UserError, match="1 of 4 runs have not ended well; .*evidence.csv has the reasons"):
            run()
    assert run.launched == ALL
    assert ends(tmp_path)["collapse-seed0"] == "failed: replay.capacity = 1: needs more memory."
    assert "replay.capacity = 1" in (tmp_path / "smoke/runs/collapse-seed0.log").read_text()
    assert "collapse-seed0 failed: replay.capacity = 1" in capsys.readouterr().out
    assert run() == ["collapse-seed0"] and set(ends(tmp_path).values()) == {"finished"}


def test_job_that_fails_before_it_begins_is_a_row(run, tmp_path, monkeypatch):
    def run_job(lab):
        raise OSError("no space left")

    monkeypatch.setattr(lab_job, "run_job", run_job)
    with pytest.raises(UserError, match="4 of 4 runs have not ended well"):
        run()
    assert set(ends(tmp_path).values()) == {"failed: OSError: no space left"}


def test_table_is_written_after_every_run(run, tmp_path, monkeypatch):
    seen = []

    def train(config, propagate_interrupt):
        path = tmp_path / "smoke" / "evidence.csv"
        seen.append(sum(end == "finished" for end in ends(tmp_path).values()) if path.exists() else None)
        fake_train(config, propagate_interrupt)

    monkeypatch.setattr(lab_job, "train", train)
    run()
    assert seen == [None, 1, 2, 3]


def test_dry_run_of_a_lab_that_is_recorded_whole_has_nothing_left(run, capsys):
    assert run("lab=images", "lab.dry_run=true") == []
    printed = capsys.readouterr().out
    assert "12 recorded runs are not trained again" in printed
    assert "Every run is recorded: nothing is left to train." in printed


def test_dry_run_starts_and_writes_nothing(run, tmp_path, capsys):
    assert run("lab.dry_run=true", "training.updates_per_epoch=3600", "lab.seconds_per_update.sim_lidar=0.5") == []
    out = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [] and all(f"{name} " in out for name in ALL)
    assert "sim_lidar: about 4.0 core hours are left (0.5 s per update, lab.seconds_per_update)" in out


def test_hours_are_estimated_from_finished_runs_of_the_task(run, tmp_path, capsys):
    plan = plan_of(tmp_path, "lab=smoke", "training.updates_per_epoch=9000")
    write_run(plan, "fixed-seed0", epochs(2), stop_reason="finished", epoch=2)  # 0.2 s per update
    write_run(plan, "fixed-seed1", epochs(1), stop_reason="interrupted", epoch=1)
    run("lab.dry_run=true", "training.updates_per_epoch=9000")
    out = capsys.readouterr().out
    assert "runs: 4, of which 1 are done" in out
    assert "sim_lidar: about 2.5 core hours are left (0.2 s per update, measured in finished runs: 1)" in out


def test_hours_of_a_task_without_a_figure_are_unknown(run, capsys):
    run("lab.dry_run=true", "env.name=track9")
    text = "track9: an unknown number of core hours are left (no figure, lab.seconds_per_update)"
    assert text in capsys.readouterr().out


@pytest.mark.parametrize("number, error", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_signal_between_runs_stops_the_command_with_the_table_written(run, tmp_path, monkeypatch, number, error):
    before = signal.getsignal(number)

    def train(config, propagate_interrupt):
        fake_train(config, propagate_interrupt)
        signal.raise_signal(number)

    monkeypatch.setattr(lab_job, "train", train)
    with pytest.raises((error, KeyboardInterrupt)):
        run()
    assert run.launched == ALL[:2] and signal.getsignal(number) is before
    assert ends(tmp_path)["fixed-seed0"] == "finished" and ends(tmp_path)["fixed-seed1"] == "to be done"
    assert not LabFolder(tmp_path / "smoke").stop.exists()


def test_interrupted_run_ends_the_command(run, tmp_path, monkeypatch):
    def train(config, propagate_interrupt):
        raise KeyboardInterrupt

    monkeypatch.setattr(lab_job, "train", train)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert run.launched == ALL[:1] and set(ends(tmp_path).values()) == {"to be done"}


def test_job_of_another_process_saves_and_ends_when_the_command_stops(tmp_path, monkeypatch):
    plan, folder = plan_of(tmp_path, "lab=smoke"), LabFolder(tmp_path / "smoke")
    folder.write_plan([planned.run for planned in plan.runs])
    began = []

    def train(config, propagate_interrupt):
        began.append(config.run_name)
        folder.stop.touch()
        signal.sigtimedwait([], 20)  # until SIGTERM raises SystemExit, as a run does after it has saved

    monkeypatch.setattr(lab_job, "train", train)
    with lab_context("lab=smoke", f"labs_dir={tmp_path}", "run_name=fixed-seed0", "lab.process=other-1") as (
        context,
        _,
    ):
        lab = load(lab_session.without_hydra(context["config"]), LabConfig)
    lab_job.run_job(lab)
    lab_job.run_job(lab)  # those that wait do not begin
    assert began == ["fixed-seed0"] and (folder.evidence).exists()


def test_report_that_cannot_be_made_does_not_cost_the_table(run, tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError("no font")

    monkeypatch.setattr("app.ablation.report.write_report", fail)
    assert run() == ALL and set(ends(tmp_path).values()) == {"finished"}
    assert "The report cannot be made: OSError: no font" in capsys.readouterr().out


def test_lab_in_use_is_refused(run, tmp_path):
    with Lock(tmp_path / "smoke", "lab"), pytest.raises(UserError, match="the lab is in use by process"):
        run()


@pytest.mark.parametrize(
    "override, text",
    [
        ("agent.gamma=0.9,0.99", "agent.gamma=0.9,0.99: a lab compares arms"),
        ("seed=3", "seed=3: a lab sets this for its runs. Choose seeds with seeds=[0,1]."),
        ("run_name=mine", "run_name=mine: a lab sets this"),
        ("runs_dir=mine", "choose another place with labs_dir"),
        ("+restart=clean", "+restart=clean: a lab sets this for its runs. A lab continues its runs"),
        ("actor.detach=true", "actor.detach=true: would undo the faults and fixes that the arms consist of."),
        ("norm=layer", "norm=layer: would undo the faults"),
        ("experiment=collapse", "Leave it out, or add an arm with it"),
        ("role=server", "role=server: a lab sets this for its runs. Each trains in one process"),
    ],
)
def test_wrong_override_is_refused_in_a_sentence(override, text):
    class Context:
        config_loader = None

    with lab_context("lab=smoke", *([] if "," in override else [override])) as (context, _):
        with pytest.raises(UserError) as caught:
            lab_session.run_lab(context | {"hydra_context": Context}, ["lab=smoke", override])
    assert text in str(caught.value) and "\n" not in str(caught.value)
