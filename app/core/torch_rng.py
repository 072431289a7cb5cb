"""Random numbers of torch for work beside the training, which must not notice it."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def forked_rng(seed: int) -> Iterator[None]:
    """Seed torch's global generators, and restore their states at the end.

    Args:
        seed: Seed of the CPU's generator and of those of the GPUs that this process has used.
    """
    with torch.random.fork_rng(devices=_used_gpus()):
        torch.manual_seed(seed)
        yield


def _used_gpus() -> range:
    """Return the GPUs whose generators this process may have used; asking about the others would start them."""
    return range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
