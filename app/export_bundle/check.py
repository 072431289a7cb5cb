"""Whether exported files say the same as the actor that they were made of."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from app.envs.spec import ObservationSpec
from app.errors import UserError
from app.export_bundle.driver import BundleActor
from app.export_bundle.program import Policy
from app.models.actor import DrivingActor

TOLERANCE = 1e-5

Observations = Mapping[str, Tensor]


def make_observations(spec: ObservationSpec, count: int) -> dict[str, Tensor]:
    """Return observations over the whole range that the scales of a contract promise; the first is all zeros."""
    draw = np.random.default_rng(0)
    actions, scale = np.ones(spec.action_dim), np.array(spec.sensor_scale)
    floats = np.concatenate([scale, np.tile(actions, spec.action_history)])
    obs = {"floats": draw.uniform(-1, 1, (count, floats.size)) * floats}
    if spec.window:
        row = np.concatenate([scale[list(spec.window_sensors)], actions, [spec.reward_scale]])
        obs["window"] = draw.uniform(-1, 1, (count, spec.window, row.size)) * row
    found = {name: torch.from_numpy(part).float() for name, part in obs.items()}
    if spec.image_shape is not None:
        found["images"] = torch.from_numpy(draw.integers(0, 256, (count, *spec.image_shape), np.uint8))
    for part in found.values():
        part[0] = 0
    return found


def check_bundle(actor: DrivingActor, policy: Policy, folder: Path, obs: Observations) -> float:
    """Compare actions, drawn ones included, mean and log-std of the files in a folder with the actor's.

    Args:
        actor: that was exported.
        policy: its network.
        folder: of the bundle.
        obs: a batch of observations.

    Returns:
        The largest difference, relative where a value exceeds 1.

    Raises:
        UserError: it is more than TOLERANCE.
    """
    bundle = BundleActor(actor.observation_space, actor.action_space, folder=folder)
    found = []
    for row in _rows(obs):
        found += map(_difference, policy(**row), bundle.evaluate(row))
        found += [_difference(_act(actor, row, test), _act(bundle, row, test)) for test in (True, False)]
    return _refuse_more(found, "The bundle", "")


def check_onnx(policy: Policy, path: Path, obs: Observations) -> float:
    """Compare what an ONNX file gives for every observation alone and for all at once with the policy.

    Args:
        policy: that was exported.
        path: the ONNX file.
        obs: a batch of observations.

    Returns:
        The largest difference, relative where a value exceeds 1.

    Raises:
        UserError: it is more than TOLERANCE.
    """
    from app.export_bundle.onnx_file import OnnxActor

    onnx, found = OnnxActor(path), []
    for batch in (*_rows(obs), obs):
        found += map(_difference, policy(**batch), onnx.run(batch))
    return _refuse_more(found, "The ONNX file", ", or add onnx=false to leave it out")


def _rows(obs: Observations) -> Iterator[dict[str, Tensor]]:
    for i in range(len(obs["floats"])):
        yield {name: part[i : i + 1] for name, part in obs.items()}


def _act(actor: DrivingActor | BundleActor, obs: Observations, test: bool) -> np.ndarray:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return actor.act(obs, test)


def _difference(wanted: Tensor | np.ndarray, found: Tensor | np.ndarray) -> float:
    wanted, found = np.asarray(wanted), np.asarray(found)
    return float(np.max(np.abs(wanted - found) / np.maximum(np.abs(wanted), 1)))


def _refuse_more(found: Sequence[float], what: str, way_out: str) -> float:
    worst = float(np.max(found))  # also NaN
    if not worst <= TOLERANCE:
        raise UserError(
            f"{what} differs from the actor by {worst:.1e}, and {TOLERANCE:.0e} is allowed. Nothing was written. "
            f"Install the packages of constraints.txt, with which the export is tested{way_out}."
        )
    return worst
