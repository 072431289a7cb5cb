"""Check for NaN and infinite values, which stops the training before they spread."""

import math
from collections.abc import Mapping

from app.core.errors import UserError


class NonFiniteError(UserError):
    """A quantity of the update is NaN or infinite.

    Args:
        quantity: Name of the quantity.
        value: Its value.
        update: Number of the update.
    """

    def __init__(self, quantity: str, value: float, update: int):
        super().__init__(
            f"{quantity} = {value} at update {update}: training stopped. Lower agent.lr_critic and agent.lr_actor, or "
            "set agent.grad_clip."
        )
        self.quantity = quantity


def check_finite(quantities: Mapping[str, float], update: int) -> None:
    """Check that all quantities are finite.

    Args:
        quantities: Values in the order in which the update computes them.
        update: Number of the update, for the message.

    Raises:
        NonFiniteError: A quantity is not finite; it names the first one.
    """
    for name, value in quantities.items():
        if not math.isfinite(value):
            raise NonFiniteError(name, value, update)
