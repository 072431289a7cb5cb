"""Sentences about the evidence, in plain words; a claim is made only where an interval carries it."""

from collections.abc import Iterator, Mapping

from app.ablation.effects import FALSE_CLAIMS, FIRM_SEEDS, MIN_SEEDS, PRECISION, Claim, Effect, ScoreEstimate
from app.ablation.evidence_summary import COLLAPSE, FIXED, PEER, ArmEvidence, EvidenceSummary, TaskEvidence
from app.ablation.run_scores import PRIMARY, SCORES, Score
from app.health.full_laps import FULL_LAP
from app.reporting.bootstrap import Interval

_BATCH_NORM = 2  # number of the fault
_MINUS = "−"
_NEVER_LAPPED = "never drove a full lap"

# What a claim about an arm says beside its own reference, by the group of the arm.
_STATEMENTS = {
    ("fault", Claim.WORSE): "One fault alone makes the fixed agent worse",
    ("fault", Claim.NOTHING): "One fault alone in the fixed agent shows nothing here",
    ("fault", Claim.BETTER): "One fault alone makes the fixed agent better here",
    ("fix", Claim.BETTER): "One fix alone makes the broken agent better",
    ("fix", Claim.NOTHING): "One fix alone in the broken agent shows nothing here",
    ("fix", Claim.WORSE): "One fix alone makes the broken agent worse here",
    ("value", Claim.BETTER): "The scalar value makes the agent better here",
    ("value", Claim.NOTHING): "The scalar value shows nothing here",
    ("value", Claim.WORSE): "The scalar value makes the agent worse",
    (PEER, Claim.BETTER): "Other libraries, better than the fixed agent",
    (PEER, Claim.NOTHING): "Other libraries, where nothing shows beside the fixed agent",
    (PEER, Claim.WORSE): "Other libraries, worse than the fixed agent",
}


def headline(task: TaskEvidence) -> list[str]:
    """Return the findings of a task, the fixed agent beside the broken one first."""
    return [*_references(task), *_findings(task), *_batch_norm(task)]


def verdict(task: TaskEvidence, arm: ArmEvidence) -> str:
    """Return what the first score shows of an arm beside the references, and where other scores show something else."""
    if arm.effects:
        claims = " ".join(_against(name, effects) for name, effects in arm.effects.items())
        left_out = _left_out(arm, *map(task.find, arm.effects))
        return f"{claims} {left_out[:1].upper()}{left_out[1:]}." if left_out else claims
    return "Reference." if arm.is_reference else "Nothing to compare it with."


def method(summary: EvidenceSummary) -> list[str]:
    """Return how the figures were made, and how far they can be trusted."""
    share = f"{PRECISION.confidence:.0%}"
    rates = ", ".join(f"{rate:.0%} with {seeds} seeds" for seeds, rate in FALSE_CLAIMS.items())
    return [
        f"Scores are interquartile means over runs with {share} percentile bootstrap intervals, runs resampled within "
        f"each arm ({PRECISION.resamples} resamples); P(better) is the probability that a run of the arm is better "
        "than one of the reference (Agarwal et al. 2021, arXiv:2108.13264). Of collapses, the mean.",
        f"An arm is judged by its {PRIMARY.label} over the epochs that it and the reference both have. It is called "
        f"better or worse only where the interval of the difference excludes 0, with at least {MIN_SEEDS} seeds on "
        "both sides; everything else shows nothing here, which does not mean that there is nothing.",
        "Few seeds make intervals too narrow: for two arms that are equal, the interval excludes 0 in "
        f"{rates} (measured with normal values; {1 - PRECISION.confidence:.0%} would be right). Claims on fewer than "
        f"{FIRM_SEEDS} seeds are therefore called weak, and drawn hollow. This page makes {summary.comparisons} "
        "comparisons, by all scores together, so some of its claims may be due to chance.",
        f"A lap counts as driven from a mean lap share of {FULL_LAP:g} on. Lap held: share of the epochs since the "
        "first full lap that have one, 0 if there was none. A run whose networks became NaN covers nothing from then "
        "on; one that never drives the lap counts as one epoch more than it has. Lap times are those of finished laps "
        "only. A run that was stopped early is not judged, and counts only among those that collapsed; of other "
        "libraries, collapses are not known.",
    ]


def score_text(value: float, score: Score, signed: bool = False) -> str:
    """Return a value of a score, with its sign if it is a difference."""
    text = f"{value:+.{_digits(score)}f}" if signed else f"{value:.{_digits(score)}f}"
    return text.replace("-", _MINUS)


def interval_text(interval: Interval | None, score: Score, signed: bool = False) -> str:
    """Return an interval as "[low, high]"; nothing for None."""
    if interval is None:
        return ""
    return f"[{score_text(interval.low, score, signed)}, {score_text(interval.high, score, signed)}]"


def estimate_text(found: ScoreEstimate | None, score: Score) -> str:
    """Return centre and interval of a score; "–" without one."""
    if found is None:
        return "–"
    if score.is_flag:
        return f"{round(sum(found.values.values()))} of {len(found.values)}"
    return f"{score_text(found.centre, score)} {interval_text(found.interval, score)}".strip()


def effect_text(found: Effect | None, score: Score) -> str:
    """Return a difference with its interval; "–" without one."""
    if found is None:
        return "–"
    return f"{score_text(found.difference, score, True)} {interval_text(found.interval, score, True)}".strip()


