"""Collects the batches of a page that go on waiting, and writes them together."""

import time
from datetime import timedelta

import structlog

from service.rules.crashpoints import CrashPoint, reached
from service.rules.outcomes import Wait
from service.rules.work import BatchClaim
from service.runner.lease import while_lasts
from service.store.engine import Database, is_unavailable
from service.store.wait import wait

log = structlog.get_logger()

MOST = 500
"""The most waits that one statement writes."""


class Waits:
    """Waits that are not written yet. A flush comes long before the leases of their batches end."""

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
        """Write all waits. A batch whose lease was lost keeps what its new worker writes."""
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
            # Rows that cannot be stored must not stop the page. Their leases expire, which spends
            # a try of each.
            log.exception("outcomes_not_stored", rows=len(rows))
            return
        if lost:
            log.warning("leases_lost", batches=sorted(map(str, lost)))
        log.debug("waiting", rows=len(rows) - len(lost))
        reached(CrashPoint.WORKER_APPLIED)

    def _remaining(self) -> timedelta:
        """Return the time for retries: a lease has at least half its length when it is added."""
        return timedelta(seconds=self._since + self._lease / 2 - time.monotonic())
