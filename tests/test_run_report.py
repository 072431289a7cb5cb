"""Page of a run: its figures are those of the metrics, it says what the run was made under, and costs no run."""

import base64
import dataclasses
import json
import os
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from rich.console import Console

from app.config.faults import faults_of
from app.core import system
from app.health.collapse import first_collapse, rule_findings
from app.launch import run_role
from app.reporting import run_report_page as page_module
from app.reporting.report_figures import BAND, PANELS
from app.reporting.run_commands import name_for_seed, next_commands
from app.reporting.run_report import RunReport
from app.runs.config_file import read_config
from app.runs.run_folder import RunFolder
from app.training.stop import StopKind
from tests.helpers.browser import CHROMIUM, open_page
from tests.helpers.make import CONF, compose
from tests.helpers.stopped_runs import PENDULUM, QUICK, configure
from tests.test_evidence_report import HOSTILE, Cells
from tests.test_standstill import STILL

EPOCHS = 10
METRICS = [curve.metric for panel in PANELS for curve in panel.curves]
EPISODE = {
    "ret": 500.25, "length": 548, "lap_share": 1.0, "lap_time": 27.4, "outcome": "lap", "track": 3, "start": 0.25,
    "native_return": None, "lap_bound": 25.0,
}  # fmt: skip
CRASH = EPISODE | {"ret": 120.0, "lap_share": 0.24, "lap_time": None, "lap_bound": None, "outcome": "off_track"}
ENVIRONMENT = {"device": "cpu", "torch": "2.1"}


def make_lines(**changed) -> list[dict]:
    """Metrics of ten epochs: every metric of the panels, with spreads, a lap from the third epoch on."""
    lines = []
    for epoch in range(1, EPOCHS + 1):
        line = {"step": 500 * epoch, "epoch": epoch, "updates": 500 * epoch, "env_steps": 4000 * epoch, "wall_s": 30.5}
        line |= {name: 0.1 + 0.05 * epoch + 0.001 * number for number, name in enumerate(METRICS)}
        line |= {f"{name}_std": 0.05 for name in METRICS if name.endswith(("_det", "_stoch"))}
        line |= {"lap_share_det": min(1.0, 0.4 * epoch), "laps_det": float(epoch >= 3), "loss_actor": -0.2 * epoch}
        line |= {"return_test_det": 200.0 + epoch, "lap_time_det": 40.0 - epoch, "lap_time_ratio_det": 1.5 - epoch / 20}
        if epoch < 3:
            del line["lap_time_det"], line["lap_time_det_std"], line["lap_time_ratio_det"]
        lines.append(line | {name: values[epoch - 1] for name, values in changed.items()})
    return lines


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """Configurations by their overrides, each composed once."""
    made = {}

    def get(*overrides):
        if overrides not in made:
            made[overrides] = compose("env=sim_lidar", "training.epochs=12", "run_name=mine", *overrides)
        return made[overrides]

    return get


@pytest.fixture
def make_page(tmp_path, configs):
    """Write a run folder and its report: ``make_page(config, lines, **files)`` with the texts of its files."""

    def make(config=None, lines=None, stop_reason=None, name="mine", **files):
        path = tmp_path / "runs" / name
        path.mkdir(parents=True, exist_ok=True)
        config, lines = config or configs(), make_lines() if lines is None else lines
        texts = {"metrics.jsonl": "".join(f"{json.dumps(line)}\n" for line in lines)}
        texts |= {f"{key}.json{'l' if key == 'starts' else ''}": text for key, text in files.items()}
        for file, text in texts.items():
            (path / file).write_text(text)
        folder = RunFolder(path)
        assert RunReport(folder, config, Console()).write(stop_reason)
        text = folder.report.read_text()
        cells = Cells(text.replace("<wbr>", ""))
        (line,) = re.findall(r"^const drawn = (.*);$", text, re.MULTILINE) or ["{}"]
        by_title = {attrs["aria-label"]: attrs["id"] for _, attrs in cells.tags if "plot" in attrs.get("class", "")}
        drawn = json.loads(line)
        figures = {title: drawn[key] for title, key in by_title.items()}
        return SimpleNamespace(folder=folder, config=config, html=text, cells=cells, text=cells.text, figures=figures)

    return make


def traces(page, title: str) -> dict[str, dict]:
    return {trace["name"]: trace for trace in page.figures[title]["data"]}


# --- figures ---------------------------------------------------------------------------------------------


