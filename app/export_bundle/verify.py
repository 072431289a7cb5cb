"""Comparison of an exported folder with the actor that it was made from."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from app.core.errors import UserError
from app.envs.spec import ObservationSpec
from app.export_bundle.driver import OUTPUTS, BundleActor, BundleError
from app.export_bundle.onnx_export import Policy
from app.models.actor import DrivingActor
from app.models.distributions import squashed_gaussian

TOLERANCE = 1e-5

_ADVICE = "Nothing was written. Install the packages of constraints.txt, with which the export is tested."


def make_observations(spec: ObservationSpec, count: int) -> dict[str, Tensor]:
    """Return observations (count, ...) over the whole range of the contract's scales; the first is all zeros."""
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


def check_bundle(actor: DrivingActor, folder: Path, obs: Mapping[str, Tensor]) -> float:
    """Compare an exported folder with its actor: the ONNX model on a batch, and the driver on every observation.

    Args:
        actor: Actor that was exported.
        folder: The exported folder.
        obs: Batch of observations.

    Returns:
        The largest difference of actions, means and log-stds; relative where a value exceeds 1.

    Raises:
        UserError: It is more than TOLERANCE, or the driver refuses the folder.
    """
    try:
        bundle = BundleActor(actor.observation_space, actor.action_space, folder=folder)
    except BundleError as error:
        raise UserError(f"The exported actor does not run: {error}. {_ADVICE}") from None
    arrays = {name: part.numpy() for name, part in obs.items()}
    with torch.no_grad():
        action, mean, log_std = Policy(actor.net)(**obs)
    inputs = {part.name: arrays[part.name] for part in bundle.session.get_inputs()}
    differences = [
        _difference(*pair)
        for pair in zip((action, mean, log_std), bundle.session.run(list(OUTPUTS), inputs), strict=True)
    ]
    for i in range(len(mean)):
        row = {name: part[i : i + 1] for name, part in obs.items()}
        one = {name: part[i] for name, part in arrays.items()}
        differences.append(_difference(actor.act(row, test=True), bundle.act(one, test=True)))
        drawn, _ = squashed_gaussian(mean[i], log_std[i], _noise(mean[i], seed=i))
        bundle.rng = np.random.default_rng(i)
        differences.append(_difference(drawn, bundle.act(one)))
    worst = float(np.max(differences))  # NaN if any is NaN
    if not worst <= TOLERANCE:
        raise UserError(
            f"The exported actor differs from the original by {worst:.1e}, and {TOLERANCE:.0e} is allowed. {_ADVICE}"
        )
    return worst


def _noise(like: Tensor, seed: int) -> Tensor:
    """Return the noise (A,) that the driver draws with this seed."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(like.shape, np.float32))


def _difference(expected: Tensor | np.ndarray, found: np.ndarray) -> float:
    expected = np.asarray(expected)
    if expected.shape != found.shape:
        return float("inf")
    return float(np.max(np.abs(expected - found) / np.maximum(np.abs(expected), 1)))
