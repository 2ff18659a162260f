"""Prunes old finished jobs: first their rows, then their blobs and their files at Together.

The transaction that deletes the rows also notes the blobs and files as leftovers, so a crash in
between loses none of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import structlog

from service.payloads.blobs import STORAGE_ERRORS, Blobs
from service.rules.crashpoints import CrashPoint, reached
from service.rules.errors import Refused, Unreachable
from service.store import leftovers
from service.store.engine import Database
from service.store.leftovers import Discardable
from service.store.prune import prune_jobs
from service.together.client import Together
from service.upkeep.bounds import PAGE, time_is_up

log = structlog.get_logger()


@dataclass(frozen=True)
class Terms:
    """For how long a page is claimed, the first pause after a failure, and when to stop."""

    claim_for: timedelta
    retry: timedelta
    stopping: Callable[[], bool] = lambda: False


def prune(
    db: Database,
    older_than: timedelta,
    *,
    calls: bool = False,
    stopping: Callable[[], bool] = lambda: False,
) -> int:
    """Delete the rows of jobs, or of calls, that ended longer ago than that. Returns how many."""
    over = time_is_up(stopping)
    pruned = 0
    while not over() and (page := prune_jobs(db, older_than=older_than, limit=PAGE, calls=calls)):
        reached(CrashPoint.PRUNE_FORGOTTEN)
        pruned += page
    if pruned:
        log.info("jobs_forgotten", jobs=pruned, calls=calls)
    return pruned


def discard_blobs(db: Database, blobs: Blobs, terms: Terms) -> None:
    """Delete blobs that pruned jobs left, for as long as a task may work on this."""

    def delete(leftover: Discardable) -> None:
        blobs.delete_under(leftover.name, leftover.written_before)

    _discard(db, None, delete, terms)


def discard_files(db: Database, account: str, together: Together, terms: Terms) -> None:
    """Delete files that pruned jobs left at an account, for as long as a task may work on this."""

    def delete(leftover: Discardable) -> None:
        try:
            together.delete_file(leftover.name)
        except Refused as error:
            # Together would refuse again, and nobody needs the file. So it counts as deleted.
            log.warning("leftover_refused", name=leftover.name, reason=str(error))

    _discard(db, account, delete, terms)


def _discard(
    db: Database,
    account: str | None,
    delete: Callable[[Discardable], None],
    terms: Terms,
) -> None:
    """Delete leftovers until none is due, the time is over, or a deletion fails.

    A failure most likely concerns all leftovers. Those that were claimed and not deleted are due
    again after `claim_for`. To delete one twice does no harm.
    """
    over = time_is_up(terms.stopping)
    while page := leftovers.claim(db, account, limit=PAGE, claim_for=terms.claim_for):
        done: list[int] = []
        trouble: Discardable | None = None
        for leftover in page:
            if over():
                break
            if not _deleted(leftover, delete):
                trouble = leftover
                break
            reached(CrashPoint.DISCARD_DELETED)
            done.append(leftover.id)
        leftovers.remove(db, done)
        if trouble is not None:
            leftovers.postpone(db, trouble, retry_base=terms.retry)
        if len(done) < len(page):
            return


def _deleted(leftover: Discardable, delete: Callable[[Discardable], None]) -> bool:
    try:
        delete(leftover)
    except (Unreachable, OSError, *STORAGE_ERRORS) as error:
        log.warning("leftover_stays", name=leftover.name, reason=str(error))
        return False
    return True
