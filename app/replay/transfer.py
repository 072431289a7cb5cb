"""Transfer of batches from the replay in main memory to the device that trains."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from app.replay.batch import Batch

_ALIGNMENT = 256  # bytes, as of every allocation of CUDA

Transfer = Callable[[Batch], Batch]


def make_transfer(device: torch.device | str) -> Transfer:
    """Return the transfer to a device: none to the CPU, and one packed copy to a GPU."""
    return PackedTransfer(device) if torch.device(device).type == "cuda" else lambda batch: batch


def move(batch: Batch, device: torch.device | str) -> Batch:
    """Return a batch with its tensors on a device, each copied by itself unless it is there."""
    return _rebuild(batch, iter([tensor.to(device) for tensor in _tensors(batch)]))


class PackedTransfer:
    """Copies every batch to a GPU as one block of bytes, through page-locked memory, without waiting for the GPU.

    Batches of one format arrive in the same tensors of the GPU, so that a CUDA graph can read them: a batch is
    valid until the next one is copied. The copy begins after the work that was launched before it, so an update that
    still reads the previous batch is not disturbed.

    Args:
        device: The GPU; on the CPU, for tests, the block is copied within main memory.
    """

    def __init__(self, device: torch.device | str):
        self._device = torch.device(device)
        self._format: list[tuple[torch.Size, torch.dtype]] = []
        self._on_gpu = self._device.type == "cuda"

    def __call__(self, batch: Batch) -> Batch:
        """Copy a batch, and return the one on the device."""
        tensors = list(_tensors(batch))
        if (new_format := [(tensor.shape, tensor.dtype) for tensor in tensors]) != self._format:
            self._allocate(batch, tensors)
            self._format = new_format
        if self._on_gpu:
            self._copied.synchronize()  # the last copy out of this block has ended
        for place, tensor in zip(self._places, tensors, strict=True):
            place.copy_(tensor)
        self._target.copy_(self._block, non_blocking=True)
        if self._on_gpu:
            self._copied.record()
        return self._batch

    def _allocate(self, batch: Batch, tensors: Sequence[Tensor]) -> None:
        """Reserve the block on both sides, and lay the tensors out in it."""
        ends, size = [], 0
        for tensor in tensors:
            size += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
            ends.append(size)
        self._block = torch.empty(size, dtype=torch.uint8, pin_memory=self._on_gpu)
        self._target = torch.empty(size, dtype=torch.uint8, device=self._device)
        starts = [0, *ends[:-1]]
        self._places, targets = (
            [_view(block, start, tensor) for start, tensor in zip(starts, tensors, strict=True)]
            for block in (self._block, self._target)
        )
        self._batch = _rebuild(batch, iter(targets))
        if self._on_gpu:
            self._copied = torch.cuda.Event()


def _view(block: Tensor, start: int, tensor: Tensor) -> Tensor:
    """Return the part of a block of bytes from ``start`` on as a tensor of the shape and type of another one."""
    return block[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)


def _tensors(batch: Batch) -> Iterator[Tensor]:
    """Yield the tensors of a batch in order."""
    for field in batch:
        yield from field.values() if isinstance(field, dict) else (field,)


def _rebuild(batch: Batch, tensors: Iterator[Tensor]) -> Batch:
    """Return a batch of the structure of another one, with other tensors."""
    return Batch(
        *({name: next(tensors) for name in field} if isinstance(field, dict) else next(tensors) for field in batch)
    )
