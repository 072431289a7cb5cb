"""Tables of evidence: synthetic runs of whole labs, with values like those of recorded runs, and small ones by hand."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from app.ablation.arms import Arm
from tests.helpers.runs import ROOT

RUN = {"task": "sim_lidar", "end": "finished", "collapsed_at": ""}


def lab_arms(lab: str) -> tuple[Arm, ...]:
    """The arms of conf/lab/<lab>.yaml."""
    section = yaml.safe_load((ROOT / "conf/lab" / f"{lab}.yaml").read_text())
    return tuple(
        Arm(
            name, arm["label"], arm["group"], tuple(arm["faults"]), (*section["overrides"], *arm["overrides"]),
            arm["epochs"], arm["reason"],
        )
        for name, arm in section["arms"].items()
    )  # fmt: skip


def make_arm(name: str, group: str = "fault", faults: Sequence[int] = (1,), epochs: int = 3, label: str = "") -> Arm:
    """One arm; its label is its name unless given."""
    return Arm(name, label or name, group, tuple(faults), (f"some.key={name}",), epochs, f"Why {name}.")


REFERENCES = (make_arm("fixed", "reference", ()), make_arm("collapse", "reference", (1, 3, 4, 5)))


def lap_rows(arm: str, seed: int, lap_shares: Sequence[float], **columns: Any) -> list[dict[str, Any]]:
    """The rows of one run with these lap shares; further columns have one value, or one for each epoch."""
    rows = []
    for index, share in enumerate(lap_shares):
        own = {name: value[index] if isinstance(value, list) else value for name, value in columns.items()}
        epoch = {"epoch": index + 1, "env_steps": 1000 * index + 2000, "lap_share_det": share}
        rows.append({**RUN, "arm": arm, "seed": seed, **epoch, **own})
    return rows


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write a table of evidence with these rows."""
    rows = list(rows)
    first = ("arm", "seed", "task", "end", "collapsed_at", "epoch")
    columns = [*first, *sorted({name for row in rows for name in row} - set(first))]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return path


def synthetic_rows(arms: Sequence[Arm], task: str, seeds: int) -> list[dict[str, Any]]:
    """Rows of whole labs: more faults lap later, lose the lap more often, and show it in the measures of the fault."""
    return [row for arm in arms for seed in range(seeds) for row in _synthetic_run(arm, task, seed)]


def _synthetic_run(arm: Arm, task: str, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng([seed, sum(map(ord, arm.name))])
    broken = arm.group == "fix" or arm.name.startswith("collapse")
    faults = set(arm.faults) ^ {1, 2, 3, 4, 5} if arm.group == "fix" else set(arm.faults)
    harm = 0.85 if broken and arm.group != "fix" else 0.45 if broken else 0.25 if faults & {1, 4, 8} else 0.04
    epoch = np.arange(1, arm.epochs + 1)
    progress = 1 / (1 + np.exp(-(epoch - 3 - 6 * harm - rng.uniform(0, 1.5)) * 1.6))
    drop = (rng.random(arm.epochs) < harm) * rng.uniform(0.3, 0.9, arm.epochs)
    share = np.clip(progress * (1 - drop) + rng.normal(0, 0.004, arm.epochs), 0.02, 1.0)
    share[share > 0.97] = 1.0

    def noisy(level: Any, spread: float = 0.08) -> np.ndarray:
        return level * np.exp(rng.normal(0, spread, arm.epochs))

    late = 1 - np.exp(-epoch / 8)
    earned = noisy(70 * late * np.clip(share, 0.2, 1), 0.05) * (0.3 if 6 in faults else 1)
    predicted = earned * (1.0 + 0.05 * late) + (40 * late if 8 in faults else 3 * late)
    lap_time = noisy(25.5 + 15 * np.exp(-epoch / 4) + (3 if 6 in faults else 0), 0.01)
    columns = {
        "updates": 500 * epoch, "env_steps": 1000 + (25 if 8 in faults else 1000) * epoch,
        "wall_s": noisy(35.0 * epoch, 0.01),
        "lap_share_det": share, "lap_share_stoch": np.clip(share - (0.2 if 1 in faults else 0.03), 0.02, 1),
        "lap_time_det": np.where(share >= 1.0, lap_time, np.nan),
        "q_mean": predicted * 0.9, "q_predicted": predicted, "q_earned": earned,
        "loss_critic": noisy(1.3), "loss_actor": -predicted,
        "grad_norm_critic": noisy(4.0 * (3 if 7 in faults else 1), 0.3),
        "grad_norm_actor": noisy(0.6 * (2 if 7 in faults else 1), 0.3),
        "steering_noise": noisy(0.16 if 1 in faults else 0.03 + 0.2 * np.exp(-epoch / 6)),
        "action_noise": noisy(0.2 if 1 in faults else 0.05 + 0.3 * np.exp(-epoch / 6)),
        "train_eval_gap_q": noisy(4.0 * late if 2 in faults else 1.5 * late if 3 in faults else 0.02 * late),
        "train_eval_gap_action": noisy(0.2 * late if 2 in faults else 0.06 * late if 3 in faults else 0.001),
        "grad_trunk_critic": noisy(2.0, 0.3), "grad_trunk_actor": noisy(0.8 if 4 in faults else 0.2, 0.3),
        "grad_trunk_cosine": (-0.3 if 4 in faults else -0.02) + rng.normal(0, 0.05, arm.epochs),
        "dormant_share": np.clip(0.02 + 0.3 * harm * late + rng.normal(0, 0.01, arm.epochs), 0, 1),
        "feature_rank": noisy(40 - 25 * harm * late), "alpha": noisy(0.03), "entropy": noisy(0.5),
        "stability": 0.5 + 0.4 * share,
    }  # fmt: skip
    low = np.flatnonzero((share < 0.3) & (epoch > 10))
    run = {"arm": arm.name, "seed": seed, "task": task, "end": "finished"}
    run["collapsed_at"] = int(epoch[low[0]]) if len(low) else ""
    return [
        {**run, "epoch": int(e), **{name: values[i] for name, values in columns.items()}} for i, e in enumerate(epoch)
    ]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.6g}"
    return str(value)