def test_every_curve_is_its_metric(make_page):
    lines = make_lines()
    page = make_page(lines=lines)
    assert page.figures.keys() == {panel.title for panel in PANELS}
    for panel in PANELS:
        found = traces(page, panel.title)
        for curve in panel.curves:
            values = [line.get(curve.metric) for line in lines]
            expected = [abs(value) for value in values] if panel.is_log else values
            assert found[curve.label]["y"] == expected, curve.metric
            assert found[curve.label]["x"] == list(range(1, EPOCHS + 1))


def test_band_is_one_deviation_and_no_share_leaves_its_range(make_page):
    lines = make_lines(lap_share_det_std=[0.1] * EPOCHS)
    bands = [trace for trace in make_page(lines=lines).figures[PANELS[0].title]["data"] if trace["name"] == BAND]
    upper, lower = bands[0]["y"][:EPOCHS], bands[0]["y"][EPOCHS : 2 * EPOCHS][::-1]
    means = [line["lap_share_det"] for line in lines]
    assert upper == pytest.approx([min(mean + 0.1, 1.0) for mean in means])
    assert lower == pytest.approx([mean - 0.1 for mean in means])


def test_band_ends_where_there_is_no_value(make_page):
    times = [None, 30.0, 29.0, None, None, 28.0, 27.0, 27.0, 27.0, 27.0]
    laps = [float(time is not None) for time in times]
    page = make_page(lines=make_lines(lap_time_det=times, lap_time_det_std=[0.5] * EPOCHS, laps_det=laps))
    found = traces(page, "Lap time of the finished laps")
    assert found["deterministic"]["y"] == times
    band = page.figures["Lap time of the finished laps"]["data"][0]
    areas = [[2, 3, 3, 2, None], [6, 7, 8, 9, 10, 10, 9, 8, 7, 6, None]]
    assert band["name"] == BAND and band["x"] == areas[0] + areas[1]


def test_star_is_the_policy_that_is_kept(make_page):
    page = make_page(lines=make_lines(lap_time_det=[None, None, 30, 29, 25, 26, 27, 28, 29, 30]))
    for title, value in (("Covered share of the lap", 1.0), ("Lap time of the finished laps", 25)):
        star = traces(page, title)["best"]
        assert (star["x"], star["y"]) == ([5], [value])


def test_figure_without_any_value_is_left_out(make_page):
    nothing = dict.fromkeys(("alpha", "action_noise", "steering_noise"))
    lines = [line | nothing for line in make_lines()]
    for line in lines:
        del line["film_scale"]
    page = make_page(lines=lines)
    assert "Entropy coefficient and noise" not in page.figures
    assert "|scale| of FiLM" not in traces(page, "Gradient norms before clipping")


# --- headline --------------------------------------------------------------------------------------------


def test_headline_is_the_evaluation_that_chose_the_policy(make_page):
    page = make_page()
    assert "100 % of the episodes finish the lap 0:30.000 lap time 1.00 × the bound on the centre line" in page.text
    assert "8 of 8 epochs hold the lap, since epoch 3" in page.text
    assert "Best policy, of epoch 10, in 10 deterministic episodes, from starts that chose it." in page.text
    assert "covered share of the lap 100.0 ± 5.0 %, lap time 0:30.000 ± 0.05 s, return 210.0 ± 0.1" in page.text
    assert "epochs 10 of 12 updates 5,000 environment steps 40,000 time 0:30" in page.text


SUMMARY = {
    "best_epoch": 10, "updates": 5000, "return_test_det": 499.0, "return_test_det_std": 1.5, "lap_share_det": 0.98,
    "lap_share_det_std": 0.06, "laps_det": 0.9, "lap_time_det": 31.25, "lap_time_det_std": 0.1,
    "lap_time_ratio_det": 1.25, "stop_reason": "finished",
    "episodes": {"deterministic": [EPISODE, CRASH], "stochastic": [EPISODE | {"lap_time": 28.0, "outcome": "lap"}]},
}  # fmt: skip


def test_headline_is_the_evaluation_on_new_starts_where_there_is_one(make_page):
    page = make_page(summary=json.dumps(SUMMARY), stop_reason="finished")
    tiles = "90 % of the episodes finish the lap 98 % of the lap covered 0:31.250 lap time 1.25 × the bound"
    assert tiles in page.text and "499.0 return" in page.text
    assert "from starts that did not choose it. Mean ± standard deviation" in page.text
    assert "state finished" in page.text and "Stopped:" not in page.text


