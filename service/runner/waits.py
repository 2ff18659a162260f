"""Batches that go on waiting, to be written together."""

import time
from collections.abc import Callable
from datetime import timedelta

import structlog
from tenacity import Retrying, retry_if_exception, wait_random_exponential

from service.rules.crashpoints import CrashPoint, reached
from service.rules.work import BatchClaim, Wait
from service.store.engine import Database, is_unavailable
from service.store.wait import wait

log = structlog.get_logger()

MOST = 500
"""How many are written at once."""


def while_lasts(remaining: Callable[[], timedelta]) -> Retrying:
    """Tries again while Postgres is away, for as long as there is something of a lease left."""
    return Retrying(
        retry=retry_if_exception(is_unavailable),
        wait=wait_random_exponential(max=2),
        stop=lambda _: remaining() <= timedelta(0),
        reraise=True,
    )


class Waits:
    """Waits in hand. They are flushed long before the leases of their batches run out."""

    def __init__(self, db: Database, lease: timedelta) -> None:
        self._db = db
        self._lease = lease.total_seconds()
        self._rows: list[tuple[BatchClaim, Wait]] = []
        self._since = time.monotonic()

    def add(self, claim: BatchClaim, outcome: Wait) -> None:
        if not self._rows:
            self._since = time.monotonic()
        self._rows.append((claim, outcome))

    def flush_if_due(self) -> None:
        held = time.monotonic() - self._since
        if len(self._rows) >= MOST or (self._rows and held > self._lease / 8):
            self.flush()

    def flush(self) -> None:
        """Write them all. What was lost meanwhile is for whoever has it now."""
        rows, self._rows = self._rows, []
        if not rows:
            return
        try:
            for attempt in while_lasts(self._remaining):
                with attempt:
                    lost = wait(self._db, rows)
        except Exception as error:
            if is_unavailable(error):
                raise
            # What cannot be stored must not stop the page: its lease runs out and spends a try.
            log.exception("outcomes_not_stored", rows=len(rows))
            return
        if lost:
            log.warning("leases_lost", batches=sorted(map(str, lost)))
        log.debug("waiting", rows=len(rows) - len(lost))
        reached(CrashPoint.WORKER_APPLIED)

    def _remaining(self) -> timedelta:
        """At most half of a lease was gone when the first of them came into our hands."""
        return timedelta(seconds=self._since + self._lease / 2 - time.monotonic())
