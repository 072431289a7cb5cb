"""Somebody else's exported folder, read as data: its Python files are neither imported nor run.

The policy is computed by onnxruntime from ``actor.onnx``, in the environment of this program that ``actor.json`` names.
Both files are checked before they are used: sizes, kinds of operations, shapes, and the settings of the environment.
"""

import contextlib
import math
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from app.config.schema_env import EnvConfig
from app.core.console import printable
from app.core.errors import UserError, format_error
from app.envs.env_factory import make_spec
from app.envs.spec import EnvError, ObservationSpec
from app.export_bundle.driver import DESCRIPTION, MODEL, OUTPUTS, BundleActor, BundleError, read_description
from app.export_bundle.onnx_export import require_packages
from app.runs.fingerprint import flatten, unflatten, with_current_names
from app.runs.older_versions import default_settings

if TYPE_CHECKING:  # of the extra `export`
    import onnx

_SIMULATED = ("sim", "car_racing", "gym")  # kinds of environments that this machine can make
_LARGEST = {DESCRIPTION: 1 << 20, MODEL: 1 << 28}  # bytes
_LARGEST_INTEGER, _LARGEST_NUMBER = 5000, 1e6  # of an environment's settings: larger ones cost hours, or all memory
_MEMORY = 4 << 30  # bytes that a policy may take beside what the process has

_ENV = "env."  # beginning of the settings of an environment
_KWARGS = "env.kwargs"  # arguments of a task
_WORD = re.compile(r"[\w+-]{1,50}", re.ASCII)


@dataclass(frozen=True)
class Bundle:
    """A policy from an exported folder.

    Attributes:
        name: Name of the folder.
        env: Environment that it drives in.
        actor: The policy.
        reached: Metrics that the folder says it reached.
    """

    name: str
    env: EnvConfig
    actor: "OnnxActor"
    reached: Mapping[str, float]


class OnnxActor:
    """Policy in an ONNX file with the interface of a ``DrivingActor`` that evaluations use.

    Args:
        actor: Loaded file.
    """

    device = "cpu"

    def __init__(self, actor: BundleActor):
        self._session = actor.session
        self._inputs = [part.name for part in actor.session.get_inputs()]

    def actions(self, obs: Mapping[str, Tensor], deterministic: Tensor) -> Tensor:
        """Return the actions (B, A) in [-1, 1] for B observations.

        Args:
            obs: Batch of observations.
            deterministic: Whether each action is the deterministic one, (B,) bool; others are drawn with torch's
                generator.

        Raises:
            UserError: The file fails, or gives an action that is not finite.
        """
        try:
            outputs = self._session.run(list(OUTPUTS), {name: obs[name].numpy() for name in self._inputs})
        except Exception as error:  # those of onnxruntime share no other base class
            raise UserError(f"{MODEL} failed while it drove: {printable(format_error(error))}") from None
        action, mean, log_std = map(torch.from_numpy, outputs)
        drawn = torch.tanh(mean + log_std.exp() * torch.randn_like(mean))
        chosen = torch.where(deterministic[:, None], action, drawn)
        if not chosen.isfinite().all():
            raise UserError(f"{MODEL} gave an action that is not finite while it drove.")
        return chosen.clamp(-1.0, 1.0)


