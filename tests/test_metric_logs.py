"""TensorBoard's tab HPARAMS and Weights & Biases: what they get, and that their failure never costs a run."""

import json
import logging
import os
import platform
import subprocess
import sys
import types
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from app.config.load import unknown_key
from app.config.schema import Config
from app.reporting.metric_logs import TensorBoardLog, hyperparameters, metric_logs
from app.reporting.metrics import MetricsWriter
from app.runs.run_folder import RunFolder
from app.training.run import train
from tests.helpers.make import compose
from tests.helpers.runs import ROOT
from tests.helpers.stopped_runs import PENDULUM, QUICK, Killed, configure, raise_at_safe_point

FIGURES = {"lap_share_det": 0.75, "updates": 20, "stop_reason": "finished", "lap_time_det": float("nan")}
WANDB = "Weights & Biases"


def hparams(folder: Path) -> dict[str, HParamsPluginData]:
    """What the tab HPARAMS reads, by tag."""
    found = EventAccumulator(str(folder)).Reload().PluginTagToContent("hparams")
    return {tag: HParamsPluginData.FromString(content) for tag, content in found.items()}


# --- TensorBoard -----------------------------------------------------------------------------------------


def test_hyperparameters_and_final_figures_reach_the_tab_of_one_run(tmp_path):
    settings = {"agent.gamma": 0.95, "actor.detach": True, "env.name": "sim", "backbone.stages": [{"channels": 8}]}
    writer = MetricsWriter(tmp_path, 0, {"TensorBoard": lambda: TensorBoardLog(tmp_path / "tb", 0, settings)})
    writer.write(10, {"loss_critic": 0.5})
    writer.finish(20, FIGURES, is_finished=True)
    writer.close()
    (events,) = (tmp_path / "tb").iterdir()  # no second folder, which TensorBoard would show as a second run
    found = hparams(tmp_path / "tb")
    values = found["_hparams_/session_start_info"].session_start_info.hparams
    assert values["agent.gamma"].number_value == 0.95 and values["actor.detach"].string_value == "true"
    assert values["env.name"].string_value == "sim" and "channels" in values["backbone.stages"].string_value
    tags = {metric.name.tag for metric in found["_hparams_/experiment"].experiment.metric_infos}
    scalars = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert set(scalars.Tags()["scalars"]) == {"loss/loss_critic", "final/lap_share_det", "final/updates"}
    assert {"final/lap_share_det", "final/updates"} <= tags
    (final,) = scalars.Scalars("final/lap_share_det")
    assert (final.step, final.value) == (20, 0.75)
    assert found["_hparams_/session_end_info"].session_end_info.status == 1  # STATUS_SUCCESS


def test_counters_that_are_the_horizontal_axis_are_no_tags(tmp_path):
    log = TensorBoardLog(tmp_path, 0, {})
    log.write(10, {"epoch": 1, "updates": 10, "env_steps": 80})
    log.close()
    assert EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"] == ["training/env_steps"]


def test_records_in_the_history_are_no_run_of_tensorboard(tmp_path):
    folder = RunFolder(tmp_path)
    TensorBoardLog(folder.tensorboard, 0, {}).close()
    aside = folder.move_records_to_history()
    (events,) = (aside / "tensorboard").iterdir()
    assert "tfevents" not in events.name and not list(tmp_path.rglob("*tfevents*"))


def test_session_of_a_run_that_may_continue_stays_open(tmp_path):
    log = TensorBoardLog(tmp_path, 0, {"agent.gamma": 0.95})
    log.finish(20, {"updates": 20.0}, is_finished=False)
    log.close()
    assert "_hparams_/session_end_info" not in hparams(tmp_path)


