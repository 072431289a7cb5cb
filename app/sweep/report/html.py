"""Report of a study as ``report.html``: one page that needs no other file and no network."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution

from app.reporting.number_format import duration, lap_time, percent
from app.reporting.page import FigureJson, render_page
from app.sweep.report.figures import colour, latest_space, make_figures, make_slices, short_names
from app.sweep.report.records import TrialRecord, best_trial, count_ends, no_best_reason, ranked
from app.sweep.study_folder import StudyFolder

_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_TOP = 10  # rows of the best trials
_BAD_ROWS = 50  # rows of bad trials; trials.csv has them all
_BAD_ENDS = ("failed", "collapsed", "not finite")


@dataclass(frozen=True)
class ReportPage:
    """Content of the page.

    Attributes:
        folder: Folder of the study; links are relative to it.
        study: The study in its storage.
        records: Its trials, by number.
        objective: Meaning of the score, such as "return_test_det".
        direction: "maximize" or "minimize"; None if the study has several objectives.
        config: Configuration before anything was searched; empty if it is not known.
        command: Command that trains with what the best trial found; None if there is no ``best.yaml``.
        notes: Remarks at the top of the page.
    """

    folder: StudyFolder
    study: optuna.Study
    records: Sequence[TrialRecord]
    objective: str
    direction: str | None
    config: DictConfig
    command: str | None
    notes: Sequence[str]

    def render(self) -> str:
        """Return the page as HTML. Everything that comes from the storage is escaped."""
        top, best = ranked(self.records, self.direction)[:_TOP], best_trial(self.records, self.direction)
        bad = [record for record in self.records if record.end in _BAD_ENDS]
        figures, slices = self._figures(best)
        drawn = {name: figure for name, figure in figures.items() if isinstance(figure, dict)}
        names = sorted({name for record in self.records for name in record.params})
        ends = count_ends(self.records)
        content = {
            "name": self.study.study_name,
            "objective": self.objective,
            "direction": self.direction,
            "facts": self._facts(),
            "ends": ends,
            "best": best,
            "no_best": no_best_reason(ends),
            "command": self.command,
            "notes": self.notes,
            "space": [self._parameter(name, best) for name in names],
            "missing": {name: figure for name, figure in figures.items() if isinstance(figure, str)},
            "slices": [f"slice-{number}" for number in range(len(slices))],
            "names": short_names(names),
            "top": top,
            "laps": any(record.lap_share is not None for record in top),
            "bad": bad[-_BAD_ROWS:][::-1],
            "all_bad": len(bad),
            "link": self._link,
            "colour": colour,
        }
        drawn |= {f"slice-{number}": figure for number, figure in enumerate(slices.values())}
        filters = {"as_text": _value_text, "duration": _duration_text, "percent": percent, "lap_time": lap_time}
        return render_page(_TEMPLATE, content, drawn, filters)

    def _figures(self, best: TrialRecord | None) -> tuple[dict[str, FigureJson | str], dict[str, FigureJson]]:
        if not self.direction:
            reason = "The study has several objectives, and these figures are of one score."
            return dict.fromkeys(("history", "epochs", "importances", "parallel", "timeline"), reason), {}
        return make_figures(self.study, self.records, best), make_slices(self.study, self.records)

    def _facts(self) -> dict[str, str]:
        started = [record.started for record in self.records if record.started is not None]
        spent = sum(record.duration_s for record in self.records if record.duration_s is not None)
        return {
            "trials": str(len(self.records)),
            "first trial": f"{min(started):%Y-%m-%d %H:%M}" if started else "none yet",
            "time of all trials": duration(spent) if spent else "none yet",
            "written": f"{datetime.now():%Y-%m-%d %H:%M}",
        }

    def _parameter(self, name: str, best: TrialRecord | None) -> dict[str, Any]:
        """Return the row of a searched parameter: its space, its default, and its value in the best trial."""
        space = latest_space(self.study, name)
        default = default_value(self.config, name, space)
        found = None if best is None else best.params.get(name)
        return {
            "name": name,
            "space": _space_text(space),
            "default": default if default is None else _value_text(default),
            "best": found if found is None else _value_text(found),
            "default_at": _position(space, default),
            "outside": default is not None and not _holds(space, default),
            "best_at": _position(space, found),
        }

    def _link(self, record: TrialRecord) -> str | None:
        """Return the address of the folder of a trial, or None if it is not here."""
        path = None if record.folder is None else self.folder.trials / record.folder
        return f"{self.folder.trials.name}/{quote(path.name)}/" if path is not None and path.is_dir() else None


def _duration_text(seconds: float | None) -> str:
    return duration(math.nan if seconds is None else seconds)


def default_value(config: DictConfig, name: str, space: BaseDistribution) -> Any:
    """Return the value that a parameter has before the search.

    Args:
        config: The composed settings without the search.
        name: Key or group.
        space: What is searched. Lists and options of groups are texts there: the one that means the same is returned,
            or None if there is none.
    """
    value = OmegaConf.select(config, name)
    texts = [choice for choice in getattr(space, "choices", ()) if isinstance(choice, str)]
    if OmegaConf.is_dict(value):
        return next((name for name in (value.get("name"), value.get("kind")) if name in texts), None)
    if OmegaConf.is_list(value):
        return next((text for text in texts if OmegaConf.create(f"value: {text}").value == value), None)
    return value


def _holds(space: BaseDistribution, value: Any) -> bool:
    if isinstance(space, CategoricalDistribution):
        return value in space.choices
    return isinstance(value, (int, float)) and space.low <= value <= space.high


def _space_text(space: BaseDistribution) -> str:
    if isinstance(space, CategoricalDistribution):
        return ", ".join(map(_value_text, space.choices))
    step = f", step {_value_text(space.step)}" if space.step not in (None, 1) else ""
    return f"{_value_text(space.low)} … {_value_text(space.high)}{step}{', log scale' if space.log else ''}"


def _position(space: BaseDistribution, value: Any) -> float | None:
    """Return the position of a value in its space in per cent, or None if it lies outside."""
    if not _holds(space, value) or space.single():
        return None
    if isinstance(space, CategoricalDistribution):
        return 100 * space.choices.index(value) / (len(space.choices) - 1)
    low, high, at = (math.log(number) if space.log else number for number in (space.low, space.high, value))
    return 100 * (at - low) / (high - low)


def _value_text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
