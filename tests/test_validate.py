"""What a search found is trained again on seeds that it did not see, beside the default, and compared with it."""

import csv
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from rich.console import Console

from app.config import load
from app.config.commands import ValidateConfig
from app.config.load import ConfigError
from app.config.schema import Config
from app.errors import UserError
from app.files import alive
from app.runs.config_file import write_config
from app.runs.lock import Lock
from app.sweep.attributes import END, FOLDER
from app.sweep.folder import StudyFolder
from app.validation.bootstrap import chance_of_one_sign, mean_interval
from app.validation.candidates import Candidate, choose
from app.validation.comparison import Precision, caution, compare, least_seeds
from app.validation.processes import run_each
from app.validation.report import make_report, write_report
from app.validation.runs import TO_BE_DONE, Result, plan, read_result
from app.validation.tables import print_report
from app.validation.validation import validate_study
from tests.make import CONF
from tests.runs import ROOT, TINY, finish, wait_for
from tests.work import work

FAST = ("training.max_training_steps_per_env_step=2", "training.checkpoint_interval_s=60")
PRECISION = Precision(0.95, 2000)

# ------------------------------------------------------------------------------------------------- intervals


def test_constant_values_give_an_interval_without_width():
    interval = mean_interval([2.5] * 4, 0.95, 1000)
    assert (interval.low, interval.high) == (2.5, 2.5)


@pytest.mark.parametrize("values", [[], [3.0]])
def test_fewer_than_two_values_give_no_interval(values):
    assert mean_interval(values, 0.95, 1000) is None


def test_an_interval_is_the_same_every_time_and_moves_with_the_values():
    values = [1.0, 4.0, 2.0, 8.0, 5.0]
    one, moved = mean_interval(values, 0.95, 2000), mean_interval([10 * value - 3 for value in values], 0.95, 2000)
    assert one == mean_interval(values, 0.95, 2000)
    assert (moved.low, moved.high) == pytest.approx((10 * one.low - 3, 10 * one.high - 3))
    assert one.low < statistics.fmean(values) < one.high


def test_more_confidence_takes_a_wider_interval():
    values = list(np.random.default_rng(0).normal(size=12))
    widths = [mean_interval(values, share, 5000) for share in (0.5, 0.8, 0.95, 0.99)]
    assert [w.high - w.low for w in widths] == sorted(w.high - w.low for w in widths)


def test_the_interval_agrees_with_the_normal_theory_on_many_values():
    values = np.random.default_rng(1).normal(5.0, 2.0, size=400)
    interval = mean_interval(list(values), 0.95, 20_000)
    half = 1.96 * values.std() / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.02)


@pytest.mark.parametrize("size, low, high", [(3, 0.70, 0.82), (10, 0.86, 0.93), (30, 0.90, 0.96)])
def test_the_true_mean_lies_in_the_interval_about_as_often_as_told(size, low, high):
    rng = np.random.default_rng(2)
    hits = sum(0.0 in mean_interval(rng.normal(size=size), 0.95, 1000) for _ in range(1000))
    assert low < hits / 1000 < high


def test_the_chance_of_one_sign_is_that_of_a_coin():
    assert [chance_of_one_sign(pairs) for pairs in (1, 2, 3, 6)] == [1.0, 0.5, 0.25, 1 / 32]
    assert [least_seeds(confidence) for confidence in (0.5, 0.75, 0.9, 0.95, 0.99)] == [2, 3, 5, 6, 8]
    assert "3 seeds are few" in caution([1, 2, 3], 0.95) and "25 % are ahead" in caution([1, 2, 3], 0.95)
    assert "From 6 seeds on" in caution([1], 0.95)
    assert caution(range(6), 0.95) == ""


# ------------------------------------------------------------------------------------------------ comparisons


def test_a_difference_is_paired_by_seed():
    found = compare({1: 11.0, 2: 102.0, 4: 7.0}, {1: 10.0, 2: 100.0, 3: 50.0}, PRECISION)
    assert found.difference.values == {1: 1.0, 2: 2.0} and found.difference.mean == 1.5
    assert found.estimate.mean == 40.0  # of all its seeds
    assert found.difference.interval.low >= 1.0  # unpaired, the spread between seeds would hide it


