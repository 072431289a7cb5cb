"""Trials of a study as plain records, their ranking, and ``trials.csv``. Optuna is not needed to read them."""

import csv
import io
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from app.sweep.study_store import END, EPOCHS, ERROR, FOLDER, LAP_SHARE, LAP_TIME, LAUNCH, OWN_PREFIX, STOPPED
from app.training.stop import StopKind

if TYPE_CHECKING:
    import optuna

# Ends of trials, and states of those that have not ended, in the order of the report.
ENDS = (
    *(kind.value for kind in (StopKind.FINISHED, StopKind.PRUNED, StopKind.COLLAPSED, StopKind.NOT_FINITE)),
    "failed", STOPPED, "running", "waiting",
)  # fmt: skip

_BROKEN = (StopKind.COLLAPSED.value, StopKind.NOT_FINITE.value)  # such a trial is never the best, whatever its score


@dataclass(frozen=True)
class TrialRecord:
    """One trial.

    Attributes:
        number: Number of the trial in the study, from 0.
        state: State in Optuna, in small letters.
        end: One of ``ENDS``, or another kind of stop reason that the trial recorded.
        reason: Explanation of the end, empty if there is none.
        score: Finite score; None unless the trial is complete.
        epochs: Number of completed epochs; None if the trial recorded none.
        started: Local time; None for a trial that waits.
        duration_s: Duration in seconds; None for a trial that has not ended.
        folder: Name of its run folder; None if it recorded none, or no valid one.
        launch: Identifier of the launch that ran it, empty if it is not known.
        lap_share: Mean share of the lap of its best policy; None if it has none, or an older version ran it.
        lap_time: Mean time of the whole laps of its best policy, in seconds, or None.
        params: Searched values, by key of the configuration.
        fixed: Values that the command line fixed, as Hydra spells them.
    """

    number: int
    state: str
    end: str
    reason: str
    score: float | None
    epochs: int | None
    started: datetime | None
    duration_s: float | None
    folder: str | None
    launch: str
    lap_share: float | None
    lap_time: float | None
    params: Mapping[str, Any]
    fixed: Mapping[str, str]

    @property
    def is_broken(self) -> bool:
        """True if the trial collapsed or diverged."""
        return self.end in _BROKEN


def read_records(study: "optuna.Study") -> list[TrialRecord]:
    """Return the trials of a study, by number."""
    records = [_record(trial) for trial in study.get_trials(deepcopy=False)]
    following: dict[str | None, int] = {}  # number of the next trial, by folder
    known = []
    for record in reversed(records):
        known.append(_as_stopped(record, None if record.folder is None else following.get(record.folder)))
        following[record.folder] = record.number
    return known[::-1]


def ranked(records: Sequence[TrialRecord], direction: str) -> list[TrialRecord]:
    """Return the trials that have a score, the best first; of equal scores, the earlier trial first.

    Trials that collapsed or diverged come last: their score shows a search what to avoid, and may be luck.

    Args:
        records: Trials by number.
        direction: "maximize" or "minimize".
    """
    scored = [record for record in records if record.score is not None]
    by_score = sorted(scored, key=lambda record: record.score, reverse=direction == "maximize")
    return sorted(by_score, key=lambda record: record.is_broken)


def best_trial(records: Sequence[TrialRecord], direction: str) -> TrialRecord | None:
    """Return the best trial that neither collapsed nor diverged, or None.

    Args:
        records: Trials by number.
        direction: "maximize" or "minimize".
    """
    return next((record for record in ranked(records, direction) if not record.is_broken), None)


def no_best_reason(ends: Collection[str]) -> str:
    """Return the reason why a study has no best trial.

    Args:
        ends: Ends of its trials.
    """
    return "no trial with a score has ended well" if set(_BROKEN) & set(ends) else "no trial has a score yet"


def count_ends(records: Sequence[TrialRecord]) -> dict[str, int]:
    """Return the number of trials by end, in the order of ``ENDS``; ends that do not occur are left out."""
    found = Counter(record.end for record in records)
    known = {end: found.pop(end) for end in ENDS if end in found}
    return known | dict(sorted(found.items()))


def trials_csv(records: Sequence[TrialRecord]) -> str:
    """Return the text of ``trials.csv``: a line for each trial, with a column for each parameter at the end."""
    names = sorted({name for record in records for name in record.params})
    columns = ("number", "state", "end", "reason", "score", "lap_share", "lap_time", "epochs", "began", "duration_s")
    columns += ("folder", "launch")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *names])
    for record in records:
        started = None if record.started is None else record.started.isoformat(" ", "seconds")
        values = {**vars(record), "began": started}
        writer.writerow([*(values[column] for column in columns), *(record.params.get(name) for name in names)])
    return text.getvalue()


def _record(trial: "optuna.trial.FrozenTrial") -> TrialRecord:
    attributes, state = trial.user_attrs, trial.state.name.lower()
    end, _, reason = one_line(attributes.get(END, "")).partition(": ")
    if state == "complete":
        end = end or StopKind.FINISHED.value
    elif state == "fail":
        end, reason = STOPPED if end == STOPPED else "failed", one_line(attributes.get(ERROR, "")) or reason
    else:
        end, reason = state, ""
    return TrialRecord(
        number=trial.number,
        state=state,
        end=end,
        reason=reason,
        score=_score(trial),
        epochs=attributes.get(EPOCHS),
        started=trial.datetime_start,
        duration_s=None if trial.duration is None else trial.duration.total_seconds(),
        folder=_folder(attributes.get(FOLDER)),
        launch=one_line(attributes.get(LAUNCH, "")),
        lap_share=_number(attributes.get(LAP_SHARE)),
        lap_time=_number(attributes.get(LAP_TIME)),
        params=trial.params,
        fixed={key: str(value) for key, value in attributes.items() if not key.startswith(OWN_PREFIX)},
    )


def _as_stopped(record: TrialRecord, successor: int | None) -> TrialRecord:
    """Return a failed trial as stopped if another trial continues in its folder; Optuna has no such state.

    Args:
        record: The trial.
        successor: Number of the next trial in the same folder; None without one.
    """
    if record.end not in ("failed", STOPPED) or record.reason or successor is None:
        return record
    return replace(record, end=STOPPED, reason=f"trial {successor} continued it")


def one_line(text: object) -> str:
    """Return a text on one line."""
    return " ".join(str(text).split())


def _score(trial: "optuna.trial.FrozenTrial") -> float | None:
    """Return the finite score of a complete trial, or None; with several objectives there is no single score."""
    if trial.state.name != "COMPLETE" or len(trial.values) != 1 or not math.isfinite(trial.values[0]):
        return None
    return trial.values[0]


def _number(value: object) -> float | None:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def _folder(name: object) -> str | None:
    """Return the name of a run folder, or None if it would lead out of ``trials/``."""
    return name if isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\:\0") else None
