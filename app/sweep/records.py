"""What a study knows of its trials, as plain records. Optuna itself is not needed to read them."""

import csv
import io
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from app.sweep.attributes import END, EPOCHS, ERROR, FOLDER, LAUNCH

if TYPE_CHECKING:
    import optuna

# How a trial can have ended, or where it stands, in the order in which a person wants to know.
ENDS = ("finished", "pruned", "collapsed", "not finite", "failed", "stopped", "running", "waiting")

_BROKEN = ("collapsed", "not finite")  # ends that nobody should go on from, whatever the score

_OURS = "trial."  # attributes of ours begin so; the others are fixed overrides, which Hydra's sweeper notes


@dataclass(frozen=True)
class Record:
    """One trial.

    Attributes:
        number: Optuna's, from 0.
        state: Optuna's, in small letters.
        end: one of ``ENDS``, or another first word that the trial noted.
        reason: why it ended so, "" where there is none.
        score: finite; None unless the trial is complete.
        epochs: that it trained; None where it noted none.
        began: local time; None for a trial that waits.
        duration_s: None for a trial that has not ended.
        folder: name of its run folder; None where it noted none, or none that can be.
        launch: who ran it, "" where that is not known.
        params: what was searched, by key of the configuration.
        fixed: what the command line had fixed, as Hydra spells it.
    """

    number: int
    state: str
    end: str
    reason: str
    score: float | None
    epochs: int | None
    began: datetime | None
    duration_s: float | None
    folder: str | None
    launch: str
    params: Mapping[str, Any]
    fixed: Mapping[str, str]

    @property
    def is_broken(self) -> bool:
        """Whether it ended because it collapsed or diverged."""
        return self.end in _BROKEN


def read_records(study: "optuna.Study") -> list[Record]:
    """Return the trials of a study, by number."""
    records = [_record(trial) for trial in study.get_trials(deepcopy=False)]
    last = {record.folder: record.number for record in records if record.folder is not None}
    return [_told_as_stopped(record, last.get(record.folder, record.number)) for record in records]


def ranked(records: Sequence[Record], direction: str) -> list[Record]:
    """Return the trials that have a score, the best first; of equals, the earlier one first.

    Those that collapsed or diverged come last: their score tells a search what to avoid, and may be luck.

    Args:
        records: by number.
        direction: "maximize" or "minimize".
    """
    scored = [record for record in records if record.score is not None]
    by_score = sorted(scored, key=lambda record: record.score, reverse=direction == "maximize")
    return sorted(by_score, key=lambda record: record.is_broken)


def best_of(records: Sequence[Record], direction: str) -> Record | None:
    """Return the best trial of those that ended well; None if there is none. Arguments as of ``ranked``."""
    return next((record for record in ranked(records, direction) if not record.is_broken), None)


def why_no_best(ends: Collection[str]) -> str:
    """Return why a study has no best trial.

    Args:
        ends: of its trials.
    """
    return "no trial with a score has ended well" if set(_BROKEN) & set(ends) else "no trial has a score yet"


def counts(records: Sequence[Record]) -> dict[str, int]:
    """Return how many trials ended in which way; only what occurs, in the order of ``ENDS``."""
    found = Counter(record.end for record in records)
    known = {end: found.pop(end) for end in ENDS if end in found}
    return known | dict(sorted(found.items()))


def as_csv(records: Sequence[Record]) -> str:
    """Return one line per trial; the parameters come last, a column each."""
    names = sorted({name for record in records for name in record.params})
    columns = ("number", "state", "end", "reason", "score", "epochs", "began", "duration_s", "folder", "launch")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *names])
    for record in records:
        plain = {column: getattr(record, column) for column in columns}
        plain["began"] = None if record.began is None else record.began.isoformat(" ", "seconds")
        writer.writerow([*plain.values(), *(record.params.get(name) for name in names)])
    return text.getvalue()


def _record(trial: "optuna.trial.FrozenTrial") -> Record:
    attributes, state = trial.user_attrs, trial.state.name.lower()
    end, _, reason = one_line(attributes.get(END, "")).partition(": ")
    if state == "complete":
        end = end or "finished"
    elif state == "fail":
        end, reason = "failed", one_line(attributes.get(ERROR, "")) or reason
    else:
        end, reason = state, ""
    return Record(
        number=trial.number,
        state=state,
        end=end,
        reason=reason,
        score=_score(trial),
        epochs=attributes.get(EPOCHS),
        began=trial.datetime_start,
        duration_s=None if trial.duration is None else trial.duration.total_seconds(),
        folder=_folder(attributes.get(FOLDER)),
        launch=one_line(attributes.get(LAUNCH, "")),
        params=trial.params,
        fixed={key: str(value) for key, value in attributes.items() if not key.startswith(_OURS)},
    )


def _told_as_stopped(record: Record, heir: int) -> Record:
    """A trial whose folder another one took over has not failed; the study has no better word for it."""
    if record.end != "failed" or record.reason or heir == record.number:
        return record
    return replace(record, end="stopped", reason=f"trial {heir} went on with it")


def one_line(text: object) -> str:
    """Return a text on one line."""
    return " ".join(str(text).split())


def _score(trial: "optuna.trial.FrozenTrial") -> float | None:
    """A study with several objectives has no single score."""
    if trial.state.name != "COMPLETE" or len(trial.values) != 1 or not math.isfinite(trial.values[0]):
        return None
    return trial.values[0]


def _folder(name: object) -> str | None:
    """A name that leads elsewhere than below trials/ is none."""
    return name if isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\:\0") else None
