"""The role in the middle: tmrl's ``Server`` with our transport."""

import time
from collections.abc import Callable

from app.config.schema_network import NetworkConfig
from app.errors import UserError
from app.network.transport import make_relay
from app.tmrl_api import Server

_LOOK_S = 0.2


class NetworkServer(Server):
    """Hands on what workers and trainer say; it can read none of it but the envelope.

    Args:
        cfg: address, password, certificates.

    Raises:
        UserError: it cannot listen there.
    """

    def __init__(self, cfg: NetworkConfig):
        # Not tmrl's constructor: its relay would unpickle what comes in.
        self._Server__relay = self._relay = make_relay(cfg)
        self._where = f"{cfg.bind}:{cfg.port}"

    def serve(self, check: Callable[[], None]) -> None:
        """Wait until ``check`` raises.

        Raises:
            UserError: its process has ended by itself.
        """
        while self._relay.is_alive():
            check()
            time.sleep(_LOOK_S)
        raise UserError(f"The server at {self._where} has ended by itself. Start it again; the others reconnect.")

    def close(self) -> None:
        """Close the port."""
        self._relay.stop()
