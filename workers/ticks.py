"""How long ticks take: noted here, and added to Postgres every few seconds for `/metrics`."""

import time
from bisect import bisect_left

import structlog

from service.store import engine
from service.store.ticks import UP_TO, Bucket, add_ticks
from workers.heartbeat import EVERY

log = structlog.get_logger()


class TickTimes:
    """Those that are not stored yet. What the last seconds before a death held is lost."""

    def __init__(self, db: engine.Database) -> None:
        self._db = db
        self._buckets: dict[float, Bucket] = {}
        self._store_at = 0.0

    def note(self, seconds: float) -> None:
        bucket = self._buckets.setdefault(UP_TO[bisect_left(UP_TO, seconds)], Bucket())
        bucket.count += 1
        bucket.seconds += seconds
        if time.monotonic() >= self._store_at:
            self.store()

    def store(self) -> None:
        """Add them to Postgres; where it is away they wait for the next time."""
        self._store_at = time.monotonic() + EVERY.total_seconds()
        try:
            add_ticks(self._db, self._buckets)
        except Exception as error:  # noqa: BLE001  numbers about the work must never stop it
            log.warning("ticks_unsaved", reason=(str(error).splitlines() or [repr(error)])[0])
        else:
            self._buckets = {}
