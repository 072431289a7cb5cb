"""CUDA graphs: operations of a GPU that are recorded once and then launched together.

A small network keeps a GPU waiting: the CPU launches its thousand operations one by one and takes longer than the GPU
to compute them. Recorded in a graph, they cost one launch (LeanRL, https://github.com/meta-pytorch/LeanRL, does the
same for other agents).
"""

import warnings
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

Owner, Inputs, Result = TypeVar("Owner"), TypeVar("Inputs"), TypeVar("Result")

_CALLS_BEFORE_RECORDING = 3  # they create what is created once: states of optimisers, workspaces of cuDNN and cuBLAS


class GraphedFunction(Generic[Owner, Inputs, Result]):
    """Function of an object and of tensors that is replayed from a CUDA graph after its first calls.

    A graph reads and writes the same addresses in every replay, so the same inputs must be given again with new
    contents; others are recorded anew. The result, too, is the same object in every call, with new contents.

    The object is given in every call and not kept: a network that owns its graph would otherwise own itself, and its
    memory would be freed only by the garbage collector.

    Args:
        function: Computes on the current GPU alone: it must not wait for the GPU, and what it does besides, such as
            counting, happens only when it is recorded. It may draw random numbers from torch's global generator.
    """

    def __init__(self, function: Callable[[Owner, Inputs], Result]):
        self._function = function
        self._stream = torch.cuda.Stream()
        self.forget()

    def __call__(self, owner: Owner, inputs: Inputs) -> Result:
        """Compute the result for the present contents of ``inputs``; ``owner`` is the same object in every call."""
        if inputs is not self._inputs:
            self.forget()
            self._inputs = inputs
        if self._calls < _CALLS_BEFORE_RECORDING:
            self._calls += 1
            return self._run(owner, inputs)
        if self._graph is None:
            self._record(owner, inputs)
        self._graph.replay()
        return self._result

    def __deepcopy__(self, memo: dict[int, Any]) -> "GraphedFunction[Owner, Inputs, Result]":
        """Copy the function without what is recorded, which would write into the memory of the original."""
        return GraphedFunction(self._function)

    def forget(self) -> None:
        """Drop the recording, because tensors that the function works on were replaced by others."""
        self._inputs: Inputs | None = None
        self._calls, self._graph, self._result = 0, None, None

    def _run(self, owner: Owner, inputs: Inputs) -> Result:
        """Compute operation by operation, on the stream that records later."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
            result = self._function(owner, inputs)
        current.wait_stream(self._stream)
        return result

    def _record(self, owner: Owner, inputs: Inputs) -> None:
        """Record what the function does; nothing is computed."""
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=self._stream):
            self._result = self._function(owner, inputs)
