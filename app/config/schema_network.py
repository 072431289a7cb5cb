"""The section of the configuration that spreads a run over processes and machines."""

from dataclasses import field, replace
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from app.config.fields import FROZEN, NonNegative, Positive, PositiveFloat

Role = Literal["local", "server", "worker", "trainer", "all"]
Port = Annotated[int, Field(ge=1, le=65535)]
Host = Annotated[str, Field(min_length=1, max_length=253)]


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
