"""Messages for what is done now and then, whichever scheduler comes first."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from config.settings import Settings
from service.store import leftovers
from service.store.chores import begin
from service.store.engine import Database
from service.upkeep.sweep import DAY
from workers.app import CONTROL, TRANSFER
from workers.pipeline import message


def due(db: Database, settings: Settings, *, every: timedelta) -> Iterator[Any]:
    """To be published right away: what is lost comes again the next time."""
    if settings.retention_days is not None and begin(db, "prune", every=every):
        yield message("prune", queue=CONTROL, expires=every)
    if begin(db, "discard", every=every):
        for account in leftovers.owners(db, settings.account_names):
            queue = TRANSFER if account is None else CONTROL
            yield message("discard", account, queue=queue, expires=every)
    if begin(db, "sweep_blobs", every=DAY):
        yield message("sweep_blobs", queue=TRANSFER, expires=DAY)
