"""Summary of a table of evidence: scores of every arm, and its effects beside the reference arms."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from app.ablation.arms import Arm
from app.ablation.effects import Effect, ScoreEstimate, effect, estimate
from app.ablation.evidence_runs import EvidenceRun
from app.ablation.lab_runs import FINISHED, PENDING
from app.ablation.run_scores import COLLAPSED, SCORES, Score

FIXED, COLLAPSE = "fixed", "collapse"
REFERENCES = (FIXED, COLLAPSE)
PEER, OTHER = "peer", "other"  # groups of arms that are not in the lab


@dataclass(frozen=True)
class ArmScores:
    """Scores of an arm over its first epochs.

    Attributes:
        epochs: Number of epochs.
        seeds: Seeds of the runs that can be judged over them.
        env_steps: Mean environment steps after the last of them; None if not known.
        estimates: Estimates by name of the score; scores without a value are missing.
    """

    epochs: int
    seeds: tuple[int, ...]
    env_steps: float | None
    estimates: Mapping[str, ScoreEstimate]


@dataclass(frozen=True)
class ArmEvidence:
    """Evidence on one arm in one task.

    Attributes:
        arm: The arm.
        runs: Its runs.
        scores: Its scores over all its epochs; of a reference arm, then over the epochs of the arms that are shorter.
        effects: Effects by name of the reference arm and of the score.
    """

    arm: Arm
    runs: tuple[EvidenceRun, ...]
    scores: tuple[ArmScores, ...]
    effects: Mapping[str, Mapping[str, Effect]]

    @property
    def is_reference(self) -> bool:
        """Whether the other arms are compared with it."""
        return self.arm.name in REFERENCES

    @property
    def stopped_early(self) -> int:
        """Number of its runs that a rule stopped early, which are not judged."""
        return sum(run.is_stopped_early for run in self.runs)

    @property
    def own_reference(self) -> str | None:
        """Name of the reference arm that differs from it in one setting; None of the arm of which all is fixed."""
        if self.arm.name == FIXED:
            return None
        repairs = self.arm.group == "fix" or (self.arm.group == "value" and self.arm.faults)
        return COLLAPSE if repairs else FIXED


@dataclass(frozen=True)
class TaskEvidence:
    """Evidence of one task: arms are compared within it only.

    Attributes:
        task: Name of the environment.
        arms: Its arms, in the order of the lab, then the others.
    """

    task: str
    arms: tuple[ArmEvidence, ...]

    def find(self, name: str) -> ArmEvidence | None:
        """Return the arm of a name, or None."""
        return next((found for found in self.arms if found.arm.name == name), None)

    def effects(self, reference: str, score: Score) -> list[tuple[str, Effect]]:
        """Return label and effect of every arm that has one, beside a reference arm."""
        found = ((arm.arm.label, arm.effects.get(reference, {}).get(score.name)) for arm in self.arms)
        return [(label, one) for label, one in found if one is not None]

    def group(self, *names: str) -> tuple[ArmEvidence, ...]:
        """Return the arms of these groups."""
        return tuple(found for found in self.arms if found.arm.group in names)


@dataclass(frozen=True)
class EvidenceSummary:
    """Summary of all runs.

    Attributes:
        tasks: Evidence by task, in the order of the table.
        not_begun: Arms of the lab without any epoch.
        problems: A sentence for every run that has not finished; one for all of an arm that have not begun.
        comparisons: Number of the comparisons by any score.
    """

    tasks: tuple[TaskEvidence, ...]
    not_begun: tuple[Arm, ...]
    problems: tuple[str, ...]
    comparisons: int


def summarize(runs: Sequence[EvidenceRun], arms: Sequence[Arm], peers: Sequence[EvidenceRun] = ()) -> EvidenceSummary:
    """Summarize the runs of a lab.

    Args:
        runs: Runs of the table of evidence.
        arms: Arms of the lab.
        peers: Runs of other libraries on the same tasks.
    """
    known = {arm.name: arm for arm in arms}
    order = [*known, *(run.arm for run in (*runs, *peers) if run.arm not in known)]
    groups = dict.fromkeys((run.arm for run in runs), OTHER) | dict.fromkeys((run.arm for run in peers), PEER)
    found: dict[str, dict[str, list[EvidenceRun]]] = {}
    for run in (*runs, *peers):
        if run.epochs or run.is_broken_off:
            found.setdefault(run.task, {}).setdefault(run.arm, []).append(run)
    tasks = []
    for task, by_arm in found.items():
        names = sorted(by_arm, key=order.index)
        longest = max(1, *(run.last_epoch for some in by_arm.values() for run in some))
        arms_here = [known.get(name) or _unknown_arm(name, groups[name], longest) for name in names]
        tasks.append(_task_evidence(task, arms_here, by_arm))
    begun = {name for by_arm in found.values() for name in by_arm}
    return EvidenceSummary(
        tuple(tasks),
        tuple(arm for arm in arms if arm.name not in begun),
        tuple(_problems([run for run in (*runs, *peers) if run.end != FINISHED])),
        sum(len(effects) for task in tasks for arm in task.arms for effects in arm.effects.values()),
    )


def _unknown_arm(name: str, group: str, epochs: int) -> Arm:
    return Arm(name, name, group, (), (), epochs, "Not an arm of this lab.")


def _task_evidence(task: str, arms: Sequence[Arm], runs: Mapping[str, Sequence[EvidenceRun]]) -> TaskEvidence:
    epochs = {arm.name: _epochs_of(arm, runs[arm.name]) for arm in arms}
    found = []
    for arm in arms:
        lengths = [epochs[arm.name]]
        if arm.name in REFERENCES:
            lengths += sorted({other for other in epochs.values() if other < epochs[arm.name]}, reverse=True)
        found.append(
            ArmEvidence(
                arm,
                tuple(runs[arm.name]),
                tuple(_scores(runs[arm.name], length) for length in lengths),
                {
                    name: _effects(runs[arm.name], runs[name], min(epochs[arm.name], epochs[name]))
                    for name in REFERENCES
                    if name in runs and name != arm.name and not (arm.name == FIXED and name == COLLAPSE)
                },
            )
        )
    return TaskEvidence(task, tuple(found))


def _epochs_of(arm: Arm, runs: Sequence[EvidenceRun]) -> int:
    """Return the epochs over which an arm is judged: the planned ones, or those of its shortest finished run if fewer.

    As long as no run has finished or become NaN, the most that any has so far.
    """
    finished = [run.last_epoch for run in runs if run.end == FINISHED]
    if not finished and not any(run.is_broken_off for run in runs):
        finished = [max((run.last_epoch for run in runs if not run.is_stopped_early), default=arm.epochs)]
    return min([arm.epochs, *finished])


def _scores(runs: Sequence[EvidenceRun], epochs: int) -> ArmScores:
    judged = [run for run in runs if run.covers(epochs)]
    steps = [run.series("env_steps", epochs)[-1] for run in judged]
    known = [value for value in steps if not np.isnan(value)]
    estimates = {score.name: estimate(_values(runs, score, epochs), score) for score in SCORES}
    return ArmScores(
        epochs,
        tuple(run.seed for run in judged),
        float(np.mean(known)) if known else None,
        {name: found for name, found in estimates.items() if found is not None},
    )


def _effects(ours: Sequence[EvidenceRun], theirs: Sequence[EvidenceRun], epochs: int) -> dict[str, Effect]:
    """Return the effects over the epochs that both arms have."""
    found = {}
    for score in SCORES:
        values = [list(_values(runs, score, epochs).values()) for runs in (ours, theirs)]
        found[score.name] = effect(*values, score)
    return {name: one for name, one in found.items() if one is not None}


def _values(runs: Sequence[EvidenceRun], score: Score, epochs: int) -> dict[int, float]:
    """Return a score by seed of the runs that can be judged; one that was stopped early can have collapsed only."""
    judged = [run for run in runs if run.covers(epochs) or (run.is_stopped_early and score is COLLAPSED)]
    values = {run.seed: score.of(run, epochs) for run in judged}
    return {seed: value for seed, value in values.items() if value is not None}


def _problems(unfinished: Sequence[EvidenceRun]) -> Iterator[str]:
    """Yield a sentence for every run that has begun, and then one for every arm with runs that have not."""
    waiting: dict[tuple[str, str], list[str]] = {}
    for run in unfinished:
        if run.end == PENDING and not run.last_epoch:
            waiting.setdefault((run.arm, run.task), []).append(str(run.seed))
            continue
        judged = "; stopped early, not judged" if run.is_stopped_early else ""
        yield f"{run.arm}, seed {run.seed}, {run.task}: {run.end}, after {run.last_epoch} epochs{judged}."
    for (arm, task), seeds in waiting.items():
        yield f"{arm}, {'seed' if len(seeds) == 1 else 'seeds'} {', '.join(seeds)}, {task}: {PENDING}."
