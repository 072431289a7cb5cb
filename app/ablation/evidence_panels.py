"""Panels of the report: which curve of which arm stands in which picture, in which colour and line style."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from app.ablation.epoch_curves import EpochCurve, epoch_curve
from app.ablation.evidence_runs import LAP_SHARE, OVERESTIMATION
from app.ablation.evidence_summary import COLLAPSE, FIXED, OTHER, PEER, REFERENCES, ArmEvidence, TaskEvidence
from app.reporting.palette import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY

GROUPS = {
    "reference": "All fixed and all broken",
    "fault": "One fault in the fixed agent",
    "fix": "One fix in the broken agent",
    "value": "Scalar instead of categorical value",
    PEER: "Other libraries",
    OTHER: "Other arms",
}

_LABEL_WIDTH = 30  # characters

Dash = tuple[int, ...]  # lengths of strokes and gaps in pixels; empty: a solid line


@dataclass(frozen=True)
class LineStyle:
    """Colour and strokes of a line: no two arms of a picture differ in the colour alone."""

    colour: str
    dash: Dash = ()


StyledArm = tuple[ArmEvidence, LineStyle]

# Okabe and Ito: distinguishable with any kind of colour vision.
_REFERENCE_STYLES = {FIXED: LineStyle(BLUE), COLLAPSE: LineStyle(RED, (7, 3))}
_STYLES = (
    LineStyle(GREEN, (2, 2)),
    LineStyle(PINK, (9, 3, 2, 3)),
    LineStyle(ORANGE, (12, 3)),
    LineStyle(SKY, (4, 4)),
    LineStyle(BLACK, (1, 3)),
    LineStyle(GREY, (6, 2, 1, 2, 1, 2)),
)

# Measures with a small picture each: metric, label, and whether the axis is logarithmic.
MEASURES = {
    LAP_SHARE: ("lap share, deterministic", False),
    "lap_share_stoch": ("lap share, stochastic", False),
    "lap_time_det": ("lap time, seconds", False),
    "steering_noise": ("noise of the steering", False),
    "action_noise": ("noise of all actions", False),
    "train_eval_gap_q": ("|Q in train − in eval mode|", False),
    "train_eval_gap_action": ("|action in train − in eval mode|", False),
    "grad_trunk_cosine": ("cosine of both gradients on the trunk", False),
    "grad_trunk_critic": ("critic's gradient on the trunk", True),
    "grad_trunk_actor": ("actor's gradient on the trunk", True),
    "q_predicted": ("Q, predicted", False),
    "q_earned": ("return, earned", False),
    OVERESTIMATION: ("Q − return earned", False),
    "dormant_share": ("share of dormant units", False),
    "feature_rank": ("effective rank of the features", False),
    "loss_critic": ("critic loss", True),
    "loss_actor": ("actor loss", False),
    "grad_norm_critic": ("critic's gradient norm", True),
    "grad_norm_actor": ("actor's gradient norm", True),
    "alpha": ("entropy coefficient", True),
    "entropy": ("entropy", False),
    "stability": ("health score", False),
}


@dataclass(frozen=True)
class Line:
    """One curve of a panel.

    Attributes:
        label: Name of the arm.
        curve: The curve.
        style: Its style.
        band: Whether its interval is drawn.
    """

    label: str
    curve: EpochCurve
    style: LineStyle
    band: bool


@dataclass(frozen=True)
class Panel:
    """One picture of curves over epochs.

    Attributes:
        title: Title.
        lines: Its curves, the first one at the bottom.
        epochs: Last epoch that is shown; None: all of them.
        is_share: Whether the values lie between 0 and 1.
        is_log: Whether the vertical axis is logarithmic.
    """

    title: str
    lines: tuple[Line, ...]
    epochs: int | None
    is_share: bool
    is_log: bool


@dataclass(frozen=True)
class PanelGroup:
    """Panels that share a legend.

    Attributes:
        title: Headline.
        text: What to look for; may be empty.
        legend: Label and style of every arm.
        panels: The panels.
    """

    title: str
    text: str
    legend: tuple[tuple[str, LineStyle], ...]
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Mechanism:
    """The measures that show how a fault does harm.

    Attributes:
        faults: Numbers of the faults.
        title: Headline.
        text: What to look for.
        metrics: Metric of every panel.
    """

    faults: tuple[int, ...]
    title: str
    text: str
    metrics: tuple[str, ...]


MECHANISMS = (
    Mechanism(
        (1,),
        "Fault 1: noise that the policy cannot turn off",
        "With a floor of −2 the log-std cannot fall further, so the sampled steering keeps its noise; with −20 it can "
        "fade as the policy becomes sure.",
        ("steering_noise", "action_noise"),
    ),
    Mechanism(
        (2,),
        "Fault 2: training another function than the one that acts",
        "Q and action of the same states, in train and in eval mode: batch norm makes two functions of one network.",
        ("train_eval_gap_q", "train_eval_gap_action"),
    ),
    Mechanism(
        (3,),
        "Fault 3: noise of dropout in the Bellman target",
        "Q and action of the same states, in train and in eval mode: dropout in the encoder reaches every Q. The "
        "dropout of the Q-heads, which belongs to DroQ, is in every arm.",
        ("train_eval_gap_q", "train_eval_gap_action"),
    ),
    Mechanism(
        (4, 5),
        "Faults 4 and 5: two gradients pull at one trunk",
        "Below a cosine of 0 the actor loss undoes what the critic loss learns; the norms say how strongly. With "
        "actor.detach=true the actor's gradient is measured, but not applied.",
        ("grad_trunk_cosine", "grad_trunk_critic", "grad_trunk_actor"),
    ),
    Mechanism(
        (6,),
        "Fault 6: a horizon of 20 steps",
        "With γ = 0.95, Q and the return that is earned count about a fifth of the steps that they count with 0.99, so "
        "what a driver does well before a bend counts less.",
        ("q_predicted", "q_earned", "lap_time_det"),
    ),
    Mechanism(
        (7,),
        "Fault 7: an optimiser that remembers old data",
        "Norms before clipping. With β₂ = 0.999 Adam divides by the squared gradients of about a thousand updates.",
        ("grad_norm_critic", "grad_norm_actor"),
    ),
    Mechanism(
        (8,),
        "Fault 8: Q that believes more than it earns",
        "Q minus the return that was earned from the same states: with 20 updates for each step, little new data "
        "corrects an optimistic Q.",
        (OVERESTIMATION, "dormant_share"),
    ),
)


def label_lines(label: str) -> list[str]:
    """Return a label in lines that fit beside or above a picture."""
    return textwrap.wrap(label, _LABEL_WIDTH) or [" "]


class PanelMaker:
    """Makes the panels of a task; every curve is computed once.

    Args:
        task: Evidence of the task.
    """

    def __init__(self, task: TaskEvidence) -> None:
        self._task = task
        self._curves: dict[tuple[str, str], EpochCurve | None] = {}

    def learning(self) -> list[PanelGroup]:
        """Return the lap share of every arm, over those of the reference arms, by group."""
        found = []
        for group, title in GROUPS.items():
            arms = self._styled(group)
            behind = [one for one in arms if one[0].is_reference]
            shown = [[*behind, one] for one in arms[len(behind) :]]
            if group == "reference" and behind:
                shown.insert(0, behind)
            panels = [self._panel(_title(some), some, LAP_SHARE, bands=True) for some in shown]
            found.append(_group(title, "", arms, panels))
        return [one for one in found if one.panels]

    def mechanisms(self) -> list[PanelGroup]:
        """Return the measures of every mechanism whose faults are those of an arm of the task."""
        found = []
        for one in MECHANISMS:
            arms = self._styled("fault", "fix", faults=one.faults)
            if not all(arm.is_reference for arm, _ in arms):
                panels = [self._panel(MEASURES[metric][0], arms, metric, bands=True) for metric in one.metrics]
                found.append(_group(one.title, one.text, arms, panels))
        return [one for one in found if one.panels]

    def measures(self) -> list[PanelGroup]:
        """Return every measure with the arms of a group and the reference arms, by group."""
        found = []
        for group, title in GROUPS.items():
            arms = self._styled(group)
            if group == "reference" or not all(arm.is_reference for arm, _ in arms):
                panels = [self._panel(label, arms, metric) for metric, (label, _) in MEASURES.items()]
                found.append(_group(title, "", arms, panels))
        return [one for one in found if one.panels]

    def _styled(self, *groups: str, faults: tuple[int, ...] | None = None) -> list[StyledArm]:
        """Return the reference arms and those of the groups, each with a style; only those of ``faults`` if given."""
        behind = [(found, _REFERENCE_STYLES[name]) for name in REFERENCES if (found := self._task.find(name))]
        arms = [arm for arm in self._task.group(*groups) if not arm.is_reference and faults in (None, arm.arm.faults)]
        return behind + [(arm, _STYLES[index % len(_STYLES)]) for index, arm in enumerate(arms)]

    def _panel(self, title: str, arms: Sequence[StyledArm], metric: str, bands: bool = False) -> Panel | None:
        """Return a panel of the arms that have a metric; None if none has. The last arm sets the shown epochs."""
        curves = [(arm, style, self._curve(arm, metric)) for arm, style in arms]
        lines = tuple(Line(arm.arm.name, curve, style, bands) for arm, style, curve in curves if curve is not None)
        epochs = arms[-1][0].scores[0].epochs if bands else None
        return Panel(title, lines, epochs, metric.startswith("lap_share"), MEASURES[metric][1]) if lines else None

    def _curve(self, arm: ArmEvidence, metric: str) -> EpochCurve | None:
        key = (arm.arm.name, metric)
        if key not in self._curves:
            self._curves[key] = epoch_curve(arm.runs, metric, arm.scores[0].epochs)
        return self._curves[key]


def _title(arms: Sequence[StyledArm]) -> str:
    """Return the label of the last arm; of reference arms, all labels."""
    last = arms[-1][0]
    return " and ".join(arm.arm.label for arm, _ in arms) if last.is_reference else last.arm.label


def _group(title: str, text: str, arms: Sequence[StyledArm], panels: Sequence[Panel | None]) -> PanelGroup:
    legend = tuple((arm.arm.label, style) for arm, style in arms)
    return PanelGroup(title, text, legend, tuple(panel for panel in panels if panel is not None))
