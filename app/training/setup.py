"""The machine: device, threads, seeds."""

import contextlib
import ctypes
import os
import random
import sys

import numpy as np
import torch

from app.errors import UserError


def choose_device(name: str) -> str:
    """Resolve ``device``: "auto" takes the first GPU if there is one.

    Raises:
        UserError: a GPU is asked for and not there.
    """
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        wanted, there = int(name.partition(":")[2] or 0), torch.cuda.device_count()
        if wanted >= there:
            raise UserError(f"device = {name}: this machine has {there} CUDA devices. Use device=auto or device=cpu.")
        return f"cuda:{wanted}"
    return name


def prepare(device: str, threads: int, seed: int) -> str:
    """Set threads and seeds for this process and return the device.

    Args:
        device: as in config.
        threads: CPU threads; 0 for every core this process may use.
        seed: seeds Python, NumPy and torch.
    """
    torch.set_num_threads(threads or len(_cores()))
    torch.set_flush_denormal(True)  # Adam's moments of idle weights decay into denormals, ten times slower on a CPU
    _keep_freed_memory()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return choose_device(device)


def _cores() -> set[int] | range:
    """The cores this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _keep_freed_memory() -> None:
    """Stop glibc from giving every freed tensor back to the kernel, which then zeroes it anew for the next one."""
    if sys.platform != "linux":
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 1 << 28)
        libc.mallopt(trim_threshold, 1 << 30)
