"""What a stage works with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from config.settings import Settings
from service.payloads.blobs import Blobs
from service.rules.spec import Permissions
from service.together.client import ProviderBatch, Together


class Lease(Protocol):
    """The right to work on a row, for a while."""

    def keep(self) -> None:
        """Say that the work goes on; cheap, to be called often. Raises StaleLease when lost."""

    def remaining(self) -> timedelta:
        """How long it certainly lasts from now."""


@dataclass(frozen=True, kw_only=True)
class Clients:
    """For every stage."""

    blobs: Blobs
    lease: Lease
    scratch: Path
    settings: Settings
    permissions: Permissions = field(default_factory=Permissions)
    """What the producer may use, where its spec is still to be read."""


@dataclass(frozen=True, kw_only=True)
class AccountClients(Clients):
    """For the stages that speak to Together, as the account of their batch."""

    together: Together
    show: Callable[[str], ProviderBatch | None]
    """How a batch stands, by Together's id of it; None where that is to be asked again later."""