def test_an_interval_with_0_in_it_is_told_as_no_better():
    for values in ({1: 3.0, 2: -2.0, 3: 1.0}, {1: 0.0, 2: 0.0, 3: 0.0}, {1: 0.0, 2: 0.0, 3: 5.0}):
        found = compare(values, {1: 0.0, 2: 0.0, 3: 0.0}, PRECISION)
        assert 0.0 in found.difference.interval
        assert found.verdict == "no better than the default that these seeds can show"


def test_a_difference_on_few_seeds_is_not_told_as_a_fact():
    default = {seed: 0.0 for seed in range(6)}
    few, enough = (compare({seed: 5.0 + seed for seed in range(count)}, default, PRECISION) for count in (5, 6))
    assert few.verdict == "higher than the default, but on too few seeds to tell it from chance"
    assert enough.verdict == "higher than the default"
    assert compare({seed: -5.0 for seed in range(6)}, default, PRECISION).verdict == "lower than the default"


def test_what_cannot_be_compared_is_told_so():
    assert compare({1: 3.0}, {1: 1.0}, PRECISION).verdict == "one seed says nothing about chance"
    assert compare({1: 3.0}, {2: 1.0}, PRECISION).difference is None
    nothing = compare({}, {2: 1.0}, PRECISION)
    assert (nothing.estimate, nothing.difference, nothing.verdict) == (None, None, "")
    assert compare({1: 3.0}, None, PRECISION).difference is None  # the default itself


# ------------------------------------------------------------------------------------------------- candidates


def ask(sweeps: Path, **changes) -> ValidateConfig:
    values = {
        "study": "mine", "sweeps_dir": str(sweeps), "storage": None, "top_k": 2, "seeds": (100, 101), "epochs": None,
        "jobs": 1, "bootstrap": 1000, "confidence": 0.95, "device": "cpu",
    }  # fmt: skip
    return ValidateConfig(**values | changes)


class MadeStudy:
    """A study as a sweep leaves it, without its runs' results."""

    def __init__(self, sweeps: Path, default: Config, direction: str = "maximize"):
        self.path, self.default = sweeps / "mine", default
        write_config(self.path / "config.yaml", default)
        self.study = optuna.create_study(study_name="mine", direction=direction)

    def add(self, score: float | None, gamma: float, config: Config | None = None, **attributes) -> int:
        """Add a trial with a configuration of its own; without a score it has failed."""
        number, default = len(self.study.get_trials(deepcopy=False)), self.default
        name = f"{number:05d}"
        own = config or replace(default, agent=replace(default.agent, gamma=gamma))
        own = replace(own, run_name=name, runs_dir=str(self.path / "trials"), replay=replace(own.replay, keep=False))
        own = replace(own, health=replace(own.health, on_collapse="stop"))
        write_config(self.path / "trials" / name / "config.yaml", own)
        trial = optuna.trial.create_trial(
            state=optuna.trial.TrialState.FAIL if score is None else optuna.trial.TrialState.COMPLETE,
            value=score,
            params={"agent.gamma": gamma},
            distributions={"agent.gamma": optuna.distributions.FloatDistribution(0, 1)},
            user_attrs={FOLDER: name, END: "finished", **attributes},
        )
        self.study.add_trial(trial)
        return number

    def choose(self, **changes) -> tuple[list[Candidate], list[str]]:
        return choose(StudyFolder(self.path.parent, "mine"), self.study, ask(self.path.parent, **changes))

    def store(self) -> None:
        """Write the study into its folder, as a command finds it."""
        url = f"sqlite:///{self.path}/study.db"
        self.study.set_user_attr("trackmania_droq.fingerprint", {})
        optuna.copy_study(from_study_name="mine", from_storage=self.study._storage, to_storage=url)


@pytest.fixture
def made(tmp_path, compose) -> MadeStudy:
    return MadeStudy(tmp_path / "sweeps", compose(*TINY, *FAST))