def test_summary_of_another_policy_is_not_shown(make_page):
    page = make_page(summary=json.dumps(SUMMARY | {"best_epoch": 4}))
    assert "0:31.250" not in page.text and "0:30.000 lap time" in page.text
    assert "driven from new starts when the run ends. The first command below does it now." in page.text


def test_number_of_episodes_is_that_of_the_evaluation(make_page):
    page = make_page(summary=json.dumps(SUMMARY))
    assert "in 2 deterministic episodes, from starts that did not choose it" in page.text


def test_summary_of_an_older_version_has_no_episodes(make_page):
    summary = {key: value for key, value in SUMMARY.items() if key != "episodes"}
    page = make_page(summary=json.dumps(summary), stop_reason="finished")
    assert "0:31.250 lap time" in page.text and "10 deterministic episodes, from starts that did not" in page.text
    assert "An older version drove the best policy from new starts" in page.text


def test_policy_that_a_restart_removed_is_not_the_best_one(make_page):
    page = make_page()
    page.folder.best_result.parent.mkdir()
    page.folder.best_result.write_text('{"best_epoch": 7}')
    page = make_page()
    assert "Best policy, of epoch 7," in page.text and "0:33.000 lap time" in page.text
    assert traces(page, PANELS[0].title)["best"]["x"] == [7]
    page.folder.best_result.write_text('{"best_epoch": 70}')
    assert "Best policy, of epoch 10," in make_page().text


def test_every_episode_of_the_summary_has_a_row(make_page):
    page = make_page(summary=json.dumps(SUMMARY), stop_reason="finished")
    rows = [row for row in page.cells.rows if row and row[0] in ("deterministic", "stochastic")]
    assert rows == [
        ["deterministic", "3", "25 %", "0:27.400", "1.10", "100 %", "500.2", "lap"],
        ["deterministic", "3", "25 %", "-", "", "24 %", "120.0", "off track"],
        ["stochastic", "3", "25 %", "0:28.000", "1.12", "100 %", "500.2", "lap"],
    ]


def test_one_episode_has_no_spread(make_page, configs):
    page = make_page(configs("training.eval_episodes=1"))
    assert "in one deterministic episode, from a start that chose it" in page.text and "±" not in page.text


def test_reason_of_a_stop_is_told(make_page):
    page = make_page(stop_reason="collapsed: Q is <b>low</b>")
    assert "state collapsed" in page.text and "Stopped: collapsed: Q is <b>low</b>." in page.text
    assert "state running" in make_page().text


def test_run_without_an_epoch_has_a_page(make_page):
    page = make_page(lines=[])
    assert "No epoch has been completed yet." in page.text and page.figures == {}
    assert "encoder.dropout" in page.text and "There is no policy yet that could be driven." in page.text
    assert set(re.findall(r"python app/(\w+).py", page.text.partition("Going on")[2])) == {"train"}


# --- faults, health, standstill --------------------------------------------------------------------------


def test_faults_are_those_of_the_configuration(make_page, configs):
    page = make_page(configs("encoder.dropout=0.1", "agent.gamma=0.95"))
    words = {True: "fixed", False: "BROKEN", None: "not used"}
    states = {row[0]: row[1] for row in page.cells.rows if row and row[0].isdecimal() and len(row) == 4}
    assert states == {str(one.fault.number): words[one.fixed] for one in faults_of(page.config)}
    assert "Warnings agent.gamma = 0.95" in page.text


def test_model_without_the_parts_has_no_section_of_faults(make_page, configs):
    assert "The settings that made" not in make_page(configs("model=mlp")).text
    assert "The settings that made" in make_page(configs("model=mlp", "log_std_min=-2"), name="broken").text


def test_rules_of_a_collapse_are_told_as_health_sees_them(make_page, configs):
    config = configs("health.collapse.low_score=1", "health.collapse.low_epochs=2")
    lines = make_lines()
    page = make_page(config, lines)
    epoch, reason = first_collapse(lines, config)
    assert f"counts as collapsed, first after epoch {epoch}: {reason}." in page.text
    findings = {row[0]: row[1] for row in page.cells.rows if len(row) == 2}
    for rule, finding in rule_findings(lines, config).items():
        assert f"{rule} {finding or 'no finding'}" in page.text and rule in findings


def test_health_score_and_its_parts_are_those_of_the_newest_epoch(make_page):
    last = make_lines()[-1]
    text = f"health score {last['stability']:.2f} loss smoothness {last['stability_loss_smoothness']:.2f}"
    assert text in make_page().text


