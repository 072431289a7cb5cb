"""Metrics files, progress, curves, videos, tables and the banner."""

import errno
import io
import itertools
import json
import logging
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console
from rich.text import Text

from app.core.atomic_files import write_json
from app.core.console import print_line
from app.envs.env_factory import make_spec
from app.evaluation.results import Episode, Evaluation
from app.replay.memory_check import MemoryEstimate
from app.reporting import metrics as metrics_module
from app.reporting.banner import BannerFacts, print_banner
from app.reporting.curves import plot_curves, read_metrics
from app.reporting.metric_logs import TensorBoardLog
from app.reporting.metrics import MetricsWriter
from app.reporting.progress import Progress
from app.reporting.summary import print_evaluation, print_summary
from app.reporting.video import write_video
from tests.helpers.make import compose

LAP = Episode(ret=500.0, length=800, lap_share=1.0, lap_time=40.0, outcome="lap", track=7, start=0.25)
CRASH = Episode(ret=100.0, length=200, lap_share=0.2, lap_time=None, outcome="off_track", track=8, start=0.5)
PENDULUM = Episode(-150.0, 200, math.nan, None, "timeout", 0, 0.0)
SIM = Evaluation(deterministic=(LAP, CRASH), stochastic=(CRASH,))
GYM = Evaluation(deterministic=(PENDULUM,), stochastic=())


def page(width: int = 80, terminal: bool = False) -> Console:
    """Return a console that writes to memory; ``page.file.getvalue()`` is the text."""
    environ = {"TERM": "xterm-256color"}
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, highlight=False, _environ=environ)


def strict_loads(text: str) -> dict:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


# ------------------------------------------------------------------------------------------------ results


def test_evaluation_metrics_equal_those_computed_by_hand():
    assert SIM.metrics() == pytest.approx(
        {
            "return_test_det": 300.0,
            "return_test_det_std": 200.0,
            "length_det": 500.0,
            "lap_share_det": 0.6,
            "lap_share_det_std": 0.4,
            "laps_det": 0.5,
            "lap_time_det": 40.0,
            "lap_time_det_std": 0.0,
            "outcome_det/lap": 0.5,
            "outcome_det/off_track": 0.5,
            "return_test_stoch": 100.0,
            "return_test_stoch_std": 0.0,
            "length_stoch": 200.0,
            "lap_share_stoch": 0.2,
            "lap_share_stoch_std": 0.0,
            "laps_stoch": 0.0,
            "outcome_stoch/off_track": 1.0,
        }
    )


def test_task_without_laps_has_no_lap_metrics():
    assert set(GYM.metrics()) == {
        "return_test_det",
        "return_test_det_std",
        "length_det",
        "outcome_det/timeout",
    }


# ------------------------------------------------------------------------------------------------ metrics


def test_metrics_lines_are_strict_json_and_readable_at_once(tmp_path):
    writer = MetricsWriter(tmp_path, after=0, logs={})
    writer.write(10, {"loss": math.nan, "q": math.inf, "alpha": np.float32(0.5), "epoch": 1})
    writer.write(20, {"loss": 1.5})
    first, second = (tmp_path / "metrics.jsonl").read_text().splitlines()  # before close: flushed
    assert strict_loads(first) == {"step": 10, "loss": None, "q": None, "alpha": 0.5, "epoch": 1}
    assert strict_loads(second) == {"step": 20, "loss": 1.5}
    writer.close()
    writer.close()


def test_resumed_run_removes_later_lines_and_an_incomplete_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    assert [line["step"] for line in read_metrics(path)] == [1, 2]
    writer = MetricsWriter(tmp_path, after=1, logs={})  # the last checkpoint was that of step 1
    writer.write(2, {"again": 1.0})
    writer.close()
    assert path.read_text() == '{"step": 1}\n{"step": 2, "again": 1.0}\n'