def test_the_default_stands_first_and_the_best_trials_follow(made):
    for score, gamma in ((1.0, 0.991), (3.0, 0.992), (None, 0.993), (2.0, 0.994)):
        made.add(score, gamma)
    candidates, notes = made.choose()
    assert [candidate.name for candidate in candidates] == ["default", "trial-1", "trial-3"]
    assert candidates[1].settings == ("agent.gamma: 0.99 → 0.992",) and candidates[0].settings == ()
    assert (candidates[1].score, candidates[1].end, notes) == (3.0, "finished", [])


def test_a_trial_that_broke_is_no_candidate_however_high_its_score(made):
    made.add(9.0, 0.991, **{END: "not finite: loss_critic"}), made.add(8.0, 0.992, **{END: "collapsed: stuck"})
    with pytest.raises(UserError, match="has no finished trial to compare"):
        made.choose()
    made.add(1.0, 0.993)
    candidates, notes = made.choose()
    assert [candidate.name for candidate in candidates] == ["default", "trial-2"]
    assert notes == ["top_k = 2: there are only 1 such trials"]


def test_the_best_of_a_study_that_minimises_is_the_lowest(tmp_path, compose):
    made = MadeStudy(tmp_path, compose(*TINY), direction="minimize")
    made.add(5.0, 0.991), made.add(-2.0, 0.992)
    assert [candidate.name for candidate in made.choose(top_k=1)[0]] == ["default", "trial-1"]


def test_equal_settings_count_once(made):
    made.add(5.0, 0.995), made.add(4.0, 0.995), made.add(3.0, 0.99), made.add(1.0, 0.98)
    candidates, notes = made.choose(top_k=2)
    assert [candidate.name for candidate in candidates] == ["default", "trial-0", "trial-3"]
    assert notes == [
        "trial 1 has the settings of trial-0, and counts once with it",
        "trial 2 has the settings of default, and counts once with it",
    ]


def test_a_trial_without_its_configuration_is_left_out_with_the_reason(made):
    for score in range(5):
        made.add(score, 0.9 + 0.01 * score)
    (made.path / "trials/00004/config.yaml").unlink()
    for name, content in (("00003", b"agent: ["), ("00002", b"[]"), ("00001", b"\xff\xfe\x00")):
        (made.path / "trials" / name / "config.yaml").write_bytes(content)
    candidates, notes = made.choose()
    assert [candidate.name for candidate in candidates] == ["default", "trial-0"]
    assert "trial 4 (score 4) is left out" in notes[0] and "00004/config.yaml: cannot be read" in notes[0]
    assert all(f"trials/0000{number}/config.yaml: is damaged" in notes[4 - number] for number in (3, 2, 1))
    assert notes[4] == "top_k = 2: there are only 1 such trials"


def test_a_folder_elsewhere_is_never_read(made):
    made.add(3.0, 0.995, **{FOLDER: "../../elsewhere"})
    with pytest.raises(UserError, match="no finished trial to compare.\n.*does not name its folder"):
        made.choose()


def test_a_configuration_of_another_version_is_told_with_its_path(made):
    made.add(3.0, 0.995)
    path = made.path / "trials/00000/config.yaml"
    path.write_text(path.read_text().replace("gamma:", "gama:"))
    with pytest.raises(
        UserError,
        match=r"00000/config.yaml: is not valid, .*agent.gama: there is no such key",
    ):
        made.choose()


def test_a_study_without_its_configuration_is_told_what_to_do(made):
    made.add(3.0, 0.995)
    (made.path / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"config.yaml is missing.*give its command once more"):
        made.choose()


def test_a_seed_that_the_search_has_seen_is_refused(made):
    made.add(3.0, 0.995), made.add(1.0, 0.98, seed="7"), made.add(None, 0.97, seed=8)
    for seed in (made.default.seed, 7, 8):
        with pytest.raises(UserError, match=rf"seeds = \[100, {seed}\]: the search has seen seed {seed}"):
            made.choose(seeds=(100, seed))
    made.choose(seeds=(100, 9))


