"""Uploaded files go: those whose time is over, and the bytes of those that are deleted."""

from collections.abc import Callable
from datetime import timedelta

import structlog

from service.payloads.blobs import STORAGE_ERRORS, Blobs
from service.rules.crashpoints import CrashPoint, reached
from service.store import expiry as store
from service.store.engine import Database
from service.upkeep.bounds import PAGE, time_is_up

log = structlog.get_logger()


def expire(
    db: Database,
    blobs: Blobs,
    after: timedelta,
    *,
    stopping: Callable[[], bool] = lambda: False,
) -> None:
    """Delete files whose time is over, and discard bytes, for as long as a task may work on this.

    A file that a job is still to read stays.
    """
    over = time_is_up(stopping)
    while not over() and (expired := store.expire(db, after=after, limit=PAGE)):
        log.info("files_expired", files=expired)
    while not over() and discard(db, blobs):
        pass


def discard(db: Database, blobs: Blobs, file_id: str | None = None) -> bool:
    """Delete the bytes of deleted files that no job is still to read: a page, or of one file.

    Returns whether there may be more. To delete a blob twice does no harm.
    """
    page = store.discardable(db, limit=PAGE, file_id=file_id)
    if not page:
        return False
    try:
        blobs.delete([file.blob for file in page])
    except (OSError, *STORAGE_ERRORS) as error:
        log.warning("files_stay", files=len(page), reason=str(error))
        return False
    reached(CrashPoint.FILE_DISCARDED)
    store.discarded(db, [file.id for file in page])
    return len(page) == PAGE
