"""``report.html``: what a study has found, on one page that needs nothing beside it."""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution
from plotly.offline import get_plotlyjs

from app.reporting.formatting import duration
from app.sweep.figures import Drawn, colour, make_figures, make_slices, short_names
from app.sweep.folder import StudyFolder
from app.sweep.records import Record, best_of, counts, ranked, why_no_best

_TOP = 10
_WORST = 50  # rows about trials that went wrong; trials.csv has them all
_WRONG = ("failed", "collapsed", "not finite")


@dataclass(frozen=True)
class Page:
    """What the page tells.

    Attributes:
        folder: of the study; links are relative to it.
        study: in its storage.
        records: its trials, by number.
        objective: what the score is, such as "return_test_det".
        direction: "maximize" or "minimize"; "" where the study has several objectives.
        config: before anything was searched; empty where it is not known.
        command: trains with what the best trial found; "" where there is no such file.
        notes: what a reader must know first.
    """

    folder: StudyFolder
    study: optuna.Study
    records: Sequence[Record]
    objective: str
    direction: str
    config: DictConfig
    command: str
    notes: Sequence[str]

    def render(self) -> str:
        """Return the page as HTML. Everything that comes from the storage is escaped."""
        top, best = ranked(self.records, self.direction)[:_TOP], best_of(self.records, self.direction)
        wrong = [record for record in self.records if record.end in _WRONG]
        figures, slices = self._figures(best)
        drawn = {name: figure for name, figure in figures.items() if isinstance(figure, dict)}
        names = sorted({name for record in self.records for name in record.params})
        ends = counts(self.records)
        return _template().render(
            name=self.study.study_name,
            objective=self.objective,
            direction=self.direction,
            facts=self._facts(),
            ends=ends,
            best=best,
            no_best=why_no_best(ends),
            command=self.command,
            notes=self.notes,
            space=[self._parameter(name, best) for name in names],
            missing={name: figure for name, figure in figures.items() if isinstance(figure, str)},
            slices=[f"slice-{number}" for number in range(len(slices))],
            drawn=drawn | {f"slice-{number}": figure for number, figure in enumerate(slices.values())},
            names=short_names(names),
            top=top,
            wrong=wrong[-_WORST:][::-1],
            all_wrong=len(wrong),
            link=self._link,
            nonce=secrets.token_urlsafe(16),  # nothing that comes from the storage could run, even if it got through
            plotly=get_plotlyjs(),
        )

    def _figures(self, best: Record | None) -> tuple[dict[str, Drawn | str], dict[str, Drawn]]:
        if not self.direction:
            words = "The study has several objectives, and these figures are of one score."
            return dict.fromkeys(("history", "epochs", "importances", "parallel", "timeline"), words), {}
        return make_figures(self.study, self.records, best), make_slices(self.study, self.records)

    def _facts(self) -> dict[str, str]:
        began = [record.began for record in self.records if record.began is not None]
        spent = sum(record.duration_s for record in self.records if record.duration_s is not None)
        return {
            "trials": str(len(self.records)),
            "first trial": f"{min(began):%Y-%m-%d %H:%M}" if began else "none yet",
            "time of all trials": duration(spent) if spent else "none yet",
            "written": f"{datetime.now():%Y-%m-%d %H:%M}",
        }

    def _parameter(self, name: str, best: Record | None) -> dict[str, Any]:
        """Return the row of a searched parameter: where, and what it is by default and in the best trial."""
        default = OmegaConf.select(self.config, name)
        found = None if best is None else best.params.get(name)
        space = _latest(self.study, name)
        return {
            "name": name,
            "space": _in_words(space),
            "default": default if default is None else _shown(default),
            "best": found if found is None else _shown(found),
            "default_at": _place(space, default),
            "best_at": _place(space, found),
        }

    def _link(self, record: Record) -> str:
        """Return the address of a trial's folder; "" where it is not here."""
        path = None if record.folder is None else self.folder.trials / record.folder
        return f"{self.folder.trials.name}/{quote(path.name)}/" if path is not None and path.is_dir() else ""


def _template() -> Any:
    here = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    here.filters |= {"shown": _shown, "duration": lambda seconds: duration(math.nan if seconds is None else seconds)}
    here.globals["colour"] = colour
    return here.get_template("report.html.jinja")


def _latest(study: optuna.Study, name: str) -> BaseDistribution:
    """A space may change between two launches; the last one counts."""
    trials = reversed(study.get_trials(deepcopy=False))
    return next(trial.distributions[name] for trial in trials if name in trial.distributions)


def _in_words(space: BaseDistribution) -> str:
    if isinstance(space, CategoricalDistribution):
        return ", ".join(map(_shown, space.choices))
    step = f", step {_shown(space.step)}" if space.step not in (None, 1) else ""
    return f"{_shown(space.low)} … {_shown(space.high)}{step}{', log scale' if space.log else ''}"


def _place(space: BaseDistribution, value: Any) -> float | None:
    """Return where a value stands in its space, in per cent; None if it does not."""
    if isinstance(space, CategoricalDistribution):
        known = value in space.choices and len(space.choices) > 1
        return 100 * space.choices.index(value) / (len(space.choices) - 1) if known else None
    if not isinstance(value, (int, float)) or not space.low <= value <= space.high or space.low == space.high:
        return None
    low, high, at = (math.log(number) if space.log else number for number in (space.low, space.high, value))
    return 100 * (at - low) / (high - low)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
