"""Drives with an exported actor: ``actor.json`` says what it computes, ``actor.safetensors`` holds its weights.

Needs torch, NumPy, safetensors and tmrl, and nothing of the program that trained the actor. Nothing that is read here
can execute: the JSON may only put together the operations that OPERATIONS lists, which all calculate (at worst
nonsense, or until the memory is full), and safetensors holds numbers. README.md shows how to drive.
"""

import json
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tmrl.actor import TorchActorModule
from torch import Tensor, nn

FORMAT = 2
HERE = Path(__file__).resolve().parent
DESCRIPTION, WEIGHTS = "actor.json", "actor.safetensors"

# Of torch.ops.aten: the only ones that a description can name.
OPERATIONS = frozenset(
    """
    add.Tensor addcmul.default baddbmm.default batch_norm.default bmm.default cat.default chunk.default clamp.default
    conv2d.default div.Tensor dropout.default exp.default expand.default flatten.using_ints group_norm.default
    gru.input layer_norm.default lerp.Tensor linear.default mT.default matmul.default mean.dim mul.Tensor mul_.Tensor
    new_zeros.default permute.default relu.default reshape.default select.int sigmoid.default silu.default slice.Tensor
    softmax.int squeeze.dim stack.default sub.Tensor sum.dim_IntList tanh.default to.dtype transpose.int unbind.int
    unflatten.int unsqueeze.default view.default zeros.default zeros_like.default
    """.split()
)
OUTPUTS = ("action", "mean", "log_std")  # of a program; the action is the deterministic one
GETITEM = "getitem"  # one of several results of an operation
DTYPES = {"float32": torch.float32, "uint8": torch.uint8}
MEMORY_FORMATS = {"channels_last": torch.channels_last}
DEVICE = "device"  # where the actor lives, as a value of the program

_MALFORMED = (AttributeError, IndexError, KeyError, OverflowError, RecursionError, RuntimeError, TypeError, ValueError)


class BundleError(ValueError):
    """Files, spaces or observations that do not fit together; the text says which."""


class Tensors(NamedTuple):
    """What a tensor must be."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def read_description(folder: Path = HERE) -> dict[str, Any]:
    """Read ``actor.json``.

    Raises:
        BundleError: it cannot be read, or has another format.
    """
    path = Path(folder) / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        found = description["format"]
    except (OSError, *_MALFORMED) as error:
        raise BundleError(f"{path}: cannot be read: {_in_short(error)}") from None
    if found != FORMAT:
        raise BundleError(f"{path}: has format {found}, and this driver.py reads format {FORMAT}")
    return description


def observation_contract(folder: Path = HERE) -> dict[str, Any]:
    """Return the arguments of ``ObservationSpec`` in ``observation.py``."""
    contract = read_description(folder)["observation"]
    return {key: tuple(value) if isinstance(value, list) else value for key, value in contract.items()}


class BundleActor(TorchActorModule):
    """The exported policy, as a tmrl worker drives with it.

    It is complete once it is made. ``save`` and ``load``, which tmrl calls with the worker's ``model_path``, are about
    the weights alone.

    Args:
        observation_space: of the environment; None: not to be compared with what the actor needs.
        action_space: of the environment; None: the same.
        device: where it acts.
        folder: of ``actor.json`` and ``actor.safetensors``.

    Raises:
        BundleError: a file is missing or damaged, or the environment does not suit the actor.
    """

    def __init__(self, observation_space=None, action_space=None, device="cpu", folder: Path = HERE):
        super().__init__(observation_space, action_space, device)
        path = Path(folder) / DESCRIPTION
        description = read_description(folder)
        try:
            self.program = Program(description["program"])
            self.action_dim = int(description["observation"]["action_dim"])
        except BundleError as error:
            raise BundleError(f"{path}: {error}") from None
        except _MALFORMED as error:
            raise BundleError(f"{path}: is damaged: {_in_short(error)}") from None
        self._refuse_other_spaces()
        self.weights = nn.Module()  # holds every tensor of the program as a buffer, so that they move together
        self.load(Path(folder) / WEIGHTS, device)
        self._try(path)

    @torch.no_grad()
    def evaluate(self, obs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Deterministic action, mean and log-std, (1, A) each; a drawn action is the tanh of a normal variable.

        Args:
            obs: an observation with a leading dimension of 1, in physical units.

        Raises:
            BundleError: a part of it is missing, or has another shape or type than the actor was trained with.
        """
        for name, wanted in self.program.inputs.items():
            _refuse_other(f"the observation's {name}", obs.get(name), Tensors((1, *wanted.shape), wanted.dtype))
        return tuple(self.program.run(self.device, obs, dict(self.weights.named_buffers(recurse=False))))

    def act(self, obs: Mapping[str, Tensor], test: bool = False) -> np.ndarray:
        """Action (A,) float32 in [-1, 1] for a batch of one observation; the deterministic one when ``test``."""
        action, mean, log_std = self.evaluate(obs)
        if not test:
            action = (mean + log_std.exp() * torch.randn_like(mean)).tanh()
        return action.squeeze(0).cpu().numpy()

    def save(self, path) -> None:
        """Write the weights as safetensors."""
        save_file({name: tensor.contiguous() for name, tensor in self.weights.named_buffers()}, path)

    def load(self, path, device) -> "BundleActor":
        """Take over weights that ``save`` wrote, and move to ``device``.

        Raises:
            BundleError: the file is missing or damaged, or its tensors are not those of this actor.
        """
        try:
            found = load_file(path)
        except (SafetensorError, OSError) as error:
            raise BundleError(f"{path}: cannot be loaded: {_in_short(error)}") from None
        if unknown := sorted(found.keys() - self.program.tensors.keys()):
            raise BundleError(f"{path}: holds {unknown[0]}, which this actor has not: it is of another one")
        for name, wanted in self.program.tensors.items():
            _refuse_other(f"{path}: {name}", found.get(name), wanted)
        for name, tensor in found.items():
            # A clone, because what is loaded is the file itself, which a worker writes anew when other weights come;
            # layout and alignment are those of training, because for others kernels round differently.
            layout = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
            try:
                self.weights.register_buffer(name, tensor.clone(memory_format=layout))
            except KeyError as error:
                raise BundleError(f"{path}: the name {name!r} is not fit for a tensor: {error}") from None
        return self.to(device)

    def _try(self, path: Path) -> None:
        """Run the program once: whatever is wrong with it shows here and not on the road."""
        zeros = {
            name: torch.zeros(1, *part.shape, dtype=part.dtype, device=self.device)
            for name, part in self.program.inputs.items()
        }
        try:
            results = self.evaluate(zeros)
        except _MALFORMED as error:
            raise BundleError(f"{path}: its program does not run: {_in_short(error)}") from None
        for name, result in zip(OUTPUTS, results, strict=True):
            _refuse_other(f"{path}: its {name}", result, Tensors((1, self.action_dim), torch.float32))

    def _refuse_other_spaces(self) -> None:
        if self.observation_space is not None:
            parts = getattr(self.observation_space, "spaces", {})
            for name, wanted in self.program.inputs.items():
                _refuse_other(f"observation_space: {name}", parts.get(name), wanted)
        shape = getattr(self.action_space, "shape", (self.action_dim,))
        if self.action_space is not None and shape != (self.action_dim,):
            raise BundleError(f"action_space: has shape {shape}, and this actor gives ({self.action_dim},)")