def test_zeros_of_a_power_cut_cost_their_line_alone(tmp_path):
    path, zeros = tmp_path / "metrics.jsonl", "\0" * 9
    path.write_text(f'{{"step": 1}}\n{zeros}\n{{"step": 3, {zeros}\n{zeros}{{"step": 4}}\n')
    assert [line["step"] for line in read_metrics(path)] == [1, 4]


def test_full_disk_costs_a_line_and_one_warning(tmp_path, caplog, monkeypatch):
    writer = MetricsWriter(tmp_path, after=0, logs={})
    writer.write(1, {})
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(metrics_module, "append_line", _raise_full)
        writer.write(2, {})
        writer.write(3, {})
    writer.write(4, {})
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 4]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_metrics_file_removed_during_the_run_is_created_again(tmp_path):
    writer = MetricsWriter(tmp_path, after=0, logs={})
    writer.write(1, {})
    (tmp_path / "metrics.jsonl").unlink()
    writer.write(2, {})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 2}]


def tensorboard(folder: Path) -> dict:
    return {"TensorBoard": lambda: TensorBoardLog(folder / "tensorboard", after=0, settings={})}


def _raise_full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_tensorboard_receives_all_metrics(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = MetricsWriter(tmp_path, after=0, logs=tensorboard(tmp_path))
    writer.write(10, {"loss_critic": 0.5, "return_test_det": 3.0, "return_train": math.nan, "q_earned": 1.0})
    writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {
        "loss/loss_critic",
        "evaluation/return_test_det",
        "training/return_train",
        "measure/q_earned",
    }
    scalar = events.Scalars("loss/loss_critic")[0]
    assert (scalar.step, scalar.value) == (10, 0.5)


@pytest.mark.parametrize("fails_at", ["open", "write"])
def test_failing_tensorboard_costs_one_warning(tmp_path, caplog, monkeypatch, fails_at):
    if fails_at == "open":
        (tmp_path / "tensorboard").write_text("a file where the folder should be")
    else:
        from torch.utils.tensorboard import SummaryWriter

        def full(*_):
            raise OSError("no space left on device")

        monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    with caplog.at_level(logging.WARNING):
        writer = MetricsWriter(tmp_path, after=0, logs=tensorboard(tmp_path))
        for step in range(3):
            writer.write(step, {"loss": 1.0})
        writer.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "TensorBoard" in caplog.text
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


# ------------------------------------------------------------------------------------------------ progress


class Clock:
    """Seconds that pass when told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def run_for(progress: Progress, clock: Clock, seconds: float, updates: int = 0, epoch: int = 1) -> int:
    """Advance with 64 updates and 128 environment steps per second, times that floats hold exactly."""
    for _ in range(round(seconds * 64)):
        clock.now += 1 / 64
        updates += 1
        progress.update(updates, 2 * updates, epoch)
    return updates


def test_progress_prints_plain_lines_without_a_terminal():
    console, clock = page(), Clock()
    progress = Progress("auto", total_updates=6400, epochs=5, console=console, clock=clock)
    progress.start()
    run_for(progress, clock, 35.0)
    progress.evaluated(SIM.metrics(), best=True)
    progress.stop()
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 4  # after 10, 20 and 30 s, and the evaluation
    assert lines[0].startswith("epoch 1/5 · 640/6,400 updates · 1,280 env steps")
    assert lines[0].endswith("128 steps/s · 64.0 updates/s · ETA 1:30")
    assert lines[3] == "epoch 1  return 300 ± 200 · stochastic 100 · lap 0.60 ± 0.40 · 0:40.000  best"
    assert "\x1b" not in console.file.getvalue()


def test_bar_is_shown_in_a_terminal_and_throttled():
    console, clock = page(terminal=True), Clock()
    progress = Progress("auto", total_updates=640, epochs=5, console=console, clock=clock)
    progress.start()
    assert "collecting" in console.file.getvalue()
    run_for(progress, clock, 5.0)
    text = console.file.getvalue()
    assert 15 <= text.count("epoch 1/5") <= 22  # 4 per second, not one per update
    assert "320/640 updates" in text and "50%" in text
    progress.evaluating()
    assert "evaluating" in console.file.getvalue()[len(text) :]
    progress.evaluated(SIM.metrics(), best=True)
    progress.stop()
    progress.stop()
    assert "last evaluation: return 300 ± 200" in console.file.getvalue()
    assert console.file.getvalue().count("best") == 1


@pytest.mark.parametrize("width", [40, 80])
def test_bar_fits_narrow_terminals(width):
    console, clock = page(width=width, terminal=True), Clock()
    progress = Progress("bar", total_updates=1_000_000, epochs=100, console=console, clock=clock)
    progress.start(updates=999_000)
    progress.update(999_999, 2_000_000, 100)
    clock.now += 1.0
    progress.update(999_999, 2_000_000, 100)
    lines = [Text.from_ansi(line).plain.rstrip() for line in console.file.getvalue().split("\n")[-3:]]
    assert lines[1].startswith("2,000,000 env steps") and lines[2] == "no evaluation yet"
    assert all(len(line) <= width for line in lines)
    progress.stop()


def test_rates_leave_out_the_evaluation_and_earlier_starts():
    console, clock = page(), Clock()
    progress = Progress("plain", total_updates=10_000, epochs=5, console=console, clock=clock)
    progress.start(updates=5000, env_steps=10_000)
    run_for(progress, clock, 9.0, updates=5000)
    progress.evaluating()
    clock.now += 60.0
    progress.evaluated(SIM.metrics(), best=False)
    assert "best" not in console.file.getvalue()
    run_for(progress, clock, 5.0, updates=5576)
    assert progress.rates() == pytest.approx((64.0, 128.0))


def test_progress_none_prints_nothing():
    console, clock = page(), Clock()
    progress = Progress("none", total_updates=100, epochs=1, console=console, clock=clock)
    progress.start()
    run_for(progress, clock, 20.0)
    progress.evaluating()
    progress.evaluated(SIM.metrics(), best=True)
    progress.stop()
    assert not console.file.getvalue()


# ------------------------------------------------------------------------------------------------ curves


def png_size(path: Path) -> tuple[int, int]:
    header = path.read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


TRAINING = {
    "epoch": 1,
    "env_steps": 200,
    "wall_s": 3.0,
    "loss_critic": 0.1,
    "loss_actor": -2.0,
    "q_mean": 2.0,
    "alpha": 0.1,
    "entropy": 1.0,
    "grad_norm_critic": 3.0,
    "film_scale": 0.0,
}


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([], id="empty"),
        pytest.param([{"loss_critic": math.nan}], id="nan"),
        pytest.param([{**TRAINING, **SIM.metrics()}], id="one"),
        pytest.param([TRAINING, {**TRAINING, **SIM.metrics()}, GYM.metrics()], id="gaps"),
    ],
)
def test_curves_are_drawn_whatever_metrics_there_are(tmp_path, lines):
    writer = MetricsWriter(tmp_path, after=0, logs={})
    for step, metrics in enumerate(lines, start=1):
        writer.write(100 * step, metrics)
    writer.close()
    (tmp_path / "metrics.jsonl").touch()
    plot_curves(tmp_path / "metrics.jsonl", tmp_path / "new" / "curves.png")
    assert png_size(tmp_path / "new" / "curves.png") == (1600, 850)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["curves.png"]


def test_curves_name_every_unit_and_their_legends_stay_inside(tmp_path, monkeypatch):
    epoch = {**TRAINING, **SIM.metrics(), "return_train": -1234.5, "lap_share_det_averaged": 0.5}
    epoch |= {"return_test_det_averaged": 210.0, "return_test_det": -1234.5, "film_scale": 1.0, "log_std_mean": 0.1}
    writer = MetricsWriter(tmp_path, after=0, logs={})
    for step in (1, 2):
        writer.write(step, epoch)
    writer.close()
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: (figures.append(figure), Path(path).touch()))
    plot_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    figure = figures[0]
    figure.draw_without_rendering()
    assert len(figure.axes) == 7 and all(axis.get_ylabel() for axis in figure.axes)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()][:2] == ["0 %", "20 %"]
    boxes = [axis.get_legend().get_window_extent() for axis in figure.axes if axis.get_legend()]
    assert len(boxes) == 6 and all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_curves_write_nothing_into_the_home_folder(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "q_mean": 1.0}\n')
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import sys; from pathlib import Path; from app.reporting.curves import plot_curves;"
        "plot_curves(Path(sys.argv[1]) / 'metrics.jsonl', Path(sys.argv[1]) / 'curves.png')"
    )
    root = Path(__file__).parents[1]
    outside = {name: value for name, value in os.environ.items() if name not in ("MPLCONFIGDIR", "TMP")}
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        check=True,
        cwd=root,
        env={
            **outside,
            "HOME": str(home),
            "USERPROFILE": str(home),
            "TMPDIR": str(tmp_path),
            "TEMP": str(tmp_path),
        },
    )
    assert not list(home.iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "curves.png", "home"}


# ------------------------------------------------------------------------------------------------ video


def test_video_read_back_has_the_frames(tmp_path):
    import imageio.v2 as imageio

    shades = [20, 80, 140, 200]
    frames = (np.full((63, 97, 3), shade, np.uint8) for shade in shades for _ in range(5))
    write_video(tmp_path / "videos" / "best.mp4", frames, fps=20)
    with imageio.get_reader(tmp_path / "videos" / "best.mp4") as reader:
        meta, back = reader.get_meta_data(), list(reader.iter_data())
    assert len(back) == 20
    assert back[0].shape == (64, 98, 3)  # made even
    assert (meta["codec"], meta["fps"], meta["pix_fmt"][:7]) == ("h264", 20.0, "yuv420p")
    for index, frame in enumerate(back):
        assert abs(frame.mean() - shades[index // 5]) < 4
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["best.mp4"]


def test_failing_video_leaves_the_old_one(tmp_path):
    path = tmp_path / "best.mp4"
    path.write_bytes(b"old")

    def broken():
        yield np.zeros((64, 64, 3), np.uint8)
        raise RuntimeError("the renderer died")

    with pytest.raises(RuntimeError, match="renderer"):
        write_video(path, broken(), fps=20)
    with pytest.raises(ValueError, match="no frames"):
        write_video(path, [], fps=20)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


# ------------------------------------------------------------------------------------------------ tables

SUMMARY = {
    **SIM.metrics(),
    "run_name": "droq-1",
    "stop_reason": "all epochs done",
    "best_epoch": 3,
    "updates": 20_000,
    "env_steps": 11_000,
    "wall_s": 3725.0,
    "updates_per_s": math.nan,
    "paths": {"video": Path("/data/runs [old]/droq-1/a folder so long that its name fills a line/best.mp4")},
}


def test_summary_json_is_strict_and_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_json(path, SUMMARY)
    written = strict_loads(path.read_text())
    assert written["updates_per_s"] is None and written["best_epoch"] == 3
    assert written["paths"]["video"].endswith("best.mp4")

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="space"):
        write_json(path, {"run_name": "other"})
    assert strict_loads(path.read_text()) == written
    assert list(tmp_path.iterdir()) == [path]


def test_line_is_printed_without_wrapping_or_markup():
    console, line = page(), "/data/[bold]runs [old]/" + "long" * 40
    print_line(console, line, "green")
    assert console.file.getvalue() == line + "\n"


def test_summary_table_shows_the_known_values():
    console = page()
    print_summary(console, SUMMARY)
    text = console.file.getvalue()
    assert "300 ± 200" in text and "1:02:05" in text and "0:40.000" in text and "50 %" in text
    assert "updates per second" not in text  # NaN
    assert str(SUMMARY["paths"]["video"]) in text  # neither wrapped nor taken for markup


@pytest.mark.parametrize("evaluation", [SIM, GYM], ids=["sim", "gym"])
def test_evaluation_table_has_a_line_per_episode(evaluation):
    console = page()
    print_evaluation(console, evaluation, "droq-1 [best]")
    lines = console.file.getvalue().splitlines()
    words = [line.split() for line in lines]
    assert max(map(len, lines)) <= 80 and lines[0].startswith("droq-1 [best]")
    if evaluation is SIM:
        assert ["7", "0.25", "500.00", "800", "1.00", "0:40.000", "lap"] in words
        assert ["mean", "300.00", "500", "0.60", "0:40.000", "1", "of", "2", "laps"] in words
        assert ["±", "std", "200.00", "300", "0.40", "-"] in words
    else:
        assert ["-150.00", "200", "timeout"] in words and "track" not in console.file.getvalue()


CONFIG = compose("env=sim", "norm=batch", "agent.gamma=0.95", "seed=3")
FACTS = BannerFacts(
    run_dir=Path("/data/runs [old]/droq-1"),
    device="cpu",
    threads=2,
    spec=make_spec(CONFIG.env),
    parameters={"backbone": 1000, "policy": 200, "Q-heads": 34},
    replay=MemoryEstimate(
        capacity=1000, bytes_per_step=4200, total_bytes=4_200_000, available_bytes=10**10, fitting_capacity=1
    ),
)


@pytest.mark.parametrize("width", [60, 80, 160])
def test_banner_shows_run_faults_and_warnings(width):
    console = page(width=width)
    print_banner(console, CONFIG, FACTS)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width or width < 80  # a warning's key may be longer than 60 columns
    for fact in ("/data/runs [old]/droq-1", "seed 3", "2 threads", "1,234", "4.2 MB of 10.0 GB", "norm=batch"):
        assert fact in text
    assert text.count("BROKEN") == 2 and text.count("fixed") == 6
    assert "agent.gamma=0.95" in text and "warning agent.gamma = 0.95" in text


def test_banner_breaks_no_key_in_two_from_80_columns_on():
    console = page(width=80)
    print_banner(console, CONFIG, FACTS)
    assert " training.max_training_steps_per_env_step=0.125 " in console.file.getvalue()


@pytest.mark.parametrize(
    ("ratio", "text"), [("0.125", "8 env steps per update"), ("1", "1 update per env step"), ("2.5", "2.5 updates per")]
)
def test_banner_tells_updates_and_steps_in_numbers_above_one(ratio, text):
    console = page()
    config = replace(CONFIG, training=replace(CONFIG.training, max_training_steps_per_env_step=float(ratio)))
    print_banner(console, config, FACTS)
    assert text in console.file.getvalue()


def test_one_episode_has_no_spread():
    console = page()
    print_summary(console, {**GYM.metrics(), "run_name": "one", "paths": {}})
    print_evaluation(console, GYM, "one")
    assert "-150" in console.file.getvalue() and "±" not in console.file.getvalue()


def test_banner_marks_faults_whose_part_the_model_lacks():
    console, config = page(), compose("env=sim_lidar", "model=droq")
    print_banner(console, config, replace(FACTS, spec=make_spec(config.env)))
    assert console.file.getvalue().count("not used") == 3


def test_banner_of_a_model_without_the_parts_shows_faults_only_if_one_is_broken():
    for overrides, is_shown in (((), False), (("log_std_min=-2",), True)):
        console, config = page(), compose("env=sim_lidar", "model=mlp", *overrides)
        print_banner(console, config, replace(FACTS, spec=make_spec(config.env)))
        text = console.file.getvalue()
        assert ("in this run" in text) is is_shown and text.count("BROKEN") == is_shown


def test_broken_is_highlighted_in_a_terminal():
    console = page(terminal=True)
    print_banner(console, CONFIG, FACTS)
    assert "\x1b[1;37;41mBROKEN" in console.file.getvalue()
