"""Model card of an exported policy: a README with Hugging Face's front matter, and the figures with their intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import TypeAdapter, ValidationError

from app.config.faults import faults_of
from app.config.schema import Config
from app.config.schema_commands import ExportConfig
from app.config.schema_env import GymConfig, TrackmaniaConfig
from app.core.json_data import read_json
from app.evaluation.results import Episode
from app.reporting.bootstrap import Interval, Precision, bootstrap_interval
from app.reporting.number_format import lap_time, percent, plus_minus, significant
from app.runs.run_folder import RunFolder

NOT_STATED = "unknown"  # Hugging Face's identifier of a license that nobody stated

_TEMPLATE = "readme.md.jinja"
_TAGS = ("reinforcement-learning", "soft-actor-critic", "tmrl", "onnx")
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)

# Settings that a reader of the card asks for first; actor.json has all that policy and data depend on.
_SHOWN_SETTINGS = (
    "model.name", "value.kind", "agent.gamma", "agent.n_step", "agent.polyak", "agent.lr_actor", "agent.lr_critic",
    "agent.deployed_policy", "agent.policy_ema", "critic.num_heads", "critic.dropout", "replay.batch_size",
    "training.updates_per_epoch", "training.max_training_steps_per_env_step",
)  # fmt: skip


@dataclass(frozen=True)
class RecordedEpisodes:
    """Deterministic episodes that a policy was judged by.

    Attributes:
        file: File of the run that holds them.
        episodes: The episodes.
    """

    file: str
    episodes: tuple[Episode, ...]


@dataclass(frozen=True)
class Figure:
    """A row of the card.

    Attributes:
        key: Name for programs.
        name: What it is, with the unit.
        value: The mean, or a count, as text.
        interval: The interval of the mean as text; "" where there is none.
    """

    key: str
    name: str
    value: str
    interval: str = ""


def recorded_episodes(run: RunFolder, best_epoch: int | None) -> RecordedEpisodes | None:
    """Return the newest recorded episodes of the best policy, on starts that did not choose it.

    Args:
        run: Folder of the run.
        best_epoch: Epoch of the best policy, which a record must name.

    Returns:
        Those of ``app/evaluate.py``, or else those of the end of the run; None if neither judged this policy.
    """
    for path in (run.evaluation, run.summary):
        try:
            content = read_json(path)
            if best_epoch is None or content["best_epoch"] != best_epoch:
                continue
            episodes = content.get("episodes", content)  # a section of the summary, which has other content beside
            found = [_episode(values) for values in episodes["deterministic"]]
        except (*_UNREADABLE, ValidationError):  # missing, of an older version, or damaged
            continue
        if found:
            return RecordedEpisodes(path.name, tuple(found))
    return None


def figures(recorded: RecordedEpisodes | None, reached: Mapping[str, Any], precision: Precision) -> list[Figure]:
    """Return the rows of the card.

    Args:
        recorded: Episodes of the policy; None if there are none.
        reached: Metrics of the evaluation that chose the policy, shown where there are no episodes.
        precision: Confidence and resamples of the intervals.
    """
    if recorded is None:
        return _without_episodes(reached)
    episodes = recorded.episodes

    def row(key: str, name: str, values: Sequence[float], show: Callable[[float], str]) -> Figure:
        return Figure(key, name, show(float(np.mean(values))), _interval_text(values, show, precision))

    shares = [episode.lap_share for episode in episodes if not math.isnan(episode.lap_share)]
    laps = [episode for episode in episodes if episode.lap_time is not None]
    ratios = [ratio for episode in laps if (ratio := episode.lap_time_ratio) is not None]
    rows = []
    if shares:
        rows.append(Figure("finished_laps", "finished laps", f"{len(laps)} of {len(episodes)}"))
        rows.append(row("lap_share", "covered share of the lap", shares, percent))
    if laps:
        rows.append(row("lap_time", "lap time (m:ss)", [episode.lap_time for episode in laps], lap_time))
    if ratios:
        rows.append(row("lap_time_ratio", "lap time / bound on the centre line", ratios, "{:.3f}".format))
    returns = [episode.ret for episode in episodes]
    return [*rows, row("mean_reward", "return of an episode", returns, lambda value: significant(value, 4))]


def render_card(
    description: Mapping[str, Any],
    config: Config,
    rows: Sequence[Figure],
    recorded: RecordedEpisodes | None,
    cfg: ExportConfig,
) -> str:
    """Return the README of an exported folder.

    Args:
        description: Contents of ``actor.json``.
        config: Configuration that the policy was trained under.
        rows: Figures of the policy.
        recorded: Episodes that they come from; None if there are none.
        cfg: Configuration of the export.
    """
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    content = {
        **description,
        "run": " ".join(description["run"].split()),
        "front_matter": front_matter(description["run"], config, rows, cfg.license or NOT_STATED),
        "figures": rows,
        "recorded": recorded,
        "confidence": percent(cfg.confidence),
        "license": cfg.license,
        "task": task_text(config),
        "config": config,
        "settings": _settings(config),
        "broken": [state for state in faults_of(config) if state.fixed is False],
        "is_game": isinstance(config.env, TrackmaniaConfig),
        "is_gym": isinstance(config.env, GymConfig),
    }
    return pages.get_template(_TEMPLATE).render(content) + "\n"


def front_matter(name: str, config: Config, rows: Sequence[Figure], license_: str) -> str:
    """Return the metadata of the card as YAML, as Hugging Face's hub reads it, without the lines of dashes.

    Format: https://huggingface.co/docs/hub/model-cards (specification modelcard.md of huggingface_hub).

    Args:
        name: Name of the model.
        config: Configuration that it was trained under.
        rows: Figures of the policy.
        license_: Identifier of the license.
    """
    metrics = [{"type": row.key, "name": row.name, "value": _metric_value(row), "verified": False} for row in rows]
    task = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
    result = {"task": task, "dataset": {"type": config.env.name, "name": config.env.name}, "metrics": metrics}
    content: dict[str, Any] = {
        "license": license_,
        "library_name": "tmrl",
        "pipeline_tag": "reinforcement-learning",
        "tags": [*_TAGS, config.env.name],
        "model-index": [{"name": name, "results": [result]}],
    }
    if not metrics:
        del content["model-index"]  # the hub refuses a result without a metric
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def task_text(config: Config) -> str:
    """Return a sentence on what the policy drives."""
    match config.env:
        case GymConfig():
            return f"It solves the Gymnasium task {config.env.id}."
        case TrackmaniaConfig():
            return "It drives TrackMania 2020 through tmrl, in real time."
    sees = "grey images, lidar and the car's instruments" if config.env.images else "lidar and the car's instruments"
    tracks = ", ".join(map(str, config.env.train_tracks))
    simulator = "Gymnasium's CarRacing" if config.env.kind == "car_racing" else "the built-in track simulator"
    return f"It drives one lap of a closed track in {simulator}, by {sees}. Seeds of its training tracks: {tracks}."


def _without_episodes(reached: Mapping[str, Any]) -> list[Figure]:
    shown = (
        ("lap_share", "covered share of the lap", "lap_share_det", lambda mean, _: percent(mean)),
        ("lap_time", "lap time (m:ss)", "lap_time_det", lambda mean, _: lap_time(mean)),
        ("mean_reward", "return of an episode", "return_test_det", plus_minus),
    )
    return [
        Figure(key, name, show(reached[metric], reached.get(f"{metric}_std")))
        for key, name, metric, show in shown
        if reached.get(metric) is not None
    ]


def _interval_text(values: Sequence[float], show: Callable[[float], str], precision: Precision) -> str:
    """Return the bootstrap interval of a mean; "" for values without a spread, which say nothing about one."""
    interval: Interval | None = bootstrap_interval([values], np.mean, precision) if len(set(values)) > 1 else None
    return "" if interval is None else f"{show(interval.low)} to {show(interval.high)}"


def _metric_value(row: Figure) -> str:
    return f"{row.value} ({row.interval})" if row.interval else row.value


def _episode(values: Mapping[str, Any]) -> Episode:
    """Return an episode from JSON, which has null for a task without laps."""
    return _EPISODES.validate_python({**values, "lap_share": _number_or_nan(values["lap_share"])})


def _number_or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _settings(config: Config) -> dict[str, str]:
    values = {key: config for key in _SHOWN_SETTINGS}
    for key in values:
        for part in key.split("."):
            values[key] = getattr(values[key], part)
    return {key: value if isinstance(value, str) else f"{value:g}" for key, value in values.items()}


_EPISODES = TypeAdapter(Episode)
