"""Old finished jobs are forgotten: first their rows, and then what they left elsewhere.

What is left is noted in the transaction that deletes the rows, so a crash in between loses nothing.
"""

import time
from collections.abc import Callable
from datetime import timedelta

import structlog

from service.payloads.blobs import STORAGE_ERRORS, Blobs
from service.rules.crashpoints import CrashPoint, reached
from service.rules.errors import Refused, Unreachable
from service.store import leftovers
from service.store.engine import Database
from service.store.leftovers import Discardable
from service.store.prune import forget
from service.together.client import Together

log = structlog.get_logger()

PAGE = 200
AT_ONCE = timedelta(seconds=10)
"""For how long a worker is kept by this at once. What is not done by then is due again soon."""


def prune(db: Database, older_than: timedelta) -> int:
    """Forget jobs that ended longer ago than that, for a while. Returns how many it were."""
    end = time.monotonic() + AT_ONCE.total_seconds()
    forgotten = 0
    while time.monotonic() < end and (page := forget(db, older_than=older_than, limit=PAGE)):
        reached(CrashPoint.PRUNE_FORGOTTEN)
        forgotten += page
    if forgotten:
        log.info("jobs_forgotten", jobs=forgotten)
    return forgotten


def discard_blobs(db: Database, blobs: Blobs, *, claim_for: timedelta, retry: timedelta) -> None:
    """Delete the blobs that forgotten jobs left, for a while."""

    def delete(leftover: Discardable) -> None:
        blobs.delete_under(leftover.name, leftover.written_before)

    _discard(db, None, delete, claim_for, retry)


def discard_files(
    db: Database, account: str, together: Together, *, claim_for: timedelta, retry: timedelta
) -> None:
    """Delete the files of an account at Together that forgotten jobs left, for a while."""

    def delete(leftover: Discardable) -> None:
        try:
            together.delete_file(leftover.name)
        except Refused as error:
            # Asking again changes nothing, and it is only a file that nobody needs.
            log.warning("leftover_refused", name=leftover.name, reason=str(error))

    _discard(db, account, delete, claim_for, retry)


def _discard(
    db: Database,
    account: str | None,
    delete: Callable[[Discardable], None],
    claim_for: timedelta,
    retry: timedelta,
) -> None:
    """Ends at the first trouble, which most likely is everyone's; what was claimed and not done is
    due again after `claim_for`. Deleting twice does no harm.
    """
    end = time.monotonic() + AT_ONCE.total_seconds()
    while page := leftovers.claim(db, account, limit=PAGE, claim_for=claim_for):
        done: list[int] = []
        trouble: Discardable | None = None
        for leftover in page:
            if time.monotonic() > end:
                break
            if not _deleted(leftover, delete):
                trouble = leftover
                break
            reached(CrashPoint.DISCARD_DELETED)
            done.append(leftover.id)
        leftovers.remove(db, done)
        if trouble is not None:
            leftovers.postpone(db, trouble, retry_base=retry)
        if len(done) < len(page):
            return


def _deleted(leftover: Discardable, delete: Callable[[Discardable], None]) -> bool:
    try:
        delete(leftover)
    except (Unreachable, OSError, *STORAGE_ERRORS) as error:
        log.warning("leftover_stays", name=leftover.name, reason=str(error))
        return False
    return True