def test_a_number_of_epochs_holds_for_every_candidate(made):
    longer = replace(made.default, training=replace(made.default.training, epochs=9))
    made.add(3.0, 0.99, longer)
    candidates, _ = made.choose()
    assert candidates[1].settings == ("training.epochs: 3 → 9",)
    made.add(2.0, 0.98)
    candidates, notes = made.choose(epochs=5)
    assert {candidate.config.training.epochs for candidate in candidates} == {5}
    assert "trial 0 has the settings of default" in notes[0]  # which is all that told them apart


def test_runs_of_other_settings_never_share_a_folder(made, tmp_path):
    made.add(3.0, 0.995)
    one, other = made.choose()[0], made.choose(epochs=5)[0]
    names = {run.config.run_name for run in plan([*one, *other], (100, 101), tmp_path, "cpu", 1)}
    assert len(names) == 8


def test_a_run_differs_from_its_trial_only_where_it_must(made, tmp_path):
    made.add(3.0, 0.995)
    candidates, _ = made.choose()
    runs = plan(candidates, (100, 101), tmp_path, "cuda:1", 4)
    assert [run.name for run in runs] == [
        "default seed 100", "trial-0 seed 100", "default seed 101", "trial-0 seed 101",
    ]  # fmt: skip
    config, trial = runs[1].config, candidates[1].config
    assert (config.seed, config.device, config.threads, config.runs_dir) == (100, "cuda:1", 4, str(tmp_path))
    assert (config.health.on_collapse, config.replay.keep) == ("warn", True)
    same = {"agent", "model", "env", "training", "encoder", "actor", "critic", "norm", "backbone", "objective"}
    assert all(getattr(config, part) == getattr(trial, part) for part in same)


# ---------------------------------------------------------------------------------------------------- results


@pytest.fixture
def runs(made, tmp_path):
    made.add(3.0, 0.995)
    return plan(made.choose()[0], (100, 101), tmp_path, "cpu", 1)


def leave(run, lines=(), **summary) -> None:
    """What a run leaves."""
    run.folder.path.mkdir(parents=True)
    run.folder.metrics.write_text("".join(json.dumps({"step": i, **line}) + "\n" for i, line in enumerate(lines)))
    if summary:
        run.folder.summary.write_text(json.dumps(summary))


@pytest.mark.parametrize("summary", [{}, {"stop_reason": "interrupted", "objective": 4}, {"stop_reason": "terminated"}])
def test_a_run_that_was_stopped_does_not_count_yet(runs, summary):
    leave(runs[0], [{"return_test_det": 4.0}], **summary)
    result = read_result(runs[0])
    assert (result.end, result.measures, result.remark) == (TO_BE_DONE, {}, "")


def test_a_summary_that_is_damaged_is_none(runs):
    for index, text in enumerate(("{", "[]", "null", '"stop_reason"', "7")):
        run = replace(runs[0], config=replace(runs[0].config, run_name=f"damaged-{index}"))
        run.folder.path.mkdir(parents=True)
        run.folder.summary.write_text(text)
        assert read_result(run).end == TO_BE_DONE


def test_a_finished_run_counts_with_the_measures_that_it_has(runs):
    leave(runs[0], stop_reason="finished", objective=4, return_test_det=5.5, lap_share_det=None)
    result = read_result(runs[0])
    assert (result.end, result.measures, result.remark) == ("finished", {"objective": 4, "return_test_det": 5.5}, "")


def test_a_run_that_broke_down_counts_and_is_told(runs):
    leave(runs[0], stop_reason="not finite: loss_critic", objective=-2.0)
    result = read_result(runs[0])
    assert result.measures == {"objective": -2.0} and result.end == result.remark == "not finite: loss_critic"


def test_a_run_that_looks_collapsed_at_its_end_is_told(runs):
    leave(runs[0], [{"return_test_det": 1.0, "q_mean": None}], stop_reason="finished", objective=1.0)
    assert read_result(runs[0]).remark == "looks collapsed at its end: not finite: q_mean"


