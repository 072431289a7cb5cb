"""Driver of an exported actor: a tmrl ``ActorModule`` that runs ``actor.onnx`` on onnxruntime; it reads only data."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
from tmrl.actor import ActorModule

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime reads it when it is imported
FORMAT, DESCRIPTION, MODEL, HERE = 3, "actor.json", "actor.onnx", Path(__file__).resolve().parent
OUTPUTS = ("action", "mean", "log_std")  # the deterministic action; mean and log-std of the Gaussian before tanh
DTYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}


class BundleError(ValueError):
    """Files, spaces or observations do not fit the actor; the message says which."""


def read_description(folder=HERE):
    """Return the contents of ``actor.json``; raise a BundleError if it is damaged or has another format."""
    path = Path(folder) / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        if (found := description.get("format")) != FORMAT:
            raise ValueError(f"it has format {found}, and this driver.py reads format {FORMAT}. Export the run again")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path} cannot be used: {error}") from None
    return description


class BundleActor(ActorModule):
    """Exported policy. It runs on the CPU, and raises a BundleError if files, spaces or observations do not fit."""

    def __init__(self, observation_space=None, action_space=None, folder=HERE):
        super().__init__(observation_space, action_space)
        self.rng, self._sha256 = np.random.default_rng(), read_description(folder).get("sha256")
        self.load(Path(folder) / MODEL)
        if observation_space is not None:
            _check("observation_space", getattr(observation_space, "spaces", {}), self._inputs)
        if action_space is not None:
            _check("action_space", {"action": action_space}, {"action": self._action})

    def act(self, obs, test=False):
        """Return the action (A,) float32 in [-1, 1] for one observation: the deterministic one if ``test``."""
        _check("observation", obs, self._inputs)
        action, mean, log_std = self.session.run(OUTPUTS, {name: obs[name][None] for name in self._inputs})
        return action[0] if test else np.tanh(mean + np.exp(log_std) * self.rng.standard_normal(mean.shape, "f4"))[0]

    def save(self, path):
        """Write the ONNX file to ``path``."""
        Path(path).write_bytes(self._model)

    def load(self, path, device=None):
        """Load the ONNX file of the bundle at ``path``, whose weights lie in no other file; return self."""
        import onnxruntime

        try:
            model = Path(path).read_bytes()
            if hashlib.sha256(model).hexdigest() != self._sha256:
                raise ValueError(f"it is damaged or of another bundle: its SHA-256 is not that in {DESCRIPTION}")
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = 1, 4
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            inputs = {part.name: np.zeros(part.shape[1:], DTYPES[part.type]) for part in session.get_inputs()}
            (action, *_), _, _ = session.run(OUTPUTS, {name: part[None] for name, part in inputs.items()})
        except Exception as error:  # those of onnxruntime share no other base class
            raise BundleError(f"{path} cannot be used: {error}") from None
        self.session, self._model, self._inputs, self._action = session, model, inputs, action
        return self


def _check(what, parts, examples):
    for name, example in examples.items():
        part = getattr(parts, "get", lambda _: None)(name)
        found, needed = (f"{getattr(p, 'dtype', None)} of shape {getattr(p, 'shape', None)}" for p in (part, example))
        if found != needed:
            raise BundleError(f"{what}: {name} is {'missing' if part is None else found}, this actor needs {needed}")