class _Value(NamedTuple):
    """A place among the values of a running program."""

    place: int


class Program:
    """Operations on tensors, one after the other.

    Args:
        listed: ``program`` of the description. "inputs" and "tensors" give shape and type of each by name; every entry
            of "nodes" has a "name", an "op", its "args" and "kwargs"; "outputs" names what OUTPUTS lists.

    Raises:
        BundleError: it names an operation or a value that there is not.
    """

    def __init__(self, listed: Mapping[str, Any]):
        self.inputs, self.tensors = (
            {
                name: Tensors(tuple(int(size) for size in part["shape"]), DTYPES[part["dtype"]])
                for name, part in listed[kind].items()
            }
            for kind in ("inputs", "tensors")
        )
        self._places: dict[str, int] = {}
        for name in (DEVICE, *self.inputs, *self.tensors):
            self._add(name)
        self._steps = [self._step(node) for node in listed["nodes"]]
        self._outputs = [self._place(listed["outputs"][name]) for name in OUTPUTS]

    def run(self, device: Any, inputs: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[Any]:
        """Return what the program computes: the OUTPUTS."""
        values = [device, *(inputs[name] for name in self.inputs), *(tensors[name] for name in self.tensors)]
        for function, args, kwargs in self._steps:
            values.append(function(*_fill(args, values), **{key: _fill(arg, values) for key, arg in kwargs.items()}))
        return [values[place] for place in self._outputs]

    def _step(self, node: Mapping[str, Any]) -> tuple[Callable, list, dict[str, Any]]:
        args = [self._argument(arg) for arg in node["args"]]
        kwargs = {str(key): self._argument(arg) for key, arg in node["kwargs"].items()}
        function = _function(node["op"])
        self._add(node["name"])
        return function, args, kwargs

    def _add(self, name: str) -> None:
        if name in self._places:
            raise BundleError(f"there are two values with the name {name!r}")
        self._places[name] = len(self._places)

    def _place(self, name: str) -> int:
        if name not in self._places:
            raise BundleError(f"the value {name!r} is used, and nothing before it has that name")
        return self._places[name]

    def _argument(self, listed: Any) -> Any:
        if listed is None or isinstance(listed, (bool, int, float)):
            return listed
        if isinstance(listed, list):
            return [self._argument(item) for item in listed]
        ((kind, name),) = listed.items()
        if kind == "value":
            return _Value(self._place(name))
        return {"dtype": DTYPES, "memory_format": MEMORY_FORMATS}[kind][name]


def _function(name: str) -> Callable:
    if name == GETITEM:
        return operator.getitem
    if name not in OPERATIONS:
        raise BundleError(f"the operation {name!r} is none of those that an actor may use")
    operation, overload = name.split(".")
    return getattr(getattr(torch.ops.aten, operation), overload)


def _fill(arg: Any, values: list) -> Any:
    """Put the values in their places."""
    if type(arg) is _Value:
        return values[arg.place]
    return [_fill(item, values) for item in arg] if type(arg) is list else arg


def _in_short(error: Exception) -> str:
    """Kind and first line: torch goes on with whole tensors."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def _refuse_other(what: str, found: Any, wanted: Tensors) -> None:
    """Raise unless a tensor or a space has the shape and the type that are wanted."""
    if found is None:
        raise BundleError(f"{what} is missing")
    is_, must = (f"{str(part.dtype).removeprefix('torch.')} of shape {tuple(part.shape)}" for part in (found, wanted))
    if is_ != must:
        raise BundleError(f"{what} is {is_}, and this actor needs {must}")