def test_a_run_that_failed_counts_with_what_it_reached_and_says_so(runs):
    leave(runs[0], [{"return_test_det": 1.0}, {"return_test_det": None}, {"return_test_det": 2.0}])
    result = read_result(runs[0], "OSError: disk full")
    assert result.end == "failed: OSError: disk full" and result.measures == {"objective": 1.5}
    assert "counts with what it reached in 3 epochs" in result.remark and str(runs[0].log) in result.remark
    nothing = read_result(runs[1], "OSError: disk full")
    assert nothing.measures == {} and "reached nothing that counts" in nothing.remark


def test_the_report_has_every_seed_and_every_trouble(made, runs, tmp_path):
    candidates, notes = made.choose()
    results = [Result(run, "finished", {"objective": 10.0 + 5 * index}, "") for index, run in enumerate(runs[:3])]
    results.append(Result(runs[3], "failed: [bold]x", {}, "failed: [bold]x"))
    report = make_report(ask(tmp_path), candidates, results, notes)
    write_report(report, tmp_path)
    content = json.loads((tmp_path / "validation.json").read_text())
    default, trial = content["candidates"]
    assert default["measures"]["objective"]["estimate"]["by_seed"] == {"100": 10.0, "101": 20.0}
    assert default["measures"]["objective"]["estimate"]["interval"] == [10.0, 20.0]
    assert trial["measures"]["objective"]["difference_to_default"]["by_seed"] == {"100": 5.0}
    assert trial["measures"]["objective"]["verdict"] == "one seed says nothing about chance"
    assert content["remarks"] == ["trial-0 seed 101: failed: [bold]x"] and "2 seeds are few" in content["notes"][1]
    rows = list(csv.DictReader((tmp_path / "validation.csv").open()))
    assert [(row["candidate"], row["seed"], row["objective"]) for row in rows] == [
        ("default", "100", "10.0"), ("trial-0", "100", "15.0"), ("default", "101", "20.0"), ("trial-0", "101", ""),
    ]  # fmt: skip

    console = Console(width=100, record=True, file=open(os.devnull, "w"))
    print_report(report, console)
    text = console.export_text()
    for part in (
        "100=10.0",
        "101=20.0",
        "trial-0 (3.00 in the search, finished): one seed says",
        "+5.00",
        "agent.gamma: 0.99 → 0.995",
        "trial-0 seed 101: failed: [bold]x",
    ):
        assert part in text, part


# -------------------------------------------------------------------------------------------------- processes


def test_work_that_fails_or_dies_takes_no_other_along(tmp_path):
    ended = {}
    tasks = [(tmp_path, what) for what in ("fails", "dies", "succeeds")]
    run_each(work, tasks, 2, lambda _: None, lambda task, trouble: ended.update({task[1]: trouble}))
    assert ended == {"fails": "it cannot", "dies": "its process ended with exit code -9", "succeeds": ""}


def test_an_interruption_lets_the_running_work_save_and_begins_no_other(tmp_path):
    def ended(*_: object) -> None:
        wait_for(tmp_path / "ready")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_each(work, [(tmp_path, what) for what in ("waits", "quick", "never")], 2, lambda _: None, ended)
    assert (tmp_path / "saved").exists() and (tmp_path / "quick.begun").exists()
    assert not (tmp_path / "never.begun").exists()


def test_a_second_interruption_kills_what_does_not_stop(tmp_path):
    def ended(*_: object) -> None:
        wait_for(tmp_path / "ready")
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()  # while it waits for the other
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_each(work, [(tmp_path, "stays"), (tmp_path, "quick")], 2, lambda _: None, ended)
    while alive(int((tmp_path / "ready").read_text())):  # the kernel clears it away in a moment
        time.sleep(0.01)


# ------------------------------------------------------------------------------------------- the real command


def validate(made: MadeStudy, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, "app/validate.py", "study=mine", f"sweeps_dir={made.path.parent}", "top_k=1"]
    command += ["device=cpu", "bootstrap=1000", *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)


