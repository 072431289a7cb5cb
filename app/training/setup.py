"""Preparation of the process for a run: device, threads, random seeds, and the memory that the replay needs."""

import contextlib
import ctypes
import random
import sys
from dataclasses import dataclass

import numpy as np
import torch

from app.config.schema import Config
from app.core.errors import UserError
from app.core.system import usable_cores
from app.envs.env_factory import make_spec
from app.envs.gym_task import import_task_module
from app.envs.spec import ObservationSpec
from app.replay.memory_check import MemoryEstimate, estimate_memory, require_memory


@dataclass(frozen=True)
class Setup:
    """Prepared before anything is written.

    Attributes:
        device: Device of the networks, such as "cpu" or "cuda:0".
        spec: The observation.
        memory: Memory that the replay will need.
    """

    device: str
    spec: ObservationSpec
    memory: MemoryEstimate


def set_up(config: Config) -> Setup:
    """Prepare this process for a run.

    Raises:
        UserError: The device, the task or the memory is not available.
    """
    device = prepare_process(config.device, config.threads, config.seed)
    import_task_module(config.env)
    spec = make_spec(config.env)
    memory = estimate_memory(spec, config.replay.capacity)
    require_memory(memory)
    return Setup(device, spec, memory)


def prepare_process(device: str, threads: int, seed: int) -> str:
    """Set threads and random seeds of this process, and return the device.

    Args:
        device: Device as configured.
        threads: CPU threads, limited to the usable cores. 0 means one, which is enough for acting; a training run
            measures later what is faster (``training/threads.py``).
        seed: Seed of Python's, NumPy's and torch's generators.
    """
    torch.set_num_threads(min(threads or 1, usable_cores()))
    torch.set_flush_denormal(True)  # Adam's moments of idle weights decay into denormals, ten times slower on a CPU
    _keep_freed_memory()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    resolved = resolve_device(device)
    if resolved != "cpu":
        torch.cuda.set_device(resolved)  # streams and graphs are those of the current device
    return resolved


def resolve_device(name: str) -> str:
    """Return the device for a configured name: "auto" takes the first GPU if there is one.

    Raises:
        UserError: The configured GPU does not exist.
    """
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        index, count = int(name.partition(":")[2] or 0), torch.cuda.device_count()
        if index >= count:
            raise UserError(f"device = {name}: this machine has {count} CUDA devices. Use device=auto or device=cpu.")
        return f"cuda:{index}"
    return name


def device_name(device: str) -> str:
    """Return a device with the name of the GPU, such as "cuda:0 (NVIDIA H100)"."""
    return device if device == "cpu" else f"{device} ({torch.cuda.get_device_name(device)})"


def _keep_freed_memory() -> None:
    """Stop glibc from returning every freed tensor to the kernel, which would zero the pages again for the next one."""
    if sys.platform != "linux":
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 1 << 28)
        libc.mallopt(trim_threshold, 1 << 30)
