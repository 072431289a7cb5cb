"""Stop at the first NaN or infinity, by name, before it spreads."""

import math
from collections.abc import Mapping

from app.errors import UserError


class NonFiniteError(UserError):
    """A quantity of the update is NaN or infinite.

    Attributes:
        quantity: the first bad one, in the order of the computation.
    """

    def __init__(self, quantity: str, value: float, update: int):
        super().__init__(
            f"{quantity} = {value} at update {update}: training stopped, the last good checkpoint is kept. "
            "Lower agent.lr_critic and agent.lr_actor, or set agent.grad_clip."
        )
        self.quantity = quantity


def check_finite(quantities: Mapping[str, float], update: int) -> None:
    """Raise NonFiniteError for the first quantity that is not finite.

    Args:
        quantities: values in the order in which the update computed them.
        update: number of the update, for the message.
    """
    for name, value in quantities.items():
        if not math.isfinite(value):
            raise NonFiniteError(name, value, update)
