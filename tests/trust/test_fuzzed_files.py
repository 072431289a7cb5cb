"""Files that accidents and strangers have changed: readers use them or refuse in a sentence, and run no code."""

import hashlib
import io
import json
import pickle
import pkgutil
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from app.ablation.evidence_runs import read_evidence
from app.ablation.failure_order import examine
from app.ablation.failure_page import render_post_mortem
from app.ablation.health_bands import make_bands
from app.ablation.lab_runs import LabFolder, LabRun
from app.core.errors import UserError, error_with_place
from app.driving_game.game import play
from app.driving_game.lap_records import LapRecords
from app.envs.env_factory import make_spec
from app.envs.spec import EnvError
from app.envs.trackmania.trajectory import load_trajectory
from app.export_bundle import export_run
from app.export_bundle.read_bundle import read_bundle
from app.replay.demonstrations import read_demonstrations
from app.reporting.run_report import RunReport
from app.run_list.compare_runs import render_comparison
from app.run_list.find_runs import find_runs
from app.run_list.list_table import print_runs, sort_runs
from app.runs.checkpoint import FORMAT
from app.runs.config_file import read_config, write_config
from app.runs.run_folder import RunFolder
from app.training.evaluate_run import evaluate_run
from app.training.run import train
from app.training.trainer import Trainer
from app.viewer.view_run import view_run
from tests.helpers import broken_files as broken
from tests.helpers.commands import COMMANDS, WorkBegins, answer
from tests.helpers.evidence import make_arm, synthetic_rows, write_rows
from tests.helpers.make import CONF, compose
from tests.helpers.play import SHORT_TRACK, headless
from tests.helpers.stopped_runs import QUICK, use_little_slack
from tests.helpers.trust_size import SEED, cases
from tests.helpers.trust_table import record

FULL = 2000  # broken files
LONGEST_S = 60  # that one reader may take
LONGEST_TEXT = 4000  # characters of a refusal; one that lists different settings has many lines


@pytest.fixture(scope="module")
def original(stopped_once, tmp_path_factory) -> Path:
    """A run that was stopped in its second epoch, as the readers get it."""
    return broken.copy_folder(stopped_once, tmp_path_factory.mktemp("original") / "run")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    use_little_slack(monkeypatch)  # as the run had it

    def begin(*_, **__):
        raise WorkBegins

    monkeypatch.setattr(Trainer, "run_epochs", begin)
    monkeypatch.setattr(export_run, "to_onnx", begin)


# --- readers: each gets a run folder, or a file ---


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def config_of(run: Path, *overrides: str):
    """The configuration with which the run in a folder was started."""
    return compose(*QUICK, *overrides, f"runs_dir={run.parent}", f"run_name={run.name}")


def list_runs(run: Path) -> None:
    found = find_runs(run.parent)
    for order in ("age", "lap_time", "held", "state"):
        print_runs(quiet(), sort_runs(found, order, reverse=False))
    if all(one.facts is not None and one.problem is None and one.facts.epochs for one in found):
        render_comparison([*found, *found], "wall_s")


def report(run: Path) -> None:
    RunReport(RunFolder(run), replace(config_of(run), logger=REPORTED), quiet()).write("finished")


def settings_of(name: str, **changed):
    """The configuration of a command with some values changed."""
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text()) | changed
    return pkgutil.resolve_name(COMMANDS[name].schema)(
        **{key: value for key, value in values.items() if key not in ("defaults", "hydra")}
    )


def evaluate(run: Path) -> None:
    evaluate_run(settings_of("evaluate", run=str(run), episodes=1, video=False, threads=1))


def export(run: Path) -> None:
    export_run.export(settings_of("export", run=str(run), bootstrap=1000))


def view(run: Path) -> None:
    view_run(settings_of("replay_viewer", run=str(run), tracks=(1,), starts=(0.0,), threads=1))


def examine_failure(run: Path) -> None:
    render_post_mortem(examine(RunFolder(run), {}), (), None)


def resume(run: Path) -> None:
    train(config_of(run))


def restart(run: Path) -> None:
    train(config_of(run, "+restart=clean"))


def begin_from(run: Path) -> None:
    train(config_of(run.parent / "new", f"training.init_from={run}"))


READERS = {
    "list_runs": list_runs,
    "report": report,
    "evaluate": evaluate,
    "export": export,
    "viewer": view,
    "post-mortem": examine_failure,
    "resume": resume,
    "restart": restart,
    "init_from": begin_from,
}
LOGGER = compose("env=sim_lidar").logger
REPORTED = replace(LOGGER, video=False)


def break_checkpoint(data: bytes, rng: random.Random) -> bytes:
    """Return a checkpoint with a right checksum and another content."""
    state = broken.break_value(torch.load(io.BytesIO(data.partition(b"\n")[2]), weights_only=True), rng)
    return sealed(state)


