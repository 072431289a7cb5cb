"""Sentences of a post-mortem, in plain words."""

from app.ablation.evidence_panels import MEASURES
from app.ablation.evidence_runs import LAP_SHARE, EvidenceRun
from app.ablation.evidence_summary import FIXED
from app.ablation.failure_order import PostMortem, Suspect
from app.ablation.health_bands import PERCENTILES, PERSISTENCE, WINDOW, Exit, Side, harmful_sides
from app.ablation.lab_runs import LabFolder

_OUTCOMES = (LAP_SHARE, "lap_share_stoch", "lap_time_det", "stability")  # results, not causes
_LATER = 3  # epochs after an exit, in which the lowest lap share is named


def headline(found: PostMortem) -> list[str]:
    """Return what failed first, what followed, and what is known to cause it."""
    return [*_order(found), *_collapse(found), *_faults(found)]


def label(metric: str) -> str:
    """Return the name of a measure for people."""
    return MEASURES[metric][0]


def band_text(one: Exit) -> str:
    """Return the band at an exit: both ends, or the only one that matters."""
    low, high = one.band
    if harmful_sides(one.metric) == (Side.LOW,):
        return f"at least {low:.3g}"
    return f"at most {high:.3g}" if harmful_sides(one.metric) == (Side.HIGH,) else f"{low:.3g} to {high:.3g}"


def lap_share_text(run: EvidenceRun, epoch: int) -> str:
    """Return the lap share after an epoch, and the lowest one of the epochs that follow; "–" if it is not known."""
    values = dict(enumerate(run.series(LAP_SHARE, run.last_epoch), start=1))
    known = {at: value for at, value in values.items() if value == value}
    if epoch not in known:
        return "–"
    later = [value for at, value in known.items() if epoch < at <= epoch + _LATER]
    return f"{known[epoch]:.2f}" + (f", then down to {min(later):.2f}" if later and min(later) < known[epoch] else "")


def fault_text(suspect: Suspect) -> str:
    """Return faults with their settings, such as "fault 6: short horizon (agent.gamma = 0.95)"."""
    faults = [state.fault for state in suspect.states]
    numbers = " and ".join(str(fault.number) for fault in faults)
    settings = ", ".join(f"{key} = {value}" for key, value in suspect.states[0].settings.items())
    names = ", ".join(fault.name for fault in faults)
    return f"fault{'s' if len(faults) > 1 else ''} {numbers}: {names} ({settings})"


def method(found: PostMortem) -> list[str]:
    """Return how the bands were made and how far they can be trusted; empty without bands."""
    if found.bands is None:
        return []
    low, high = PERCENTILES
    runs, table = found.bands.runs, LabFolder(found.record).evidence
    lines = [
        f"A band goes from the {low:g}th to the {high:g}th percentile of a measure over the {runs} runs of the arm "
        f"{FIXED} in {table}, in the same epoch and the {WINDOW} before and after it, widened as "
        "far as it takes that none of these runs leaves the band of the others.",
        f"A measure has left its band where it lies outside for {PERSISTENCE} epochs in a row, on a side where it does "
        "harm: a lap share may lie above its band.",
        f"So few runs do not show all that is healthy: a run as healthy as these leaves some band by chance about once "
        f"in {max(2, runs - 1)} to {runs + 1} runs, most often by little and for a short time.",
    ]
    if found.run.last_epoch > found.bands.epochs:
        lines.append(f"The healthy runs end at epoch {found.bands.epochs}; later epochs are held against its band.")
    return lines


def _order(found: PostMortem) -> list[str]:
    if found.bands is None:
        return [found.no_bands]
    if not found.exits:
        return ["No measure left its band."]
    first, *rest = found.exits
    share = lap_share_text(found.run, first.epoch)
    lines = [
        f"First out of its band, in epoch {first.epoch}: {label(first.metric)}, {first.value:.3g} where healthy runs "
        f"have {band_text(first)}. The lap share in that epoch: {share}."
    ]
    if first.metric in _OUTCOMES:
        lines.append("No measure of the networks left its band before the result did.")
    if rest:
        lines.append(f"Then followed {', '.join(f'{label(one.metric)} (epoch {one.epoch})' for one in rest)}.")
    if LAP_SHARE not in {one.metric for one in found.exits}:
        lines.append("The lap share of the deterministic policy stayed in its band.")
    return lines


def _collapse(found: PostMortem) -> list[str]:
    lines = []
    if found.collapse is not None:
        epoch, reason = found.collapse
        lines.append(f"By the rules of health the run counts as collapsed from epoch {epoch} on: {reason}.")
    if found.run.is_broken_off:
        lines.append(f"The run ended after epoch {found.run.last_epoch}: {found.run.end}.")
    return lines


def _faults(found: PostMortem) -> list[str]:
    if not found.suspects:
        return ["No fault with a switch is in this run's configuration."]
    if found.bands is None:
        return [f"This run has {'; '.join(map(fault_text, found.suspects))}."]
    first = found.exits[0].metric if found.exits else None
    known = [fault_text(one) for one in found.suspects if first in one.metrics]
    moved = [fault_text(one) for one in found.suspects if first not in one.metrics and one.exits]
    still = [fault_text(one) for one in found.suspects if not one.exits]
    lines = []
    if known:
        lines.append(f"Known to move the measure that left first, and in this run: {'; '.join(known)}.")
    if moved:
        lines.append(f"Known to move a measure that followed, and in this run: {'; '.join(moved)}.")
    if still:
        lines.append(f"In this run, with its measures in their bands or not known: {'; '.join(still)}.")
    return lines