def test_later_reports_find_the_same_collapse(make_page, configs):
    config = configs("health.collapse.low_score=1", "health.collapse.low_epochs=2")
    page, lines = make_page(config, []), make_lines()
    report = RunReport(page.folder, page.config, Console())
    for count in range(1, EPOCHS + 1):
        page.folder.metrics.write_text("".join(f"{json.dumps(line)}\n" for line in lines[:count]))
        assert report.write()
    assert f"collapsed, first after epoch {first_collapse(lines, config)[0]}:" in page.folder.report.read_text()


def test_collapse_is_told_by_its_epoch_where_earlier_ones_are_missing(make_page, configs):
    config = configs("health.collapse.low_score=1", "health.collapse.low_epochs=2")
    lines = make_lines()[4:]
    page = make_page(config, lines)
    assert f"first after epoch {4 + first_collapse(lines, config)[0]}:" in page.text


def test_standing_car_is_explained(make_page):
    lines = [line | STILL | {"updates": 500} for line in make_lines()]
    page = make_page(lines=lines)
    assert "Why the car stands still With the deterministic action the car covers 0.2 % of the lap" in page.text
    assert "It has had 500 updates only" in page.text
    assert "Why the car stands still" not in make_page().text


# --- settings, environment, commands ---------------------------------------------------------------------


def test_settings_that_differ_from_the_defaults_are_listed(make_page, configs):
    page = make_page(configs("seed=3", "agent.betas_critic=[0.9,0.999]"))
    rows = {row[0]: row[1:] for row in page.cells.rows if len(row) == 3}
    assert rows["seed"] == ["0", "3"] and rows["training.epochs"] == ["10", "12"]
    assert rows["agent.betas_critic"] == ["[0.9,0.99]", "[0.9,0.999]"]
    assert "Made from model=droq_contextual env=sim_lidar" in page.text


def test_starts_and_environments_are_those_of_the_file(make_page):
    starts = [
        {"time": "2026-01-01T10:00:00Z", "updates": 0, "changed": [], "environment": ENVIRONMENT},
        {"time": "2026-01-02T10:00:00Z", "updates": 2500, "changed": ["agent.gamma: 0.95 → 0.99"],
         "environment": ENVIRONMENT | {"torch": "2.2"}},
    ]  # fmt: skip
    page = make_page(starts="".join(f"{json.dumps(one)}\n" for one in starts))
    assert "2026-01-02T10:00:00Z 2,500 agent.gamma: 0.95 → 0.99 torch: 2.1 → 2.2" in page.text
    assert "Of the last start. device cpu torch 2.2" in page.text


def test_starts_of_an_earlier_run_in_the_folder_are_left_out(make_page):
    starts = [
        {"time": f"start {number}", "updates": updates, "changed": [], "environment": ENVIRONMENT | {"torch": number}}
        for number, updates in enumerate((0, 2500, 0, 500))
    ]
    page = make_page(starts="".join(f"{json.dumps(one)}\n" for one in starts))
    assert "start 2 0 nothing start 3 500 torch: 2 → 3" in page.text and "start 1" not in page.text


def test_damaged_start_costs_its_own_line_only(make_page):
    start = {"time": "start 1", "updates": 0, "changed": [], "environment": ENVIRONMENT}
    page = make_page(starts=f'{json.dumps(start)}\n{{"time": "hal\n{json.dumps(start | {"updates": 7})}\n')
    assert "start 1 0 nothing start 1 7 nothing" in page.text and "Of the last start. device cpu" in page.text


def test_start_of_an_older_version_has_no_environment(make_page):
    page = make_page(starts='{"time": "now", "updates": 0, "changed": []}\n')
    assert "It was not recorded" in page.text


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"best_epoch": 10, "return_test_det": 5.0, "episodes": 3}'])
def test_damaged_records_cost_their_part_of_the_page_only(make_page, text):
    page = make_page(summary=text, starts=f"{text}\n")
    assert page.figures.keys() == {panel.title for panel in PANELS}


