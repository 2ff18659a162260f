"""The services that endpoints use: database, blobs, threads, streams."""

from dataclasses import dataclass
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends
from starlette.requests import Request

from config.settings import Settings
from service.api.auth import Authenticator
from service.api.calls.desk import Desk
from service.api.failures import Failures
from service.api.gathering import Gathering
from service.api.memory import Memory
from service.api.metrics import Metrics
from service.api.streams import Streams
from service.api.turns import Turns
from service.payloads.blobs import Blobs
from service.store.engine import Database


@dataclass(frozen=True, kw_only=True)
class Services:
    settings: Settings
    db: Database
    blobs: Blobs
    authenticator: Authenticator
    failures: Failures
    memory: Memory
    turns: Turns
    intake: CapacityLimiter
    """Threads that read request bodies, limited so that other calls keep theirs."""
    lookups: CapacityLimiter
    """Threads that look up single requests, limited since a large job takes a while."""
    gathering: Gathering
    metrics: Metrics
    streams: Streams
    downloads: Streams
    desk: Desk


async def _services(request: Request) -> Services:
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


Uses = Annotated[Services, Depends(_services)]
