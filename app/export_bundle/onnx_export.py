"""Export of the policy network to ONNX: graph and weights in one file."""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from app.core.errors import UserError
from app.export_bundle.driver import OUTPUTS
from app.models.actor_critic import PolicyNetwork

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require_packages() -> None:
    """Raise a UserError if a package that the export needs is not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"The export needs {', '.join(missing)}, not installed here. Install with: python -m pip install "
            '-c constraints.txt -e ".[export]"'
        )


class Policy(nn.Module):
    """Observation → deterministic action, and mean and log-std of the Gaussian before tanh, (B, A) each.

    Args:
        net: Network of an actor, in eval mode.
    """

    def __init__(self, net: PolicyNetwork):
        super().__init__()
        self.net = net

    def forward(
        self, floats: Tensor, images: Tensor | None = None, window: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate the network on the parts of a batch of observations."""
        features = self.net.forward_features({"floats": floats, "images": images, "window": window})
        mean, log_std = self.net.policy.gaussian(features.features, features.film_params)
        return self.net.policy.deterministic_action(mean, log_std), mean, log_std


def to_onnx(policy: Policy, obs: Mapping[str, Tensor]) -> bytes:
    """Return the contents of an ONNX file, checked by ``onnx``.

    Its inputs are those parts of an observation that the policy uses, in physical units; its outputs are OUTPUTS. The
    size of the batch is free.

    Args:
        policy: Policy in eval mode.
        obs: Any batch of two or more observations.
    """
    import onnx

    with _without_warnings(), torch.no_grad():
        program = torch.onnx.export(
            policy,
            (),
            kwargs=dict(obs),
            input_names=list(obs),
            dynamic_shapes={name: {0: "batch"} for name in obs},
            dynamo=True,
            verbose=False,
        )
    _remove_unused_inputs(program.model.graph)
    _name_outputs(program.model.graph)
    model = program.model_proto
    _remove_metadata(model)
    data = model.SerializeToString()
    onnx.checker.check_model(data, full_check=True)
    return data


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Hide the exporter's notes to the developers of torch; errors are raised all the same."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _remove_unused_inputs(graph: Any) -> None:
    """Remove parts of the observation that the policy does not use, so that they need not be provided."""
    for value in list(graph.inputs):
        if not value.uses():
            graph.inputs.remove(value)


def _name_outputs(graph: Any) -> None:
    """Name the outputs; the exporter's own ``output_names`` would give a name that is taken to two values."""
    for node in graph:
        for value in node.outputs:
            if value.name in OUTPUTS:
                value.name = f"{value.name}_within"
    for value, name in zip(graph.outputs, OUTPUTS, strict=True):
        value.name = name


def _remove_metadata(model: Any) -> None:
    """Remove the exporter's notes about every value: stack traces, with the paths of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
