"""List of runs: what it finds, its order, its conditions, the page that compares some, and pruning."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console

from app.config.command_line import as_meant
from app.config.schema_commands import ListRunsConfig
from app.core.errors import UserError
from app.run_list.compare_runs import (
    MOST_RUNS,
    PANELS,
    _curves,
    choose_runs,
    differing_settings,
    line_style,
    render_comparison,
)
from app.run_list.find_runs import find_runs
from app.run_list.list_table import age, print_runs, sort_runs
from app.run_list.prune_replays import prune
from app.run_list.run_filter import filter_runs, parse_condition
from app.run_list.show_runs import show_runs
from app.runs.config_file import write_config
from app.runs.lock import Lock
from app.runs.manifest import Manifest
from app.training.run import train
from tests.helpers.browser import CHROMIUM, open_page
from tests.helpers.make import compose
from tests.helpers.runs import ROOT
from tests.helpers.stopped_runs import QUICK, configure
from tests.test_evidence_report import HOSTILE, Cells, drawn

OF_TABLE = {"where": (), "sort": "age", "reverse": False, "compare": (), "x": "updates", "page": None}
LAP_TIMES = {"fast": (40.0, 25.5), "slow": (45.0, 32.1), "far": ()}


@pytest.fixture(scope="module")
def config_yaml(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    write_config(path, compose("env=sim_lidar", "training.epochs=2"))
    return path.read_text()


def lines(lap_times, epochs=2):
    """Metrics of some epochs, with a full lap in those that have a lap time."""
    for epoch in range(1, epochs + 1):
        laps = {"lap_time_det": lap_times[epoch - 1], "lap_time_ratio_det": 1.1} if epoch <= len(lap_times) else {}
        share = 1.0 if laps else 0.25
        yield {
            "step": 10 * epoch, "updates": 10 * epoch, "epoch": epoch, "env_steps": 100 * epoch, "wall_s": 1800 * epoch,
            "return_test_det": 400.0 + epoch, "return_test_det_std": 0.25, "lap_share_det": share, "q_mean": -epoch,
            "loss_critic": 0.0 if epoch == 1 else 1.5, **laps,
        }  # fmt: skip


@pytest.fixture
def make(tmp_path, config_yaml):
    """Write a run with a replay of 3000 bytes: ``make("name", lap times of its epochs, **changes of its YAML)``."""

    def make(name, lap_times=(), reason="finished", **changes) -> Path:
        path = tmp_path / "runs" / name
        (path / "replay").mkdir(parents=True)
        text = config_yaml
        for key, value in changes.items():
            text = re.sub(rf"(?m)^( *{key}): .*$", rf"\1: {value}", text)
        (path / "config.yaml").write_text(text)
        (path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines(lap_times)))
        (path / "summary.json").write_text(json.dumps({"stop_reason": reason, "updates": 20}))
        (path / "replay" / "rows.bin").write_bytes(bytes(3000))
        Manifest.open(path).add("replay", path / "replay" / "rows.bin")
        return path

    return make


@pytest.fixture
def three(make, tmp_path) -> Path:
    """Folder with three runs: one fast, one slow, one that never laps."""
    for name, times in LAP_TIMES.items():
        make(name, times, seed=len(name))
    return tmp_path / "runs"


def names(runs) -> list[str]:
    return [run.name for run in runs]


def table(runs, width=120) -> str:
    console = Console(width=width, force_terminal=True, color_system=None)
    with console.capture() as capture:
        print_runs(console, runs)
    return capture.get()


# --- what is found ---------------------------------------------------------------------------------------


def test_figures_of_the_table_are_those_of_the_metrics(three):
    shown = table(find_runs(three))
    assert re.search(
        r"slow .* finished +sim_lidar +droq_contextual +2/2 +100 % +0:32\.100 +1\.10 +2/2 +[\d.]+ kB", shown
    )
    assert re.search(r"far .* 2/2 +25 % +- +- +- +[\d.]+ kB", shown)


def test_runs_of_studies_and_labs_are_found_with_their_path(make, tmp_path):
    for name in ("single", "night/trials/trial-0", "full/runs/fixed-seed0"):
        make(name)
    night = tmp_path / "runs" / "night"
    (night / "config.yaml").write_text("{}")  # of the study, which is no run
    (night / "study.db").touch()
    assert names(find_runs(tmp_path / "runs")) == ["full/runs/fixed-seed0", "night/trials/trial-0", "single"]
    (night / "launches").mkdir()
    assert names(find_runs(night)) == ["trials/trial-0"]


def test_nothing_within_a_run_and_nothing_behind_a_link_is_listed(make, tmp_path):
    run = make("mine")
    (run / "history" / "earlier").mkdir(parents=True)
    (run / "history" / "earlier" / "config.yaml").write_text("{}")
    (tmp_path / "runs" / "link").symlink_to(run)
    assert names(find_runs(tmp_path / "runs")) == ["mine"]


def test_damaged_and_foreign_folders_are_rows_with_a_reason(make, tmp_path):
    (make("torn") / "metrics.jsonl").write_text('{"step"\n')
    (make("deep") / "metrics.jsonl").write_text("[" * 100_000 + "\n")
    (make("binary") / "config.yaml").write_bytes(b"\xff\xfe\x00")
    (make("tagged") / "config.yaml").write_text("!!python/object/apply:os.system ['touch hacked']")
    runs = tmp_path / "runs"
    (runs / "photos").mkdir()
    (runs / "photos" / "cat.jpg").touch()
    (runs / "empty").mkdir()
    (runs / "starting").mkdir()
    (runs / "starting" / "manifest.json").touch()
    found = {run.name: run.problem for run in find_runs(runs)}
    assert found["photos"] == "holds no run: cat.jpg" and found["empty"] == "is empty"
    assert "is starting, or could not start" in found["starting"]
    for name, file in (("torn", "metrics.jsonl"), ("deep", "metrics"), ("binary", "config.yaml"), ("tagged", "config")):
        assert found[name].startswith(f"cannot be read: {file}") and "\n" not in found[name]
    shown = table(find_runs(runs))
    assert re.search(r"photos +no run", shown) and re.search(r"torn +\d+ s +damaged", shown)
    assert "photos: holds no run: cat.jpg" in shown and not Path("hacked").exists()


def test_names_and_settings_cannot_steer_the_terminal(make, tmp_path):
    config = make("run\x1b[2J") / "config.yaml"
    config.write_text(config.read_text().replace("name: sim_lidar", r'name: "sim\e[2J"'))
    (tmp_path / "runs" / "empty\n\udcff").mkdir()
    text = table(find_runs(tmp_path / "runs"), width=200)
    assert "\x1b" not in text and r"run\x1b[2J" in text and r"sim\x1b[2J" in text
    assert r"empty\n\udcff: is empty" in text


def test_running_run_is_recognised_by_its_lock(make, tmp_path):
    with Lock(make("mine"), "run"):
        (run,) = find_runs(tmp_path / "runs")
        assert run.facts.state == "running"
    (run,) = find_runs(tmp_path / "runs")
    assert run.facts.state == "finished"


def test_folder_that_is_missing_or_a_run_itself_is_refused_in_one_sentence(make, tmp_path):
    with pytest.raises(UserError, match=r"runs_dir = .*nowhere: cannot be read \(No such file or directory\)"):
        find_runs(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is a run itself. Name the folder above it: runs_dir="):
        find_runs(make("mine"))


# --- order and conditions --------------------------------------------------------------------------------


def test_newest_run_comes_first_and_runs_without_a_value_last(three):
    for i, name in enumerate(("slow", "far", "fast")):
        for path in (three / name).rglob("*"):
            os.utime(path, (0, 1000 * i))
        os.utime(three / name, (0, 1000 * i))
    runs = find_runs(three)
    assert names(sort_runs(runs, "age", False)) == ["fast", "far", "slow"]
    assert names(sort_runs(runs, "lap_time", False)) == ["fast", "slow", "far"]
    assert names(sort_runs(runs, "lap_time", True)) == ["slow", "fast", "far"]
    assert names(sort_runs(runs, "lap_share", False)) == ["fast", "slow", "far"]
    assert names(sort_runs(runs, "name", True)) == ["slow", "fast", "far"]


@pytest.mark.parametrize(
    "where, expected",
    [
        ((), ["far", "fast", "slow"]),
        (("seed:3",), ["far"]),
        (("seed=3",), ["far"]),
        (("seed:[3,9]",), ["far"]),
        (("agent.gamma:0.99", "env:sim_lidar"), ["far", "fast", "slow"]),
        (("agent.gamma:0.990", "seed:4.0"), ["fast", "slow"]),
        (("agent.lr_critic:3e-4",), ["far", "fast", "slow"]),
        (("agent.betas_critic:[0.9,0.99]",), ["far", "fast", "slow"]),
        (("agent.betas_critic:[0.9,0.999]",), []),
        (("norm:group", "model:droq_contextual", "state:finished"), ["far", "fast", "slow"]),
        (("env:sim",), []),  # sim_lidar is another option of the same kind
        (("workers:true",), []),
        (("value.support:null",), ["far", "fast", "slow"]),
        (("env.reward_file:x",), []),  # a key that these runs do not have
    ],
)
def test_runs_that_meet_every_condition_are_listed(three, where, expected):
    for name in ("fast", "slow"):
        text = (three / name / "config.yaml").read_text()
        (three / name / "config.yaml").write_text(text.replace("workers: 2", "workers: 1"))
    assert names(filter_runs(find_runs(three), where)) == expected


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("agent.gama:0.9", r"where = agent.gama:0.9: agent.gama: there is no such key. Did you mean agent.gamma"),
        ("agent.gamma", "is no condition. Write a key with its value"),
        ("agent.gamma:[1", r"the value cannot be read"),
        ("agent.alpha_floor:0", "agent.alpha_floor was renamed: use agent.alpha_min"),
    ],
)
def test_condition_that_is_none_is_refused_in_one_sentence(three, text, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        filter_runs(find_runs(three), [text])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "word, expected",
    [
        ("where=env=sim", ["env=sim"]),
        ("where=[env=sim,agent.gamma=0.95]", ["env=sim", "agent.gamma=0.95"]),
        ("where=[agent.betas_critic=[0.9,0.99],seed:3]", ["agent.betas_critic=[0.9,0.99]", "seed:3"]),
        ("where=['a=b']", ["a=b"]),
        ("where=[]", []),
    ],
)
def test_conditions_reach_the_command_as_they_are_written(word, expected):
    (read,) = as_meant([word])
    assert OverridesParser.create().parse_override(read).value() == expected


def test_value_of_a_condition_is_data():
    with pytest.raises(UserError, match="cannot be read"):
        parse_condition("x:!!python/object/apply:os.system [ls]")


def test_age_has_the_largest_unit_that_fits():
    assert [age(seconds) for seconds in (-1, 59, 60, 7199, 86400 * 3)] == ["0 s", "59 s", "1 min", "1 h", "3 d"]


# --- comparison ------------------------------------------------------------------------------------------


def page_of(root, *chosen, x="updates") -> Path:
    config = ListRunsConfig(**OF_TABLE | {"runs_dir": str(root), "compare": chosen, "x": x}, prune=False, dry_run=True)
    show_runs(config)
    return root / "compare.html"


def test_curves_are_those_of_the_metrics_over_one_axis(three):
    figure = drawn(page_of(three, "slow", "fast", "far", x="wall_s"))["curves"]
    assert {tuple(trace["x"]) for trace in figure["data"] if trace["name"] == "slow" and len(trace["x"]) > 1} == {
        (0.5, 1.0)
    }
    titles = [note["text"] for note in figure["layout"]["annotations"]]
    shown = [panel for panel in PANELS if panel.title in titles]
    assert [panel.metric for panel in shown] == [
        "lap_share_det", "lap_time_det", "return_test_det", "q_mean", "loss_critic"
    ]  # fmt: skip
    of_slow = [trace["y"] for trace in figure["data"] if trace["name"] == "slow"]
    assert of_slow == [[100, 100], [45.0, 32.1], [401, 402], [-1, -2], [1.5]]  # a loss of 0 has no logarithm
    axes = {axis.get("matches") for name, axis in figure["layout"].items() if name.startswith("xaxis")}
    assert len(axes - {None}) == 1
    assert figure["layout"]["xaxis5"]["title"]["text"] == "hours of training"


@pytest.mark.parametrize("rows", [1, 2, 6])
def test_panels_of_equal_height_fill_the_figure_and_do_not_meet(rows):
    line = {"updates": 500, **{panel.metric: 0.5 for panel in PANELS[:rows]}}
    styles = {name: line_style(at) for at, name in enumerate("ab")}
    layout = _curves({"a": [line], "b": [line]}, styles, "updates")["layout"]
    ends = [axis["domain"] for name, axis in layout.items() if name.startswith("yaxis")]
    assert len(ends) == len(layout["annotations"]) == rows
    assert ends[0][1] == pytest.approx(1) and ends[-1][0] == 0
    assert all(upper[0] > lower[1] for upper, lower in itertools.pairwise(ends))
    assert len({round(top - bottom, 9) for bottom, top in ends}) == 1
    assert [note["y"] for note in layout["annotations"]] == [top for _, top in ends]


def test_comparison_needs_no_plotly_objects():
    code = "import sys, app.run_list.compare_runs; print('plotly.graph_objs' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_figures_and_differences_are_those_of_the_runs(three):
    cells = Cells(page_of(three, "fast", "slow").read_text())
    of_slow = ["finished", "2/2", "20", "1:00:00", "2", "100 %", "0:32.100", "1.10", "2/2", "402.0 ± 0.2"]
    assert cells.rows[2][1:] == of_slow
    assert "None: all of them were trained under the same settings." in cells.text
    assert [row[0] for row in Cells(page_of(three, "far", "slow").read_text()).rows[4:]] == ["seed"]


def test_only_settings_that_differ_are_listed():
    one, other = {"seed": 1, "run_name": "a", "agent.gamma": 0.9, "x": [1]}, {"seed": 1, "run_name": "b", "x": [1.0]}
    ((key, (here, _)),) = differing_settings([one, other])
    assert (key, here) == ("agent.gamma", 0.9)


def test_patterns_and_last_parts_of_names_choose_runs_once(make, tmp_path):
    for name in ("lab/runs/fixed-seed0", "lab/runs/fixed-seed1", "mine"):
        make(name)
    runs = find_runs(tmp_path / "runs")
    assert names(choose_runs(runs, ["mine", "fixed-seed*", "fixed-seed0"])) == [
        "mine", "lab/runs/fixed-seed0", "lab/runs/fixed-seed1"
    ]  # fmt: skip
    assert names(choose_runs(runs, ["lab/*"])) == ["lab/runs/fixed-seed0", "lab/runs/fixed-seed1"]


def test_names_that_cannot_be_compared_are_refused_in_one_sentence(three, make):
    (make("torn") / "metrics.jsonl").write_text("{\n")
    (make("new") / "metrics.jsonl").write_text("")
    runs = find_runs(three)
    for chosen, sentence in (
        (["fats", "slow"], "compare = fats: no run .* has this name. Did you mean fast"),
        (["slow"], f"compare = slow: a page compares 2 to {MOST_RUNS} runs, and 1 of them"),
        (["torn", "slow"], "compare = torn: cannot be read: metrics.jsonl"),
        (["new", "slow"], "compare = new: it has not finished an epoch. Leave it out."),
    ):
        with pytest.raises(UserError, match=sentence):
            choose_runs(runs, chosen)


def test_no_two_lines_differ_in_the_colour_alone_or_are_the_same():
    styles = [line_style(i) for i in range(MOST_RUNS)]
    assert len(set(styles)) == MOST_RUNS
    assert all(one.dash != other.dash for one, other in zip(styles, styles[1:], strict=False))


def test_hostile_names_and_settings_are_escaped(make, tmp_path):
    name = HOSTILE.replace("/", "∕")
    make(name, (30.0,), sweeps_dir=json.dumps(HOSTILE).replace("\\", ""), device=json.dumps(HOSTILE))
    make("b", (30.0,))
    text = render_comparison(find_runs(tmp_path / "runs"), "epoch")
    cells = Cells(text)
    assert [tag for tag, _ in cells.tags].count("script") == 2 and not any(tag == "img" for tag, _ in cells.tags)
    assert not any(attribute.startswith("on") for _, attrs in cells.tags for attribute in attrs)
    assert "alert(1)" in cells.text


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium in PATH")
@pytest.mark.parametrize("width", [390, 1280])
def test_page_is_drawn_in_a_browser_and_asks_for_nothing(three, tmp_path, width):
    seen = open_page(page_of(three, "*"), tmp_path, width)
    assert seen["problems"] == [] and seen["requests"] == []
    assert seen["drawn"] == seen["plots"] == 1 and seen["too_wide"] == 0
    shown, needed = seen["width"]
    assert needed <= shown == width


# --- pruning ---------------------------------------------------------------------------------------------


def prune_runs(root, dry_run, where=()) -> tuple[int, str]:
    console = Console(width=200, force_terminal=True, color_system=None)
    with console.capture() as capture:
        freed = prune(root, filter_runs(find_runs(root), where), dry_run, console)
    return freed, capture.get()


def replays(root) -> list[str]:
    return sorted(path.parts[-3] for path in root.rglob("rows.bin"))


def test_dry_run_lists_replays_of_finished_runs_with_their_sum_and_changes_nothing(three, make):
    make("stopped", reason="interrupted")
    freed, said = prune_runs(three, dry_run=True)
    assert freed == 0 and "3 finished runs" in said and "12.3 kB" in said and "dry run: nothing was removed" in said
    assert "stopped" not in said and replays(three) == ["far", "fast", "slow", "stopped"]


def test_pruning_frees_replays_and_leaves_a_receipt(three, make):
    make("stopped", reason="interrupted")
    freed, said = prune_runs(three, dry_run=False)
    assert freed == 3 * 4096 and replays(three) == ["stopped"] and "12.3 kB freed" in said
    for name in ("far", "fast", "slow"):
        (receipt,) = (three / name / "history").glob("*/receipt.json")
        assert json.loads(receipt.read_text())["complete"]
        assert (three / name / "summary.json").is_file() and not Manifest.open(three / name).entries(("replay",))
    assert "Nothing to free" in prune_runs(three, dry_run=False)[1]


def test_pruning_obeys_the_conditions(three):
    prune_runs(three, dry_run=False, where=("seed:3",))
    assert replays(three) == ["fast", "slow"]


def test_run_in_use_and_one_that_was_trained_since_keep_their_replays(three, monkeypatch):
    runs = find_runs(three)
    with Lock(three / "fast", "run"):
        acquire = Lock.acquire

        def train_further(lock):
            (three / "slow" / "starts.jsonl").write_text("{}\n")
            acquire(lock)

        monkeypatch.setattr(Lock, "acquire", train_further)
        console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
        prune(three, runs, False, console)
    said = console.export_text()
    assert replays(three) == ["fast", "slow"]
    assert "left alone  fast" in said and "in use by process" in said
    assert "left alone  slow" in said and "has been trained since" in said


def test_files_that_the_manifest_does_not_list_and_links_are_left_alone(three, tmp_path):
    (three / "slow" / "replay" / "mine.txt").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "rows.bin").write_text("never touch")
    Manifest.open(three / "fast").add("replay", three / "fast" / "replay" / "ends.bin")
    for file in (three / "fast" / "replay").iterdir():
        file.unlink()
    (three / "fast" / "replay").rmdir()
    (three / "fast" / "replay").symlink_to(tmp_path / "elsewhere")
    (three / "far" / "manifest.json").write_text("{")
    freed, said = prune_runs(three, dry_run=False)
    assert freed == 4096  # of slow's rows.bin alone
    assert (three / "slow" / "replay" / "mine.txt").read_text() == "mine"
    assert (tmp_path / "elsewhere" / "rows.bin").read_text() == "never touch"
    assert (three / "far" / "replay" / "rows.bin").is_file()
    assert "left alone  far" in said and "left alone  fast" in said and said.count("symbolic link") == 1


# --- the command -----------------------------------------------------------------------------------------


def test_table_needs_no_torch():
    code = "import sys, app.run_list.show_runs; print(sorted({'torch', 'tmrl', 'plotly', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.e2e
def test_command_lists_compares_and_prunes_and_answers_mistakes_in_a_sentence(three):
    def command(*words):
        line = [sys.executable, "app/list_runs.py", f"runs_dir={three}", *words]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=200)

    done = command("sort=lap_time", "where=[env=sim_lidar,state=finished]")
    assert done.returncode == 0 and done.stdout.index("fast") < done.stdout.index("slow"), done.stderr
    done = command("compare=[fast,slow]")
    assert done.returncode == 0 and f"page  {three}/compare.html" in done.stdout, done.stderr
    done = command("prune=true", "dry_run=false", "where=seed=3")
    assert done.returncode == 0 and replays(three) == ["fast", "slow"], done.stderr
    for words, sentence in (
        (("sort=speed",), "sort = speed: must be one of age"),
        (("where=[sed=1]",), "sed: there is no such key. Did you mean seed"),
        (("compare=[fast,slow]", "prune=true"), "compare and prune exclude each other"),
        (("wher=seed",), "wher: there is no such key. Did you mean where"),
    ):
        failed = command(*words)
        assert failed.returncode == 1 and sentence in failed.stderr and "Traceback" not in failed.stderr


@pytest.mark.e2e
def test_pruned_run_shows_its_result_and_continues_with_an_empty_replay(tmp_path, capsys):
    config = configure(tmp_path, *QUICK)
    objective = train(config)
    show_runs(ListRunsConfig(**OF_TABLE | {"runs_dir": str(tmp_path)}, prune=True, dry_run=False))
    assert not (tmp_path / "run" / "replay").exists()
    assert train(config) == objective and "has finished already" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"'\+restart=clean restart.targets=\[replay\]' continues with the networks"):
        train(configure(tmp_path, *QUICK, "training.epochs=4"))
    train(configure(tmp_path, *QUICK, "training.epochs=4", "+restart=clean", "restart.targets=[replay]"))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["epoch"] == 4
