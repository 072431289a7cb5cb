"""Actor whose actions are computed on a GPU by a CUDA graph."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from app.config.schema import Config
from app.core.cuda_graph import GraphedFunction
from app.envs.spec import ObservationSpec
from app.models.actor import DrivingActor


def make_actor(config: Config, spec: ObservationSpec, device: str) -> DrivingActor:
    """Make the actor that collects and evaluates.

    It acts on a GPU where one trains with CUDA graphs and this process collects the steps. Everywhere else it acts on
    the CPU: operation by operation a GPU is slower, workers may have none, and the real game needs its GPU for itself.

    Args:
        config: Configuration of the run.
        spec: Format of the observations.
        device: Device that trains.
    """
    spaces = spec.observation_space(), spec.action_space()
    collects_in_this_process = config.role == "local" and not config.env.real_time
    if config.cuda_graphs and torch.device(device).type == "cuda" and collects_in_this_process:
        return GraphedActor(*spaces, config, spec, device)
    return DrivingActor(*spaces, config, spec)


class _Inputs(NamedTuple):
    """Tensors that a recorded forward pass reads: B observations, and which of the actions are deterministic (B,)."""

    obs: dict[str, Tensor]
    deterministic: Tensor


class GraphedActor(DrivingActor):
    """Actor on a GPU that replays one recorded forward pass instead of launching it operation by operation.

    A batch is computed by the smallest recorded pass that holds it, so that episodes which end one after the other
    need only one. The noise of sampled actions is drawn for the whole pass, so its size decides which noise they get.
    """

    def __init__(self, observation_space, action_space, config: Config, spec: ObservationSpec, device: str):
        super().__init__(observation_space, action_space, config, spec, device)
        self._recorded: dict[int, _Pass] = {}

    @torch.no_grad()
    def actions(self, obs: Mapping[str, Tensor], deterministic: bool | Tensor) -> Tensor:
        """Compute the actions for a batch of observations; see ``DrivingActor.actions``."""
        rows = len(next(iter(obs.values())))
        inputs, compute = self._pass_for(obs, rows)
        for name, part in obs.items():
            inputs.obs[name][:rows].copy_(part)
        inputs.deterministic[:rows] = deterministic
        return compute(self, inputs)[:rows].clone()  # the next pass writes to the same memory

    def _pass_for(self, obs: Mapping[str, Tensor], rows: int) -> "_Pass":
        """Return the smallest forward pass for at least ``rows`` observations; a new one if there is none."""
        if sizes := [size for size in self._recorded if size >= rows]:
            return self._recorded[min(sizes)]
        inputs = _Inputs(
            {name: torch.zeros_like(part) for name, part in obs.items()},
            torch.zeros(rows, dtype=torch.bool, device=self.device),
        )
        self._recorded[rows] = inputs, GraphedFunction(GraphedActor._compute)
        return self._recorded[rows]

    def _compute(self, inputs: _Inputs) -> Tensor:
        return super().actions(inputs.obs, inputs.deterministic)


_Pass = tuple[_Inputs, GraphedFunction[GraphedActor, _Inputs, Tensor]]
