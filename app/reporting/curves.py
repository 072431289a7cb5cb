"""Learning curves of a run in one picture."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.core.atomic_files import atomic_write
from app.core.json_data import parse_json
from app.core.system import keep_matplotlib_out_of_home
from app.health.score import best_epoch
from app.reporting.number_format import duration, percent, significant
from app.reporting.palette import BLUE, GREEN, GREY, ORANGE, RED

Lines = list[dict[str, Any]]  # lines of metrics.jsonl; null is None
Series = tuple[list[float], list[float]]  # updates and values

_ZERO = "\0"
_SIZE = (16.0, 8.5)  # inches
_DPI = 100
_TITLE_PAD, _LEGEND_ROW = 24, 14  # points; the legend lies between title and axes, where it hides no data
_LONG_LEGEND = 5  # entries that one row does not hold
# Okabe and Ito: distinguishable with any kind of colour vision
_STYLE = {
    "font.size": 10,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.alpha": 0.25,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.borderpad": 0,
    "legend.borderaxespad": 0.4,
    "legend.columnspacing": 1.4,
    "legend.handlelength": 1.6,
    "axes.xmargin": 0.02,
    "lines.linewidth": 1.7,
}


def read_metrics(path: Path) -> Lines:
    """Return the lines of ``metrics.jsonl`` by increasing step.

    A resumed run repeats the steps since its last checkpoint: the later line of a step counts. An incomplete last line,
    as a killed run leaves it, is ignored; so are zeros in place of a line, as a power cut leaves them.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no text, or a line is not one of numbers and null with a step.
    """
    lines: Lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], start=1):
        written = text.lstrip(_ZERO)  # the next line may follow the zeros directly
        if _ZERO in written or (text and not written):
            continue
        try:
            line = parse_json(written)
            _require_numbers(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        while lines and lines[-1]["step"] >= line["step"]:
            lines.pop()
        lines.append(line)
    return lines


def _require_numbers(line: Any) -> None:
    """Raise ValueError unless a line maps names to numbers or null, and has a step."""
    if not isinstance(line, dict) or type(line.get("step")) is not int:
        raise ValueError("it has no step")
    for name, value in line.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f"{name} is no number")


def plot_curves(metrics_jsonl: Path, out: Path) -> None:
    """Draw the learning curves of a run, 1600 × 850 pixels, with one panel for each group of metrics that exists.

    Args:
        metrics_jsonl: Metrics of the run; the name of its folder becomes the headline.
        out: The PNG file.
    """
    keep_matplotlib_out_of_home()
    import matplotlib
    from matplotlib.figure import Figure  # without pyplot: no display, no global state
    from matplotlib.ticker import MaxNLocator

    lines = read_metrics(metrics_jsonl)
    panels = [draw for draw, names in _PANELS.items() if any(_series(lines, name)[0] for name in names)]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12, wspace=0.02, hspace=0.02)
        axes = list(figure.subplots(2, 3).flat)
        figure.suptitle(_headline(metrics_jsonl, lines), fontsize=13, fontweight="bold")
        for axis, draw in zip(axes, panels, strict=False):
            draw(axis, lines)
            axis.set_xlabel("updates")
            axis.set_xlim(left=0)
            axis.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
            axis.xaxis.set_major_formatter("{x:,.0f}")
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        with atomic_write(out) as temporary:
            figure.savefig(temporary)


def _headline(path: Path, lines: Lines) -> str:
    if not lines:
        return f"{path.parent.name}: no metrics yet"
    last = lines[-1]
    facts = [f"{last['step']:,} updates"]
    if last.get("env_steps") is not None:
        facts.append(f"{last['env_steps']:,} environment steps")
    if last.get("wall_s") is not None:
        facts.append(duration(last["wall_s"]))
    return f"{path.parent.name} after " + " · ".join(facts)


def _series(lines: Lines, name: str) -> Series:
    """Return steps and values of the lines that contain this metric."""
    points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    return [step for step, _ in points], [value for _, value in points]


def _line(axis: Any, lines: Lines, name: str, label: str, color: str, **style: Any) -> None:
    """Draw one metric; a single value becomes a dot."""
    steps, values = _series(lines, name)
    if steps:
        axis.plot(steps, values, color=color, label=label, marker="o" if len(steps) == 1 else None, **style)


def _magnitude(axis: Any, lines: Lines, name: str, label: str, color: str, **style: Any) -> None:
    """Draw the absolute value of a metric for a logarithmic axis; zeros are left out."""
    steps, values = _series(lines, name)
    points = [(step, abs(value)) for step, value in zip(steps, values, strict=True) if value]
    if points:
        marker = "o" if len(points) == 1 else None
        axis.plot(*zip(*points, strict=True), color=color, label=label, marker=marker, **style)
        axis.set_yscale("log")


def _band(axis: Any, lines: Lines, name: str, label: str, color: str, low: float, high: float) -> None:
    """Draw a metric with its ``<name>_std`` as a band, which is cut at ``low`` and ``high``."""
    _line(axis, lines, name, label, color)
    both = [line for line in lines if line.get(name) is not None and line.get(f"{name}_std") is not None]
    steps = [line["step"] for line in both]
    lower = [max(line[name] - line[f"{name}_std"], low) for line in both]
    upper = [min(line[name] + line[f"{name}_std"], high) for line in both]
    axis.fill_between(steps, lower, upper, color=color, alpha=0.15, linewidth=0)


def _other_policy(axis: Any, lines: Lines, name: str) -> None:
    """Draw a deterministic metric of the policy that is not deployed, if it is evaluated."""
    for policy in ("raw", "averaged"):
        _line(axis, lines, f"{name}_{policy}", policy, GREEN, linestyle=":")


def _best(axis: Any, lines: Lines, name: str) -> None:
    """Mark the best evaluation, whose policy is kept."""
    best = best_epoch(lines)
    if best.get(name) is not None:
        label = f"best: {percent(best[name]) if name.startswith('lap_share') else significant(best[name])}"
        star = {"marker": "*", "markersize": 14, "linestyle": "none", "zorder": 5, "clip_on": False}
        axis.plot(best["step"], best[name], color=RED, label=label, **star)


def _finish(axis: Any, title: str, unit: str, right: Any = None) -> None:
    """Set title, unit, legend and ticks; the lines of a second axis ``right`` join the legend."""
    axis.set_ylabel(unit)
    handles, labels = axis.get_legend_handles_labels()
    _plain_ticks(axis)
    if right is not None:
        more_handles, more_labels = right.get_legend_handles_labels()
        handles, labels = handles + more_handles, labels + more_labels
        _plain_ticks(right)
    rows = 1 if len(handles) < _LONG_LEGEND else 2
    axis.set_title(title, pad=_TITLE_PAD + (rows - 1) * _LEGEND_ROW)
    columns = math.ceil(len(handles) / rows)
    legend = axis.legend(handles, labels, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=max(columns, 1))
    legend.set_in_layout(False)  # a long one must not narrow the axes


def _plain_ticks(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers, and densely if it spans little."""
    from matplotlib.ticker import LogLocator, NullFormatter

    if axis.get_yscale() == "log":
        low, high = axis.get_ylim()
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 2.0, 5.0)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())


