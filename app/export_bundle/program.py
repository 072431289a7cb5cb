"""Records what a policy computes as a list of operations, which ``driver.py`` replays."""

import math
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from app.errors import UserError
from app.export_bundle.driver import DEVICE, DTYPES, GETITEM, MEMORY_FORMATS, OPERATIONS, OUTPUTS
from app.export_bundle.quiet import quiet
from app.models.actor_critic import PolicyNetwork

_WITHOUT_EFFECT = ("layout", "pin_memory")  # of what is computed


class Policy(nn.Module):
    """Observation → deterministic action, and mean and log-std of the Gaussian before squashing, (B, A) each.

    Args:
        net: of the actor, in eval mode.
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
        return self.net.policy.deterministic(mean, log_std), mean, log_std


def record(policy: Policy, obs: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Record the policy for batches of one observation.

    The operations are the very ones that the policy calls, so that replaying them gives the same bits.

    Args:
        policy: with its weights.
        obs: any batch of one observation.

    Returns:
        The program, as plain data, and the tensors that it needs, by the name that it gives them.

    Raises:
        UserError: this torch records something that ``driver.py`` does not know.
    """
    with quiet():
        exported = torch.export.export(policy, (), dict(obs), strict=False)
    lifted = {spec.arg.name: spec.target for spec in exported.graph_signature.input_specs if spec.target is not None}
    stored = {**exported.state_dict, **exported.constants}
    nodes = _needed(exported.graph)
    # Weights keep their path in the network; torch takes no buffer with a dot in its name.
    names = {node: lifted.get(node.name, node.name).replace(".", "/") for node in nodes}
    tensors = {names[node]: stored[lifted[node.name]] for node in nodes if node.name in lifted}
    results = exported.graph.output_node().args[0]
    program = {
        "inputs": {name: _described(part[0]) for name, part in obs.items() if name in names.values()},
        "tensors": {name: _described(tensor) for name, tensor in tensors.items()},
        "nodes": [_plain(node, names) for node in nodes if node.op == "call_function"],
        "outputs": {output: names[result] for output, result in zip(OUTPUTS, results, strict=True)},
    }
    return program, tensors


def _needed(graph: Graph) -> list[Node]:
    """The nodes that lead to the outputs, in order: without assertions and weights that only training needs."""
    needed = set(graph.output_node().all_input_nodes)
    for node in reversed(graph.nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    return [node for node in graph.nodes if node in needed]


def _described(tensor: Tensor) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "dtype": _name(tensor.dtype, DTYPES)}


def _plain(node: Node, names: Mapping[Node, str]) -> dict[str, Any]:
    return {
        "name": names[node],
        "op": _operation(node.target),
        "args": [_argument(arg, names) for arg in node.args],
        "kwargs": {key: _argument(arg, names) for key, arg in node.kwargs.items() if key not in _WITHOUT_EFFECT},
    }


def _operation(target: Any) -> str:
    if target is operator.getitem:
        return GETITEM
    namespace, _, name = str(target).partition(".")
    if namespace != "aten" or name not in OPERATIONS:
        raise _unsupported(f"the operation {target}")
    return name


def _argument(arg: Any, names: Mapping[Node, str]) -> Any:
    if isinstance(arg, Node):
        return {"value": names[arg]}
    if isinstance(arg, torch.device):
        return {"value": DEVICE}
    if isinstance(arg, torch.dtype):
        return {"dtype": _name(arg, DTYPES)}
    if isinstance(arg, torch.memory_format):
        return {"memory_format": _name(arg, MEMORY_FORMATS)}
    if isinstance(arg, (list, tuple)):
        return [_argument(item, names) for item in arg]
    if arg is None or isinstance(arg, (bool, int)) or (isinstance(arg, float) and math.isfinite(arg)):
        return arg
    raise _unsupported(f"the argument {arg!r}")


def _name(value: Any, known: Mapping[str, Any]) -> str:
    for name, item in known.items():
        if item == value:
            return name
    raise _unsupported(str(value))


def _unsupported(what: str) -> UserError:
    return UserError(
        f"torch {torch.__version__} records {what} for this network, which driver.py does not know. Install the torch "
        "of constraints.txt, with which the export is tested."
    )
