"""The section of the configuration that spreads a run over processes and machines."""

from dataclasses import field, replace
from typing import Literal

from pydantic.dataclasses import dataclass

from app.config.fields import FROZEN, Host, NonNegative, Port, Positive, PositiveFloat

Role = Literal["local", "server", "worker", "trainer", "all"]


@dataclass(frozen=True, config=FROZEN)
class NetworkConfig:
    """Addresses, secrets and limits between server, workers and trainer."""

    host: Host
    bind: Host
    port: Port
    password: str | None = field(repr=False)  # null: none is set
    tls: bool
    keys_dir: str
    max_workers: Positive
    lead: NonNegative  # environment steps
    model_interval_s: NonNegative
    backlog_mb: Positive
    patience_s: PositiveFloat

    def without_secrets(self) -> "NetworkConfig":
        """Return what may be written into a file."""
        return replace(self, password=None)