@pytest.mark.e2e
def test_a_real_validation_goes_on_after_an_interruption_and_past_a_run_that_fails(made):
    made.add(3.0, 0.995)
    made.store()
    place, command = made.path / "validation", ("seeds=[100,101]", "jobs=2", "epochs=5")
    runs = plan(made.choose(epochs=5)[0], (100, 101), place, "cpu", 1)
    process = validate(made, *command)
    for run in runs[:2]:
        wait_for(run.folder.checkpoints.last, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err, out + err
    assert "runs to be done: 4. The same command goes on with them" in out
    stopped = [json.loads(path.read_text())["stop_reason"] for path in place.glob("*/summary.json")]
    assert stopped == 2 * ["terminated"]

    foreign = runs[3].folder.path / "thesis.tex"
    foreign.parent.mkdir()
    foreign.touch()
    out = finish(validate(made, *command))
    assert "trial-0 seed 101: failed: " in out and "holds thesis.tex" in out and "trial-0 seed 100: finished" in out
    assert len(list(place.glob("*/starts.jsonl"))) == 3
    assert [len(path.read_text().splitlines()) for path in place.glob("*seed100/starts.jsonl")] == [2, 2]

    foreign.unlink()
    out = finish(validate(made, *command))
    assert "4 runs, of which 3 have ended before" in out and out.count(" begins ") == 1 and "to be done" not in out
    content = json.loads((place / "validation.json").read_text())
    default, trial = content["candidates"]
    assert content["runs_to_be_done"] == 0 and not any("failed" in remark for remark in content["remarks"])
    assert [run["end"] for run in default["runs"] + trial["runs"]] == 4 * ["finished"]
    summaries = {path.parent.name: json.loads(path.read_text()) for path in place.glob("*/summary.json")}
    for candidate in (default, trial):
        for entry in candidate["runs"]:
            summary = summaries[Path(entry["folder"]).name]
            assert summary["epoch"] == 5 and entry["objective"] == summary["objective"]
            assert entry["return_test_det"] == summary["return_test_det"] and 0 <= entry["lap_share_det"] <= 1
    assert "agent.gamma: 0.99 → 0.995" in out and "differences from the default" in out


def test_a_wrong_command_is_told_in_words(made):
    made.add(3.0, 0.995)
    made.store()
    process = validate(made, "seeds=[0,100]")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in out + err
    assert err.startswith("seeds = [0, 100]: the search has seen seed 0")


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"study": "other"}, "study = other: "),
        ({"seeds": (100, 100)}, "seeds = [100, 100]: must not name a seed twice"),
        ({"device": "cuda:99"}, "device = cuda:99: this machine has"),
    ],
)
def test_a_mistake_is_told_before_anything_is_made(made, changes, text):
    made.add(3.0, 0.995)
    made.store()
    with pytest.raises(UserError, match=re.escape(text)):
        validate_study(ask(made.path.parent, **changes))
    assert not (made.path / "validation").exists()


@pytest.mark.parametrize(
    "override, text",
    [
        ("seeds=[]", "seeds = []: must be a list of 1 or more integers"),
        ("seeds=[-1]", "seeds = [-1]: must be"),
        ("top_k=0", "top_k = 0: must be an integer at least 1"),
        ("jobs=0", "jobs = 0: must be an integer at least 1"),
        ("confidence=95", "confidence = 95: must be a number at least 0.5 and at most 0.999"),
        ("bootstrap=10", "bootstrap = 10: must be an integer at least 1000"),
        ("study=../mine", "study = ../mine: must be at most 100 letters"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_allowed(override, text):
    with initialize_config_dir(str(CONF)):
        cfg = hydra_compose("validate", ["study=mine", override])
    with pytest.raises(ConfigError, match=re.escape(text)):
        load.validate(cfg, ValidateConfig)


def test_two_validations_of_a_study_are_refused(made):
    made.add(3.0, 0.995)
    made.store()
    with Lock(made.path / "validation", "validation"), pytest.raises(UserError, match="the validation is in use"):
        validate_study(ask(made.path.parent))