def improvement_text(found: Effect | None) -> str:
    """Return the probability of improvement with its interval; "–" without one."""
    if found is None:
        return "–"
    interval = found.improvement_interval
    return f"{found.improvement:.2f}" + ("" if interval is None else f" [{interval.low:.2f}, {interval.high:.2f}]")


def _digits(score: Score) -> int:
    return 1 if score.name in ("first", "lap_time") else 2


def _against(reference: str, effects: Mapping[str, Effect]) -> str:
    found = effects.get(PRIMARY.name)
    if found is None:
        return f"Nothing to compare with {reference} yet."
    few, seeds = min(found.seeds), _seeds(found)
    weak = f" (weak: {seeds})" if found.is_weak else ""
    main = {
        Claim.BETTER: f"Better than {reference}{weak}",
        Claim.WORSE: f"Worse than {reference}{weak}",
        Claim.NOTHING: f"Shows nothing here against {reference} with {seeds}",
        Claim.TOO_FEW: f"Too few seeds to compare with {reference} ({few})",
    }[found.claim]
    others = list(_other_scores(effects, found.claim))
    return f"{main}{'; but ' + '; '.join(others) if others else ''}."


def _other_scores(effects: Mapping[str, Effect], shown: Claim) -> Iterator[str]:
    """Yield where the scores beside the first one carry another claim than it does."""
    for claim in (Claim.BETTER, Claim.WORSE):
        labels = [
            f"{score.label}{' (weak)' if found.is_weak else ''}"
            for score in SCORES[1:]
            if (found := effects.get(score.name)) is not None and found.claim is claim is not shown
        ]
        if labels:
            yield f"{claim.value} in {', '.join(labels)}"


def _references(task: TaskEvidence) -> Iterator[str]:
    fixed, collapse = task.find(FIXED), task.find(COLLAPSE)
    for found in (fixed, collapse):
        if found is not None and PRIMARY.name in found.scores[0].estimates:
            yield _reference(found)
    if fixed is None or collapse is None or (between := collapse.effects.get(FIXED, {}).get(PRIMARY.name)) is None:
        return
    left_out = _left_out(fixed, collapse)
    difference = (
        f"{effect_text(between, PRIMARY)} in {PRIMARY.label}, {_strength(between)}{left_out and f'; {left_out}'}"
    )
    yield {
        Claim.WORSE: f"The faults together make the agent worse: {difference}.",
        Claim.BETTER: f"The faults together make the agent better here: {difference}.",
        Claim.NOTHING: f"The faults together show nothing here: {difference}.",
        Claim.TOO_FEW: f"Too few seeds to compare the two: {difference}.",
    }[between.claim]


def _reference(found: ArmEvidence) -> str:
    scores, label = found.scores[0], found.arm.label
    values = {score.name: estimate_text(scores.estimates.get(score.name), score) for score in SCORES}
    has_lapped = min(scores.estimates["first"].values.values()) <= scores.epochs
    held = f"lap held in {values['held']} of the epochs since the first full lap" if has_lapped else _NEVER_LAPPED
    return (
        f"{label[:1].upper()}{label[1:]} ({found.arm.name}): {PRIMARY.label} {values['mean']} over {scores.epochs} "
        f"epochs, {held}, {values['collapsed']} runs collapsed."
    )


def _findings(task: TaskEvidence) -> Iterator[str]:
    """Yield a sentence for every kind of claim, with its arms."""
    claims = [
        (arm, arm.effects[arm.own_reference][PRIMARY.name])
        for arm in task.arms
        if PRIMARY.name in arm.effects.get(arm.own_reference, {})
    ]
    for (group, claim), statement in _STATEMENTS.items():
        found = [
            f"{arm.arm.label} ({_short(one, _left_out(arm, task.find(arm.own_reference)))})"
            for arm, one in claims
            if (arm.arm.group, one.claim) == (group, claim)
        ]
        if found:
            yield f"{statement}: {'; '.join(found)}."
    few = [arm.arm.label for arm, one in claims if one.claim is Claim.TOO_FEW and arm.arm.name != COLLAPSE]
    if few:
        yield f"Too few seeds for any claim so far: {'; '.join(few)}."


def _batch_norm(task: TaskEvidence) -> Iterator[str]:
    """Yield the caution about batch norm if the evidence does not show it to do harm."""
    for arm in task.group("fault"):
        found = arm.effects.get(FIXED, {}).get(PRIMARY.name)
        if arm.arm.faults == (_BATCH_NORM,) and found is not None and found.claim in (Claim.NOTHING, Claim.BETTER):
            yield (
                "Batch norm is not always bad: CrossQ (Bhatt et al. 2024, arXiv:1902.05605) needs it, and leaves out "
                "the target network instead. Nothing here contradicts that."
            )


def _short(found: Effect, left_out: str) -> str:
    return f"{effect_text(found, PRIMARY)}, {_strength(found)}{left_out and f'; {left_out}'}"


def _left_out(*arms: ArmEvidence) -> str:
    """Return how many runs of each arm a claim leaves out; nothing if none."""
    numbers = [f"{arm.stopped_early} of {arm.arm.label}" for arm in arms if arm.stopped_early]
    return f"stopped early, not judged: {', '.join(numbers)}" if numbers else ""


def _strength(found: Effect) -> str:
    """Return the numbers of seeds, and whether they make a claim weak."""
    return f"{_seeds(found)}{', weak' if found.is_weak else ''}"


def _seeds(found: Effect) -> str:
    """Return the numbers of seeds on both sides."""
    ours, theirs = found.seeds
    return f"{ours} {'seed' if ours == 1 else 'seeds'}" if ours == theirs else f"{ours} against {theirs} seeds"
