"""The machine: device, threads, seeds."""

import contextlib
import ctypes
import random
import sys
from dataclasses import dataclass

import numpy as np
import torch

from app.config.schema import Config
from app.envs.factory import make_spec
from app.envs.spec import ObservationSpec
from app.errors import UserError
from app.machine import usable_cores
from app.replay.forecast import Forecast, check, forecast


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


@dataclass(frozen=True)
class Setup:
    """What is made ready for a run before anything is written.

    Attributes:
        device: where the networks live.
        spec: the observation.
        memory: what the replay will take.
    """

    device: str
    spec: ObservationSpec
    memory: Forecast


def set_up(config: Config) -> Setup:
    """Prepare this process for a run.

    Raises:
        UserError: the device or the memory that it needs is not there.
    """
    device = prepare(config.device, config.threads, config.seed)
    spec = make_spec(config.env)
    memory = forecast(spec, config.replay.capacity)
    check(memory)
    return Setup(device, spec, memory)


def prepare(device: str, threads: int, seed: int) -> str:
    """Set threads and seeds for this process and return the device.

    Args:
        device: as in config.
        threads: CPU threads, no more than this process may use cores; 0 for one, until a run has measured what is
            faster (``app/training/threads.py``). Acting alone wants no more.
        seed: seeds Python, NumPy and torch.
    """
    torch.set_num_threads(min(threads or 1, usable_cores()))
    torch.set_flush_denormal(True)  # Adam's moments of idle weights decay into denormals, ten times slower on a CPU
    _keep_freed_memory()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return choose_device(device)


def _keep_freed_memory() -> None:
    """Stop glibc from giving every freed tensor back to the kernel, which then zeroes it anew for the next one."""
    if sys.platform != "linux":
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 1 << 28)
        libc.mallopt(trim_threshold, 1 << 30)
