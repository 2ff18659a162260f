"""The clients that a stage works with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from config.settings import Settings
from service.payloads.blobs import Blobs
from service.rules.permissions import Permissions
from service.rules.work import PartClaim
from service.together.client import Together
from service.together.wire import ProviderBatch


class Lease(Protocol):
    """The right to work on a row, for a while."""

    def keep(self) -> None:
        """Extend the lease if it is time to. Cheap: call it often. Raises StaleLease."""

    def remaining(self) -> timedelta:
        """Return how long the lease is certain to last from now."""


@dataclass(frozen=True, kw_only=True)
class Clients:
    """The clients of every stage."""

    blobs: Blobs
    lease: Lease
    scratch: Path
    settings: Settings
    permissions: Permissions = field(default_factory=Permissions)
    """What the producer may use. Set if split has yet to read the producer's spec."""
    parts: Callable[[], tuple[PartClaim, ...]] = tuple
    """Returns the parts of the batch, read once if anybody asks. Raises StaleLease."""


@dataclass(frozen=True, kw_only=True)
class AccountClients(Clients):
    """The clients of the stages that call Together, as the account of their batch."""

    together: Together
    show: Callable[[str], ProviderBatch | None]
    """Looks up a batch by Together's id. Returns None if its status must be asked again later."""