def test_run_writes_its_result_into_the_tab(tmp_path):
    train(configure(tmp_path, *QUICK, "logger.tensorboard=true", "training.epochs=1"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    scalars = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert scalars.Scalars("final/return_test_det")[0].value == pytest.approx(summary["return_test_det"])
    assert "_hparams_/session_end_info" in hparams(tmp_path / "run" / "tensorboard")


def test_hyperparameters_hold_no_paths_addresses_or_secrets():
    secret = ("network.password=secret", "training.init_from=runs/mine", "runs_dir=/home/me", "network.host=me.org")
    found = hyperparameters(compose("env=sim_lidar", *secret))
    assert {"agent.gamma", "seed", "env.name", "norm.kind"} <= found.keys()
    text = json.dumps(found)
    assert not any(word in text for word in ("secret", "runs/mine", "/home/me", "me.org"))


# --- Weights & Biases, whose package is replaced -----------------------------------------------------------


class Service(types.ModuleType):
    """Stands in for the package ``wandb``: keeps what it gets, and fails where it is told to."""

    def __init__(self, fails_at=None, logged_in=True):
        super().__init__("wandb")
        self.fails_at, self.logged_in = fails_at, logged_in
        self.ids, self.lines, self.summary, self.config = [], [], {}, None
        self.Settings = dict

    def _may_fail(self, name):
        if name == self.fails_at:
            raise ConnectionError(f"no service at {name}")

    def login(self, prompt):
        assert prompt is False  # nothing may wait for an answer on the terminal
        return self.logged_in

    def init(self, **given):
        self._may_fail("init")
        self.ids.append(given["id"])
        self.config, self.given = given["config"], given
        return self

    def define_metric(self, *_, **__):
        pass

    def log(self, line):
        self._may_fail("log")
        self.lines.append(line)

    def finish(self):
        self._may_fail("finish")


def with_service(monkeypatch, **settings) -> Service:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    service = Service(**settings)
    monkeypatch.setitem(sys.modules, "wandb", service)
    return service


def write_all(folder: Path, config: Config) -> None:
    writer = MetricsWriter(folder, 0, metric_logs(RunFolder(folder), config, 0))
    for step in (10, 20):
        writer.write(step, {"loss_critic": step / 10})
    writer.finish(20, FIGURES, is_finished=True)
    writer.close()


@pytest.fixture(scope="module")
def config() -> Config:
    return compose("env=sim_lidar", "logger=wandb", "logger.tensorboard=false", "logger.wandb.entity=team")


def test_service_gets_metrics_hyperparameters_and_figures(tmp_path, config, monkeypatch):
    service = with_service(monkeypatch)
    write_all(tmp_path, config)
    assert service.lines == [{"updates": 10, "loss/loss_critic": 1.0}, {"updates": 20, "loss/loss_critic": 2.0}]
    assert service.summary == {"final/lap_share_det": 0.75, "final/updates": 20}
    assert service.config == hyperparameters(config)
    assert (service.given["project"], service.given["entity"]) == ("trackmania-droq", "team")
    assert service.given["name"] == tmp_path.name and service.given["mode"] == "online"
    private = {"console": "off", "disable_code": True, "disable_git": True, "x_disable_meta": True}
    assert private.items() <= service.given["settings"].items()


def test_continued_run_keeps_its_identifier_and_a_new_one_gets_another(tmp_path, config, monkeypatch):
    service = with_service(monkeypatch)
    for name in ("one", "one", "other"):
        (tmp_path / name).mkdir(exist_ok=True)
        write_all(tmp_path / name, config)
    assert service.ids[0] == service.ids[1] != service.ids[2]
    folder = RunFolder(tmp_path / "one")
    folder.move_records_to_history()  # as +restart=clean does
    write_all(tmp_path / "one", config)
    assert service.ids[3] not in service.ids[:3]


@pytest.mark.parametrize("fails_at", ["init", "log", "finish"])
def test_failing_service_costs_one_warning(tmp_path, config, monkeypatch, caplog, fails_at):
    with_service(monkeypatch, fails_at=fails_at)
    with caplog.at_level(logging.WARNING):
        write_all(tmp_path, config)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{WANDB} cannot be written, the training continues: ConnectionError")
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_missing_package_and_missing_account_cost_one_warning(tmp_path, config, monkeypatch, caplog):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with caplog.at_level(logging.WARNING):
        write_all(tmp_path, config)
        with_service(monkeypatch, logged_in=False)
        write_all(tmp_path, config)
    first, second = (record.getMessage() for record in caplog.records)
    assert "ModuleNotFoundError" in first and "nobody is logged in; run `wandb login`" in second


def test_run_continues_to_its_end_without_the_service(tmp_path, monkeypatch, caplog):
    with_service(monkeypatch, fails_at="log")
    train(configure(tmp_path, *PENDULUM, "logger=wandb", "logger.tensorboard=false", "logger.progress=none",
                    "logger.curves=false", "logger.video=false", "logger.report=false"))  # fmt: skip
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["stop_reason"] == "finished"
    assert [record.getMessage().startswith(WANDB) for record in caplog.records].count(True) == 1


def test_nothing_is_imported_or_sent_unless_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would fail
    assert compose("env=sim_lidar").logger.wandb is None
    assert metric_logs(RunFolder(tmp_path), compose("env=sim_lidar", "logger=quiet"), 0) == {}
    assert unknown_key("logger.wand", Config).endswith("Did you mean logger.wandb?")


# --- Weights & Biases as it is ---------------------------------------------------------------------------


def offline_records(folder: Path) -> list:
    """Records of all starts of a run, from the files that ``wandb sync`` sends (LevelDB's log format)."""
    from wandb.proto.wandb_internal_pb2 import Record

    records = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        data, at, parts = path.read_bytes(), 7, b""
        while at < len(data):
            if (left := 32768 - at % 32768) < 7:  # no header fits into the rest of a block
                at += left
                continue
            length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
            parts += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # a whole record, or the last part of one
                records.append(Record.FromString(parts))
                parts = b""
    return records


@pytest.mark.e2e
def test_offline_run_is_written_under_one_identifier_and_says_nothing_of_the_machine(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    logger = ("logger=wandb", "logger.tensorboard=false", "logger.curves=false", "logger.video=false")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setenv("WANDB_MODE", "disabled")
        raise_at_safe_point(patch, 40, Killed())
        train(configure(tmp_path, *QUICK, *logger))
    environment = {**os.environ, "WANDB_MODE": "offline", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "app/train.py", *QUICK, *logger, f"runs_dir={tmp_path}", "run_name=run"]
    for more in ((), ("training.epochs=4",)):
        subprocess.run([*command, *more], cwd=ROOT, env=environment, check=True, timeout=280)
    records = offline_records(tmp_path / "run")
    runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert {run.run_id for run in runs} == {(tmp_path / "run" / "wandb" / "run_id").read_text()}
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    sent = {}
    for record in records:
        if record.WhichOneof("record_type") == "history":
            line = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            if "evaluation/return_test_det" in line:
                sent[int(line["updates"])] = float(line["evaluation/return_test_det"])
    assert sent == {line["updates"]: pytest.approx(line["return_test_det"]) for line in metrics[1:]}
    for path in (tmp_path / "run").glob("wandb/offline-run-*/run-*.wandb"):
        data = path.read_bytes()
        for private in (str(tmp_path), str(ROOT), platform.node() if len(platform.node()) > 4 else "train.py"):
            assert private.encode() not in data