def sealed(state) -> bytes:
    file = io.BytesIO()
    try:
        torch.save(state, file)
    except Exception:  # such as a lone surrogate
        file.write(b"nothing")
    payload = file.getvalue()
    header = {"format": FORMAT, "bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    return json.dumps(header).encode() + b"\n" + payload


FILES = {
    "config.yaml": broken.break_bytes,
    "metrics.jsonl": broken.break_json,
    "starts.jsonl": broken.break_json,
    "summary.json": broken.break_json,
    "manifest.json": broken.break_json,
    "fingerprint.json": broken.break_json,
    "replay/fingerprint.json": broken.break_json,
    "replay/rows.bin": broken.break_bytes,
    "replay/age.bin": broken.break_bytes,
    "best/actor.safetensors": broken.break_safetensors,
    "best/model.safetensors": broken.break_safetensors,
    "best/result.json": broken.break_json,
    "checkpoints/last.pt": break_checkpoint,
    "checkpoints/previous.pt": break_checkpoint,
    ".owner.json": broken.break_json,
}


class Search:
    """Counts what is tried, and keeps what went wrong."""

    def __init__(self, what: str):
        self.what, self.tried, self.flaws, self.begin = what, 0, [], time.monotonic()

    def read(self, reader, path: Path, case: str) -> None:
        self.tried += 1
        begin = time.monotonic()
        try:
            reader(path)
        except WorkBegins:
            pass
        except (UserError, EnvError) as error:
            text = str(error)
            if not text.strip() or len(text) > LONGEST_TEXT or "Traceback" in text:
                self.flaws.append(f"{case}: refused by {text!r}")
        except BaseException as error:
            self.flaws.append(f"{case}: {error_with_place(error)}")
        if broken.remove_canary():
            self.flaws.append(f"{case}: code was run")
        if time.monotonic() - begin > LONGEST_S:
            self.flaws.append(f"{case}: took {time.monotonic() - begin:.0f} s")

    def end(self) -> None:
        record(self.what, self.tried, len(self.flaws), time.monotonic() - self.begin)
        assert not self.flaws, "\n".join(self.flaws)


def test_good_run_reaches_its_training(original, tmp_path):
    """Otherwise the search below would try nothing."""
    for number, read in enumerate((resume, restart, begin_from)):
        with pytest.raises(WorkBegins):
            read(broken.copy_folder(original, tmp_path / f"runs{number}" / "run"))


@pytest.mark.parametrize("name", READERS)
def test_run_folder_with_a_broken_file_is_used_or_refused(name, original, tmp_path):
    search, rng = Search(f"broken files of a run, read by {name}"), random.Random(f"{SEED} {name}")
    for number in range(cases(FULL // 2 // len(READERS))):
        run = broken.copy_folder(original, tmp_path / "runs" / "run")
        file = list(FILES)[number % len(FILES)]
        if not (run / file).exists():
            (run / file).write_text('{"pid": 1, "host": "x", "since": "y"}')
        how = broken.break_path(run / file, FILES[file], rng)
        search.read(READERS[name], run, f"{number} {name} {file}: {how}")
    search.end()


def test_checkpoint_with_a_right_checksum_and_another_content_is_used_or_refused(original, tmp_path):
    search, rng = Search("checkpoints with a right checksum and another content"), random.Random(SEED)
    for number in range(cases(FULL // 10)):
        run = broken.copy_folder(original, tmp_path / "runs" / "run")
        path = run / "checkpoints" / "last.pt"
        (run / "checkpoints" / "previous.pt").unlink(missing_ok=True)
        path.write_bytes(break_checkpoint(path.read_bytes(), rng))
        search.read(resume, run, str(number))
    search.end()


# --- files outside of a run folder: how a good one is made, broken and read ---


def make_bundle(folder: Path) -> Path:
    from tests.test_bundle_evaluation import put

    folder.mkdir()
    return put(folder)


def make_demonstrations(folder: Path) -> Path:
    folder.mkdir()
    path = folder / "laps.npz"
    play(headless(folder, "laps=1", "start=null", f"record={path}"))
    return path


def make_reward(folder: Path) -> Path:
    folder.mkdir()
    (folder / "reward.pkl").write_bytes(pickle.dumps(np.random.default_rng(0).normal(size=(200, 3))))
    return folder / "reward.pkl"


def make_record(folder: Path) -> Path:
    fixed = make_arm("fixed", "reference", (), 12)
    write_rows(folder / "evidence.csv", synthetic_rows([fixed], "sim_lidar", 4))
    (folder / "arms").mkdir()
    write_config(folder / "arms" / "fixed.yaml", compose("env=sim_lidar"))
    return folder


def make_lab_plan(folder: Path) -> Path:
    (folder / "runs").mkdir(parents=True)
    LabFolder(folder).write_plan([LabRun("fixed", 0, "sim_lidar", 3, str(folder / "runs"))])
    return folder / "plan.json"


def make_laps(folder: Path) -> Path:
    play(headless(folder, "laps=1", "start=null"))
    return folder / "laps" / "laps.jsonl"


def read_record(folder: Path) -> None:
    make_bands(read_evidence(folder / "evidence.csv"))
    read_config(folder / "arms" / "fixed.yaml")


def read_laps(path: Path) -> None:
    LapRecords(path.parent, "human", "x").best(1, 0.0)


def break_pickle(data: bytes, rng: random.Random) -> bytes:
    """Return a pickle of something else than numbers, or a changed one."""
    others = (
        broken.RunsCode(), [broken.RunsCode()], np.array([broken.RunsCode()] * 200), {}, [[1, 2, 3]] * 200, "x" * 300,
        np.full((200, 3), np.nan), np.zeros((200, 2)), np.zeros((3, 200)), np.zeros((200, 3), complex), None, (),
        np.array([["a"] * 3] * 200), np.zeros((200, 3), bool), float("nan"), [[10**400] * 3] * 200,
    )  # fmt: skip
    if rng.random() < 0.6:
        return pickle.dumps(rng.choice(others), rng.choice((0, 2, 5)))
    return broken.break_bytes(data, rng)


def break_archive(data: bytes, rng: random.Random) -> bytes:
    """Return demonstrations with another array in the place of one."""
    with np.load(io.BytesIO(data)) as file:
        arrays = {name: file[name] for name in file.files}
    name = rng.choice(list(arrays))
    value = np.atleast_1d(arrays[name])
    others = (
        value[:-1], value[..., None], np.zeros(value.shape, complex), value.astype("U"), np.array([broken.RunsCode()]),
        np.zeros(0),
        np.array(str(value) + "x"), np.array('{"format": 1, "made_under": {"env": [1]}}'), np.array("[" * 100_000),
        value.T, np.full(value.shape, np.nan), np.array('{"format": 1, "made_under": 3}'),
    )  # fmt: skip
    arrays[name] = rng.choice(others)
    if rng.random() < 0.3:
        del arrays[name]
    file = io.BytesIO()
    rng.choice((np.savez, np.savez_compressed))(file, **arrays)
    return file.getvalue()


def lidar():
    env = compose("env=sim_lidar", *SHORT_TRACK).env
    return env, make_spec(env)


STRANGE = {  # name: how it is made, its files with how they break, how it is read
    "bundle": (make_bundle, {"actor.json": broken.break_json, "actor.onnx": broken.break_bytes}, read_bundle),
    "demonstrations": (make_demonstrations, {"": break_archive}, lambda path: read_demonstrations(path, *lidar())),
    "reward file": (make_reward, {"": break_pickle}, lambda path: load_trajectory(str(path))),
    "evidence": (make_record, {"evidence.csv": broken.break_bytes, "arms/fixed.yaml": broken.break_bytes}, read_record),
    "lab plan": (make_lab_plan, {"": broken.break_json}, lambda path: LabFolder(path.parent).read_plan()),
    "laps": (make_laps, {"": broken.break_json}, read_laps),
}


@pytest.mark.parametrize("name", STRANGE)
def test_broken_file_is_used_or_refused(name, tmp_path):
    make, files, read = STRANGE[name]
    good = make(tmp_path / "good")
    folder = good if good.is_dir() else good.parent
    read(good)  # otherwise the search below would try nothing
    search, rng = Search(f"broken files: {name}"), random.Random(f"{SEED} {name}")
    for number in range(cases(FULL // 2 // len(STRANGE))):
        here = broken.copy_folder(folder, tmp_path / "broken")
        file = list(files)[number % len(files)]
        path = here / (file or good.name)
        how = broken.break_path(path, files[file], rng)
        if name == "bundle" and file == "actor.onnx" and path.is_file() and rng.random() < 0.7:
            description = json.loads((here / "actor.json").read_text())
            description["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()  # as of somebody who means it
            (here / "actor.json").write_text(json.dumps(description))
        search.read(read, here if good.is_dir() else path, f"{number} {name} {file}: {how}")
    search.end()


def test_broken_result_of_a_study_is_refused(tmp_path, monkeypatch):
    """The command line of a study's best.yaml, which Hydra reads."""
    text = (
        b"# @package _global_\ndefaults: [override /env: sim_lidar, _self_]\nrun_name: a${seed}\nagent: {gamma: 0.9}\n"
    )
    search, rng = Search("broken files: best.yaml of a study"), random.Random(SEED)
    for number in range(cases(FULL // 20)):
        folder = tmp_path / "sweeps" / "mine"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "best.yaml").write_bytes(data := broken.break_bytes(text, rng))

        def read(path: Path) -> None:
            words = ["--config-dir", str(path), "+mine=best"]
            if (text := answer("train", words, monkeypatch)) is not None:
                raise UserError(text)

        search.read(read, tmp_path / "sweeps", f"{number} {data[:300]!r}")
    search.end()
