"""The policy as an ONNX file, for programs without torch."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from app.errors import UserError
from app.export_bundle.driver import OUTPUTS
from app.export_bundle.program import Policy
from app.export_bundle.quiet import quiet

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def refuse_without_packages() -> None:
    """Raise unless what ONNX needs is installed.

    Raises:
        UserError: a package is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"onnx = true: needs {', '.join(missing)}, not installed here. Install them with python -m pip install "
            '-c constraints.txt -e ".[export]", or add onnx=false to leave the ONNX file out.'
        )


def write_onnx(policy: Policy, obs: Mapping[str, Tensor], path: Path) -> None:
    """Write and check one file that holds the graph and the weights.

    Inputs are those of ``obs`` in physical units, outputs those that OUTPUTS names; the batch size is free.

    Args:
        policy: in eval mode.
        obs: the parts of an observation that the policy needs, for any batch of two or more.
        path: the file.

    Raises:
        OSError: it cannot be written.
    """
    import onnx

    dynamic = {name: {0: "batch"} for name in obs}
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            policy,
            (),
            kwargs=dict(obs),
            input_names=list(obs),
            dynamic_shapes=dynamic,
            dynamo=True,
            verbose=False,
        )
    _name_outputs(program.model.graph)
    model = program.model_proto
    _remove_metadata(model)
    data = model.SerializeToString()
    onnx.checker.check_model(data, full_check=True)
    path.write_bytes(data)


class OnnxActor:
    """Runs such a file.

    Args:
        path: the file.
    """

    def __init__(self, path: Path):
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # or it writes into the home folder and calls its maker
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)  # errors only
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(self, obs: Mapping[str, Tensor]) -> list[np.ndarray]:
        """Return action, mean and log-std (B, A) float32 for a batch of observations."""
        inputs = {part.name: obs[part.name].numpy() for part in self._session.get_inputs()}
        return self._session.run(list(OUTPUTS), inputs)


def _name_outputs(graph: Any) -> None:
    """Name them after OUTPUTS; the exporter's own ``output_names`` would give a name that is taken to two values."""
    for node in graph:
        for value in node.outputs:
            if value.name in OUTPUTS:
                value.name = f"{value.name}_within"
    for value, name in zip(graph.outputs, OUTPUTS, strict=True):
        value.name = name


def _remove_metadata(model: Any) -> None:
    """Remove what the exporter notes about every value: stack traces, with the paths of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
