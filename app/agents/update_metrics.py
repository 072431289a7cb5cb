"""Metrics of one update, which a GPU may still be computing when the update is started."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from app.agents.finite_check import check_finite


class PackedMetrics(NamedTuple):
    """Scalars of one update as one tensor, for one transfer from the device.

    Attributes:
        names: Names, in the order in which a NaN spreads from one to the next.
        values: Values (n,).
        logged: Names that are logged; the others are only checked.
    """

    names: tuple[str, ...]
    values: Tensor
    logged: tuple[str, ...]


def pack(checked: Mapping[str, Tensor], logged: Mapping[str, Tensor]) -> PackedMetrics:
    """Pack scalars that are only checked, and the metrics that follow from them, which are logged, too."""
    metrics = {**checked, **logged}
    return PackedMetrics(tuple(metrics), torch.stack([value.detach() for value in metrics.values()]), tuple(logged))


class UpdateMetrics:
    """Metrics of one update.

    Args:
        packed: The metrics on any device. They are copied from a GPU as soon as it has computed them.
        update: Number of the update.
    """

    def __init__(self, packed: PackedMetrics, update: int):
        self._names, self._logged, self._update = packed.names, packed.logged, update
        self._values = packed.values.to("cpu", non_blocking=True)
        self._arrived: torch.cuda.Event | None = None
        if packed.values.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    @property
    def arrived(self) -> bool:
        """Whether ``read`` returns at once."""
        return self._arrived is None or self._arrived.query()

    def read(self) -> dict[str, float]:
        """Wait for the values, and return those that are logged.

        Raises:
            NonFiniteError: One is NaN or infinite; it names the first one.
        """
        if self._arrived is not None:
            self._arrived.synchronize()
        values = dict(zip(self._names, self._values.tolist(), strict=True))
        check_finite(values, self._update)
        return {name: values[name] for name in self._logged}
