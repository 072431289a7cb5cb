"""Estimate of the memory that a replay takes, and its comparison with the memory that is available."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from rich.filesize import decimal

from app.core.errors import UserError
from app.envs.spec import ObservationSpec
from app.replay.ring import largest_capacity, slack_rows
from app.replay.row_format import array_kinds

USABLE_SHARE = 0.9  # of the available memory; the rest is for the networks, the batches and other programs

# Both versions of control groups: the files with limit and usage, and the line of memory.stat with the page
# cache, which counts as used but is freed before the limit is enforced.
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")


class ReplayTooLarge(UserError):
    """The configured replay does not fit into the available memory."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory, and disk space, of a replay that is completely filled.

    Attributes:
        capacity: Number of rows that can be sampled; ``slack_rows`` are added to them.
        bytes_per_step: Bytes of one row over all arrays.
        total_bytes: Bytes of all arrays, the slack included.
        available_bytes: Memory that this process can still get without swapping.
        fitting_capacity: Largest capacity that leaves some memory free.
    """

    capacity: int
    bytes_per_step: int
    total_bytes: int
    available_bytes: int
    fitting_capacity: int


def estimate_memory(spec: ObservationSpec, capacity: int) -> MemoryEstimate:
    """Estimate the memory of a replay before it is made.

    Args:
        spec: Format of the observations.
        capacity: Number of rows that can be sampled.
    """
    per_step = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in array_kinds(spec, 1).values())
    available = available_memory()
    return MemoryEstimate(
        capacity=capacity,
        bytes_per_step=per_step,
        total_bytes=per_step * (capacity + slack_rows(capacity)),
        available_bytes=available,
        fitting_capacity=largest_capacity(int(available * USABLE_SHARE) // per_step),
    )


def require_memory(estimate: MemoryEstimate) -> None:
    """Refuse a replay that does not fit.

    Args:
        estimate: Memory that it needs and memory that is available.

    Raises:
        ReplayTooLarge: The message names the capacity that would fit.
    """
    if estimate.capacity <= estimate.fitting_capacity:
        return
    needed, free = decimal(estimate.total_bytes), decimal(estimate.available_bytes)
    raise ReplayTooLarge(
        f"replay.capacity={estimate.capacity} needs {needed} of memory, but only {free} are free. "
        f"replay.capacity={_rounded_down(estimate.fitting_capacity)} would fit "
        f"({estimate.bytes_per_step} bytes per row; {1 - USABLE_SHARE:.0%} of the free memory stays free)."
    )


def available_memory() -> int:
    """Return the bytes that this process can still get: of the machine, or of its control group if less."""
    limits = _memory_left_in_cgroups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return min([psutil.virtual_memory().available, *limits])


def _rounded_down(capacity: int) -> int:
    """Round to two leading digits, so that the advice still holds when a little less memory is free."""
    step = 10 ** max(0, len(str(capacity)) - 2)
    return capacity // step * step


def _memory_left_in_cgroups(membership: Path, root: Path) -> list[int]:
    """Return the bytes left in each of this process's Linux control groups that has a limit.

    Args:
        membership: File that names the process's groups, ``/proc/self/cgroup``.
        root: Folder where the control groups are mounted.
    """
    if not membership.is_file():  # not Linux
        return []
    left = []
    for line in membership.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, names = root, _VERSION_2
        elif "memory" in controllers.split(","):
            mount, names = root / "memory", _VERSION_1
        else:
            continue
        group = mount / path.lstrip("/")
        # A limit holds for every group below it. In a container only the mount itself may be visible.
        for folder in [group, *(parent for parent in group.parents if parent.is_relative_to(mount))]:
            if (bytes_left := _memory_left(folder, *names)) is not None:
                left.append(bytes_left)
    return left


def _memory_left(folder: Path, limit_name: str, usage_name: str, reclaimable_name: str) -> int | None:
    """Return the bytes left in one control group; None if it has no limit or cannot be read."""
    try:
        limit = (folder / limit_name).read_text(encoding="ascii").strip()
        if limit == "max":
            return None
        used = int((folder / usage_name).read_text(encoding="ascii"))
        statistics = (folder / "memory.stat").read_text(encoding="ascii").split()
    except OSError:
        return None
    counts = dict(zip(statistics[::2], statistics[1::2], strict=True))
    return max(0, int(limit) - used + int(counts.get(reclaimable_name, "0")))