@pytest.mark.parametrize(
    "overrides",
    [
        ("seed=4", "agent.gamma=0.95"),
        ("env=gym", "model=mlp", "env.id=Pendulum-v1", "training.eval_episodes=3"),
    ],
)
def test_commands_lead_on_from_the_run(overrides, tmp_path):
    config = compose("env=sim_lidar", *overrides, "run_name=a-seed4", f"runs_dir={tmp_path}/my runs")
    folder = tmp_path / "my runs" / "a-seed4"
    lines = [shlex.split(command.line) for command in next_commands(folder, config, has_policy=True)]
    scripts = {words[1]: words[2:] for words in lines}
    with initialize_config_dir(str(CONF)):
        for name in ("evaluate", "export", "postmortem"):
            assert hydra_compose(name, scripts[f"app/{name}.py"]).run == str(folder)
    longer, again = (compose(*words[2:]) for words in lines[-2:])
    assert longer == dataclasses.replace(
        config, training=dataclasses.replace(config.training, epochs=2 * config.training.epochs)
    )
    seed = config.seed + 1
    assert again == dataclasses.replace(config, seed=seed, run_name=f"a-seed{seed}")


@pytest.mark.parametrize("name", ["my runs", "läufe", "it's", 'a"b\\"', "b\\s\\", "${seed} $HOME", "a=b,[c]"])
def test_commands_name_folders_with_any_character(name, configs):
    config = dataclasses.replace(configs(), runs_dir=f"/tmp/{name}")
    folder = Path(config.runs_dir) / "mine"
    evaluate, *_, longer, _ = (shlex.split(one.line) for one in next_commands(folder, config, has_policy=True))
    with initialize_config_dir(str(CONF)):
        assert hydra_compose("evaluate", evaluate[2:]).run == str(folder)
    assert compose(*longer[2:]).runs_dir == config.runs_dir


def test_tracks_to_evaluate_on_are_new_to_the_run():
    config = compose("env=sim_lidar", "experiment=many_tracks")
    evaluate = next_commands(Path("runs/mine"), config, has_policy=True)[0]
    assert evaluate.line.endswith("'tracks=[111,112,113]'")


def test_repetition_gets_a_name_of_its_own():
    assert name_for_seed("droq-sim-seed0", 1) == "droq-sim-seed1"
    assert name_for_seed("mine", 7) == "mine-seed7"


def test_configuration_that_conf_cannot_make_is_told(make_page, configs):
    config = configs()
    odd = dataclasses.replace(config, actor=dataclasses.replace(config.actor, hidden_dim=7))  # FiLM needs the critic's
    page = make_page(odd)
    assert "No overrides of conf/ make this configuration" in page.text
    assert "add another seed and run_name to the command that started it" in page.text


# --- other tasks, video, hostile text ---------------------------------------------------------------------


def test_task_without_laps_has_returns_only(make_page):
    config = compose("env=gym", "model=mlp", "env.id=Pendulum-v1")
    drop = ("lap", "stability")
    lines = [{key: value for key, value in line.items() if not key.startswith(drop)} for line in make_lines()]
    episode = EPISODE | {"lap_share": None, "lap_time": None, "lap_bound": None, "outcome": "timeout", "length": 200}
    summary = {"best_epoch": 10, "return_test_det": -150.0, "return_test_det_std": 3.0, "updates": 5000}
    summary["episodes"] = {"deterministic": [episode], "stochastic": []}
    page = make_page(config, lines, summary=json.dumps(summary))
    assert "Covered share of the lap" not in page.figures and "the lap" not in page.text.partition("Faults")[0]
    assert "-150.0 return" in page.text and "env.return_range is null" in page.text
    assert ["deterministic", "200", "500.2", "timeout"] in page.cells.rows
    assert "python app/evaluate.py run=" in page.text and "tracks=" not in page.text


def test_video_is_embedded_up_to_its_limit(make_page, monkeypatch):
    page = make_page()
    assert "There is no video yet: the best episode is recorded when the run ends." in page.text
    assert "There is no video." in make_page(stop_reason="interrupted").text
    page.folder.videos.mkdir()
    page.folder.best_video.write_bytes(b"0123456789")
    assert "episodes of an earlier best policy, recorded" in make_page().text
    assert "episodes of the best policy, recorded" in make_page(summary=json.dumps(SUMMARY)).text
    (video,) = [attrs for tag, attrs in make_page().cells.tags if tag == "video"]
    assert base64.b64decode(video["src"].removeprefix("data:video/mp4;base64,")) == b"0123456789"
    monkeypatch.setattr(page_module, "VIDEO_LIMIT", 9)
    large = make_page()
    assert f"{page.folder.best_video} has 10 bytes, and this page takes up to 9 bytes." in large.text
    assert not any(tag == "video" for tag, _ in large.cells.tags)