def read_bundle(folder: Path) -> Bundle:
    """Read a folder that ``app/export.py`` wrote anywhere.

    Raises:
        UserError: The folder is no export, is damaged, holds something that is not the data of a policy, or its task
            cannot be made here. The text is one sentence.
    """
    require_packages()
    try:
        for name, largest in _LARGEST.items():
            _require_file(folder / name, largest)
        description = read_description(folder)
        env = _environment(description)
        spec = make_spec(env)
        _require_same_observation(description, spec)
        _require_plain_graph((folder / MODEL).read_bytes())
        actor = BundleActor(spec.observation_space(), spec.action_space(), folder=folder)
    except (BundleError, EnvError, OSError, MemoryError) as error:
        raise UserError(f"bundle = {folder}: {_one_line(error)}") from None
    return Bundle(folder.resolve().name, env, OnnxActor(actor), _numbers(description.get("reached")))


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Let allocations fail in the block that would take some GB more; a graph of a few bytes can ask for terabytes."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = psutil.Process().memory_info().vms + _MEMORY
    limits = [limit for limit in (wanted, soft, hard) if limit != resource.RLIM_INFINITY]
    with contextlib.suppress(ValueError, OSError):  # systems that refuse it drive without
        resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _require_file(path: Path, largest: int) -> None:
    """Raise unless a path is a regular file of at most this many bytes; a link to one is none of the dangers."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path.name} is no regular file")
    if status.st_size > largest:
        raise BundleError(f"{path.name} has {status.st_size:,} bytes, and at most {largest:,} are read")


def _environment(description: Mapping[str, Any]) -> EnvConfig:
    """Return the environment that a policy was trained in, from the fingerprint of its settings."""
    made_under = description.get("fingerprint")
    if not isinstance(made_under, dict):
        raise BundleError(f"{DESCRIPTION} does not say what the policy was trained under")
    given = {key: value for key, value in with_current_names(made_under).items() if key.startswith(_ENV)}
    kind = given.get("env.kind")
    if kind == "trackmania":
        raise BundleError("it drives the game; a worker of tmrl judges it there, as its README.md says")
    if kind not in _SIMULATED:
        raise BundleError(f"its environment is of a kind that this version does not have ({kind!r})")
    # A fingerprint lacks what no policy depends on, such as the tracks of its evaluation.
    defaults = {key: value for key, value in default_settings("", kind).items() if key.startswith(_ENV)}
    _require_moderate(given)
    section = unflatten(defaults | given)["env"]
    try:
        return TypeAdapter(EnvConfig).validate_python(section)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        raise BundleError(f"its environment is not valid: env.{place}: {first['msg']}") from None


def _require_moderate(settings: Mapping[str, Any]) -> None:
    """Raise if a setting is so large that the environment could not be made; seeds of tracks may be.

    A text among the arguments of a task must be a word: another one could name a file that the task would read.
    """
    for key, value in settings.items():
        if key.startswith(_KWARGS):
            parts = value if isinstance(value, Mapping) else dict(enumerate(value)) if isinstance(value, list) else {}
            _require_moderate({f"{key}.{name}": part for name, part in parts.items()})
            if isinstance(value, str) and not _WORD.fullmatch(value):
                raise BundleError(f"its {key} = {value!r} is no word, and might name a file")
        largest = _LARGEST_INTEGER if isinstance(value, int) else _LARGEST_NUMBER
        if isinstance(value, (int, float)) and not abs(value) <= largest:
            raise BundleError(f"its {key} = {value:g} is more than {largest:g}, which no environment here needs")


def _require_same_observation(description: Mapping[str, Any], spec: ObservationSpec) -> None:
    recorded = description.get("observation")
    expected = flatten(asdict(spec))
    if not isinstance(recorded, dict):
        raise BundleError(f"{DESCRIPTION} does not say what an observation is")
    different = sorted(key for key in expected.keys() | recorded.keys() if recorded.get(key) != expected.get(key))
    if different:
        raise BundleError(f"its observations are not those of its environment here ({', '.join(different[:4])})")


def _require_plain_graph(model: bytes) -> None:
    """Raise unless an ONNX file is one graph of standard operations with its weights inside, without control flow."""
    import onnx

    try:
        graph = onnx.load_model_from_string(model)
    except Exception as error:  # of protobuf, whose errors depend on its implementation
        raise BundleError(f"{MODEL} is no ONNX file ({format_error(error)})") from None
    if graph.functions:
        raise BundleError(f"{MODEL} defines operations of its own")
    for node in graph.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise BundleError(f"{MODEL} has the operation {node.op_type!r} of {node.domain!r}, which is not standard")
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise BundleError(f"{MODEL} has control flow ({node.op_type!r}), which no exported policy has")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _tensors(graph.graph)):
        raise BundleError(f"{MODEL} keeps weights in other files")


def _tensors(graph: "onnx.GraphProto") -> Iterator["onnx.TensorProto"]:
    """Yield every tensor of a graph without control flow: its weights, and the attributes of its nodes."""
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    yield from graph.initializer
    for attribute in attributes:
        yield from (attribute.t, *attribute.tensors)
    sparse = [*graph.sparse_initializer]
    sparse += [one for attribute in attributes for one in (attribute.sparse_tensor, *attribute.sparse_tensors)]
    for one in sparse:
        yield from (one.values, one.indices)


def _numbers(values: Any) -> dict[str, float]:
    """Return the finite numbers of a mapping from a file."""
    if not isinstance(values, dict):
        return {}
    return {
        key: value
        for key, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError):
        name = Path(error.filename).name if error.filename else "a file"
        return f"{name} cannot be read ({error.strerror}). Name a folder that app/export.py wrote."
    return printable(" ".join(str(error).split()))[:400]