def _lap(axis: Any, lines: Lines) -> None:
    _band(axis, lines, "lap_share_det", "deterministic", BLUE, 0.0, 1.0)
    _band(axis, lines, "lap_share_stoch", "stochastic", ORANGE, 0.0, 1.0)
    _other_policy(axis, lines, "lap_share_det")
    _best(axis, lines, "lap_share_det")
    axis.set_ylim(0.0, 1.04)
    axis.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    _finish(axis, "Covered share of the lap, mean ± std", "share of the lap")


def _returns(axis: Any, lines: Lines) -> None:
    _band(axis, lines, "return_test_det", "deterministic", BLUE, float("-inf"), float("inf"))
    _band(axis, lines, "return_test_stoch", "stochastic", ORANGE, float("-inf"), float("inf"))
    _other_policy(axis, lines, "return_test_det")
    _line(axis, lines, "return_train", "training", GREY, linestyle="--")
    _best(axis, lines, "return_test_det")
    _finish(axis, "Return of an episode, mean ± std", "return")


def _values(axis: Any, lines: Lines) -> None:
    _line(axis, lines, "q_mean", "Q", BLUE)
    _line(axis, lines, "q_target_mean", "Bellman target", ORANGE, linestyle="--")
    _finish(axis, "Mean value", "discounted return")


def _losses(axis: Any, lines: Lines) -> None:
    _magnitude(axis, lines, "loss_critic", "critic", BLUE)
    _magnitude(axis, lines, "loss_actor", "|actor|", ORANGE)
    _magnitude(axis, lines, "loss_prediction", "reward prediction", GREEN)
    _magnitude(axis, lines, "loss_entropy", "|entropy coef.|", GREY, linestyle=":")
    _finish(axis, "Losses", "absolute loss")


def _entropy(axis: Any, lines: Lines) -> None:
    _line(axis, lines, "entropy", "entropy", BLUE)
    _line(axis, lines, "log_std_mean", "mean log std", GREEN)
    right = axis.twinx()
    right.grid(visible=False)
    right.tick_params(axis="y", which="both", colors=ORANGE)
    right.set_ylabel("entropy coefficient", color=ORANGE)
    _magnitude(right, lines, "alpha", "coefficient (right)", ORANGE)
    _finish(axis, "Entropy", "entropy, nats; log std", right)


def _gradients(axis: Any, lines: Lines) -> None:
    _magnitude(axis, lines, "grad_norm_critic", "critic", BLUE)
    _magnitude(axis, lines, "grad_norm_actor", "actor", ORANGE)
    _magnitude(axis, lines, "film_scale", "|scale| of FiLM", GREY, linestyle=":")
    _finish(axis, "Gradient norms before clipping", "norm")


_PANELS: dict[Callable[[Any, Lines], None], tuple[str, ...]] = {
    _lap: ("lap_share_det", "lap_share_stoch"),
    _returns: ("return_test_det", "return_test_stoch", "return_train"),
    _values: ("q_mean", "q_target_mean"),
    _losses: ("loss_critic", "loss_actor", "loss_prediction", "loss_entropy"),
    _entropy: ("entropy", "log_std_mean", "alpha"),
    _gradients: ("grad_norm_critic", "grad_norm_actor", "film_scale"),
}