def test_hostile_text_is_harmless(make_page):
    start = {"time": HOSTILE, "updates": 1, "changed": [HOSTILE], "environment": {HOSTILE: HOSTILE}}
    episodes = {"deterministic": [EPISODE | {"outcome": HOSTILE, "track": HOSTILE}], "stochastic": []}
    lines = make_lines(**{"stability_x": [0.5] * EPOCHS})
    lines[-1][f"stability_{HOSTILE}"] = 0.1
    page = make_page(
        None, lines, HOSTILE, "a<img src=x onerror=alert(1)>",
        summary=json.dumps(SUMMARY | {"episodes": episodes}), starts=f"{json.dumps(start)}\n{json.dumps(start)}\n",
    )  # fmt: skip
    assert [tag for tag, _ in page.cells.tags].count("script") == 2
    assert not any(tag == "img" for tag, _ in page.cells.tags)
    assert not any(name.startswith("on") for _, attrs in page.cells.tags for name in attrs)
    assert page.text.count("alert(1)") >= 6


# --- written by a run ------------------------------------------------------------------------------------


def test_run_writes_its_page_after_every_epoch_and_names_it_once(tmp_path, monkeypatch, capsys):
    written = []
    original = RunReport.write
    monkeypatch.setattr(RunReport, "write", lambda *given: (written.append(given[1:]), original(*given))[1])
    config = configure(tmp_path, *QUICK, "logger.report=true")
    run_role(config)
    folder = RunFolder(tmp_path / "run")
    assert written == [(), (), (), (StopKind.FINISHED.value,)]
    out = capsys.readouterr().out
    assert re.findall(r"^report +(\S+)$", out, re.MULTILINE) == [str(folder.report)]
    text = Cells(folder.report.read_text()).text
    assert "epochs 3 of 3" in text and "state finished" in text and "threads 1" in text
    summary = json.loads(folder.summary.read_text())
    assert summary["paths"]["report"] == str(folder.report)
    (first, *_), metrics = summary["episodes"]["deterministic"], summary["return_test_det"]
    assert len(summary["episodes"]["deterministic"]) == config.training.eval_episodes
    assert min(one["ret"] for one in summary["episodes"]["deterministic"]) <= metrics and first["outcome"] in text
    environment = json.loads(folder.starts.read_text())["environment"]
    assert environment["device"] == "cpu" and environment["torch"] and environment["python"]
    assert read_config(folder.config) == config
    aside = folder.move_records_to_history()
    assert not folder.report.exists() and (aside / "report.html").is_file()


def test_page_that_fails_costs_one_warning_and_no_run(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise ZeroDivisionError("of the page")

    monkeypatch.setattr(page_module, "render_report", fail)
    run_role(configure(tmp_path, *PENDULUM, "logger.report=true", "training.epochs=1"))
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("report.html: cannot be written, the training continues: ZeroDivisionError: of the page") == 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["stop_reason"] == "finished" and "report" not in summary["paths"]
    assert "report " not in out.partition("summary of")[2]


def test_full_disk_keeps_the_old_page(make_page, monkeypatch, capsys):
    page = make_page()
    before = page.folder.report.read_bytes()

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    report = RunReport(page.folder, page.config, Console())
    assert not report.write() and not report.write()
    assert capsys.readouterr().out.count("No space left") == 1
    assert page.folder.report.read_bytes() == before
    assert {path.name for path in page.folder.path.iterdir()} == {"metrics.jsonl", "report.html"}


def test_environment_outside_of_a_repository_has_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = system.environment.__wrapped__()
    assert "commit" not in found and {"system", "processor", "python", "torch", "tmrl"} <= found.keys()


def test_quiet_logger_writes_no_page(tmp_path, configs):
    quiet = compose("logger=quiet")
    assert configs().logger.report and not quiet.logger.report
    assert not RunReport(RunFolder(tmp_path), quiet, Console()).write()
    assert list(tmp_path.iterdir()) == []


# --- in a browser ----------------------------------------------------------------------------------------


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium in PATH")
@pytest.mark.parametrize("width", [390, 1280])
def test_page_draws_every_figure_in_a_browser_and_asks_for_nothing(make_page, tmp_path, width):
    lines = [line | {"lap_share_det": 0.001, "outcome_det/stalled": 1.0} for line in make_lines()]
    page = make_page(lines=lines, summary=json.dumps(SUMMARY))
    seen = open_page(page.folder.report, tmp_path, width)
    assert seen["problems"] == [] and seen["requests"] == []
    assert seen["drawn"] == seen["plots"] == len(PANELS)
    assert seen["too_wide"] == 0
    shown, needed = seen["width"]
    assert needed <= shown == width
