"""Server of a distributed run: tmrl's ``Server`` with the transport of this package."""

import time
from collections.abc import Callable

from app.config.schema import NetworkConfig
from app.core.errors import UserError
from app.core.tmrl_api import Server
from app.distributed.transport import make_relay

_CHECK_INTERVAL_S = 0.2


class NetworkServer(Server):
    """Forwards messages between workers and trainer, without deserialising them.

    Args:
        network: Address, password and certificates.

    Raises:
        UserError: It cannot listen at the address.
    """

    def __init__(self, network: NetworkConfig):
        # Not tmrl's constructor: its relay would unpickle what it receives.
        self._relay = make_relay(network)
        self._address = f"{network.bind}:{network.port}"

    def serve(self, check: Callable[[], None], report: Callable[[str], None]) -> None:
        """Serve until ``check`` raises.

        Args:
            check: Called again and again.
            report: Receives a line for everybody who connects, leaves or is refused.

        Raises:
            UserError: The network process has ended.
        """
        while self._relay.is_alive():
            check()
            for line in self._relay.receive_all():
                report(line.decode())
            time.sleep(_CHECK_INTERVAL_S)
        raise UserError(
            f"The network process of the server at {self._address} has ended. Start the server again; workers and "
            "trainer reconnect by themselves."
        )

    def close(self) -> None:
        """Close the port."""
        self._relay.stop()
