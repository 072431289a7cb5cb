"""How much memory a replay will take, and whether it is there."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from rich.filesize import decimal

from app.envs.spec import ObservationSpec
from app.errors import UserError
from app.replay.layout import arrays, capacity_of, slack_of

HEADROOM = 0.9  # the rest of the available memory is for the networks, the batches and everybody else

# Both versions of control groups: the files with limit and usage, and the line of memory.stat with the page
# cache, which counts as used but is given up before the limit is enforced.
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")


class ReplayTooLarge(UserError):
    """The configured replay does not fit into the memory that is free."""


@dataclass(frozen=True)
class Forecast:
    """The memory, and the disk space, of a replay whose every row is written.

    Attributes:
        capacity: Number of rows that count; ``slack_of`` them come on top.
        bytes_per_step: Bytes of one row over all arrays.
        total_bytes: Bytes of all arrays, the slack included.
        available_bytes: What this process can still get without swapping.
        fitting_capacity: The largest capacity that leaves some head room.
    """

    capacity: int
    bytes_per_step: int
    total_bytes: int
    available_bytes: int
    fitting_capacity: int


def forecast(spec: ObservationSpec, capacity: int) -> Forecast:
    """Forecast the memory of a replay; to be asked before the replay is made.

    Args:
        spec: The environment's observation.
        capacity: Number of rows that count.

    Returns:
        The bytes needed and the bytes available.
    """
    per_step = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in arrays(spec, 1).values())
    available = available_memory()
    return Forecast(
        capacity=capacity,
        bytes_per_step=per_step,
        total_bytes=per_step * (capacity + slack_of(capacity)),
        available_bytes=available,
        fitting_capacity=capacity_of(int(available * HEADROOM) // per_step),
    )


def check(forecast: Forecast) -> None:
    """Refuse a replay that would not fit.

    Args:
        forecast: What the replay needs and what is there.

    Raises:
        ReplayTooLarge: With the capacity that would fit.
    """
    if forecast.capacity <= forecast.fitting_capacity:
        return
    needed, free = decimal(forecast.total_bytes), decimal(forecast.available_bytes)
    raise ReplayTooLarge(
        f"replay.capacity={forecast.capacity} needs {needed} of memory, but only {free} are free. "
        f"replay.capacity={_rounded_down(forecast.fitting_capacity)} would fit "
        f"({forecast.bytes_per_step} bytes per row; {1 - HEADROOM:.0%} of the free memory stays free)."
    )


def available_memory() -> int:
    """Return the bytes that this process can still get: of the machine, or of its control group if less."""
    groups = _group_memory(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return min([psutil.virtual_memory().available, *groups])


def _rounded_down(capacity: int) -> int:
    """Keep two leading digits: free memory moves a little, and the advice must still hold a minute later."""
    step = 10 ** max(0, len(str(capacity)) - 2)
    return capacity // step * step


def _group_memory(membership: Path, root: Path) -> list[int]:
    """Return the memory left in each of this process's Linux control groups that limits it.

    Args:
        membership: The file that names the process's groups, ``/proc/self/cgroup``.
        root: Where the control groups are mounted.
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
            left += _left_in(folder, *names)
    return left


def _left_in(folder: Path, limit_name: str, usage_name: str, reclaimable_name: str) -> list[int]:
    try:
        limit = (folder / limit_name).read_text(encoding="ascii").strip()
        if limit == "max":
            return []
        used = int((folder / usage_name).read_text(encoding="ascii"))
        statistics = (folder / "memory.stat").read_text(encoding="ascii").split()
    except OSError:  # no such group from here, or one without a limit
        return []
    counts = dict(zip(statistics[::2], statistics[1::2], strict=True))
    return [max(0, int(limit) - used + int(counts.get(reclaimable_name, "0")))]
