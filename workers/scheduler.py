"""The scheduler: a loop that sends the workers what is due. One or several may run."""

import signal
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import structlog
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from config.settings import Settings
from service.rules.admission import Capacity
from service.rules.crashpoints import CrashPoint, reached
from service.rules.measures import REDIS_ERRORS
from service.rules.packing import Limits
from service.rules.states import Stage
from service.store import deadlines, engine, expiry, heartbeats, leftovers
from service.store.admit import Admission
from service.store.chores import begin
from service.store.due import Due, dispatch
from service.store.ticks import UP_TO, Bucket, add_ticks
from service.upkeep.sweep import DAY
from workers.app import CONTROL, TRANSFER
from workers.broker import connect, depths
from workers.foreseer import Foreseer
from workers.pipeline import WINDOWS, Window, message, messages
from workers.process import EVERY, Heartbeat, first_line, log_trouble, run

log = structlog.get_logger("workers.scheduler")  # the module itself is run as __main__

AHEAD = 3
"""The most messages of a window under way at once, for each worker slot."""
SOON = 0.05
"""The shortest pause between two ticks, in seconds."""
FEW = 4
"""The number of slots to assume until a worker's heartbeat tells it."""


_BY_QUEUE: dict[str, list[Window]] = {}
for _window in WINDOWS:
    _BY_QUEUE.setdefault(_window.queue, []).append(_window)


class Scheduler:
    """Stamps rows that are due, commits, then publishes their messages, once each tick."""

    def __init__(self, settings: Settings) -> None:
        settings.required("database_url", "redis_url")
        self._settings = settings
        self._db = engine.database(engine.create(settings.database_url or ""))
        self._stop = threading.Event()
        self._redis = connect(settings.redis_url or "")
        self._admission = Admission()
        self._look_at = 0.0
        self._gather_at = 0.0

    def run(self) -> None:
        """Tick until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        heartbeat = Heartbeat(self._settings, "scheduler")
        heartbeat.start()
        foreseer = Foreseer(self._settings, rests=lambda: heartbeat.is_draining)
        foreseer.start()
        log.info("scheduler_started", tick=self._settings.tick_seconds.total_seconds())
        tick = self._settings.tick_seconds.total_seconds()
        soon = min(tick, max(tick / 10, SOON))
        times = TickTimes(self._db)
        try:
            while not self._stop.is_set():
                started = time.monotonic()
                heartbeat.touch()
                if not heartbeat.takes():
                    self._stop.wait(tick)
                    continue
                sent = 0
                try:
                    sent = self.tick()
                except RedisError as error:
                    REDIS_ERRORS.count("scheduler")
                    log.warning("redis_unavailable", reason=str(error))
                except Exception as error:  # noqa: BLE001  the loop goes on
                    log_trouble("tick_failed", error)
                times.note(time.monotonic() - started)
                # After work there is mostly more, since small tasks end before the next tick.
                pause = soon if sent else tick
                self._stop.wait(max(0.0, pause - (time.monotonic() - started)))
        finally:
            foreseer.stop()
            heartbeat.stop()
            log.info("scheduler_stopped")

    def tick(self) -> int:
        """Send what is due. Returns the number of rows sent."""
        slots = self._slots()
        held = depths(self._redis, slots)
        room = {queue: slots[queue] * AHEAD - held[queue] for queue in slots}
        due: list[Due] = []
        try:
            for queue, windows in _BY_QUEUE.items():
                for number, window in enumerate(windows):
                    # What one window leaves is there for the next, but never all for the first.
                    share = -(-room[queue] // (len(windows) - number))
                    taken = self._take(window, share, slots[queue])
                    room[queue] -= -(-len(taken) // window.page)
                    due += taken
        finally:
            # Rows that are stamped are sent even if an error stopped the loop.
            if due:
                reached(CrashPoint.SCHEDULER_STAMPED)
            sent = self._publish(due)
        if all(held[queue] < slots[queue] * AHEAD for queue in slots):
            self._now_and_then()
        # Last, so that nothing else waits for it.
        deadlines.look(self._db)
        return sent

    def _slots(self) -> dict[str, int]:
        """Return how many tasks of each queue the workers run at a time."""
        within = max(EVERY * 3, self._settings.tick_seconds * 3)
        return {
            queue: heartbeats.slots(self._db, queue, within=within) or FEW for queue in _BY_QUEUE
        }

    def _now_and_then(self) -> None:
        """Send the chores, less often than at every tick."""
        if time.monotonic() < self._look_at:
            return
        every = self._settings.probe_seconds
        self._look_at = time.monotonic() + every.total_seconds()
        for chore in self._chores(every):
            # A message that could not be sent is sent the next time.
            with suppress(OperationalError):
                chore.apply_async()

    def _chores(self, every: timedelta) -> Iterator[Any]:
        """Yield messages for the chores that are due. Only the first scheduler to ask gets them."""
        if begin(self._db, "prune", every=every):
            yield message("prune", queue=CONTROL)
        if begin(self._db, "discard", every=every):
            for account in leftovers.owners(self._db, self._settings.account_names):
                queue = TRANSFER if account is None else CONTROL
                yield message("discard", account, queue=queue)
        if begin(self._db, "expire_files", every=every) and expiry.are_due(
            self._db, after=timedelta(days=self._settings.file_days)
        ):
            yield message("expire_files", queue=TRANSFER)
        if begin(self._db, "sweep_blobs", every=DAY):
            yield message("sweep_blobs", queue=TRANSFER)
        for account in leftovers.accounts_with_spent_files(self._db):
            yield message("sweep", account, queue=CONTROL)

    def _take(self, window: Window, messages: int, slots: int) -> list[Due]:
        """Stamp and return due rows, as many as fit into so many messages."""
        if messages <= 0 or (window.gathers and not self._is_time_to_gather()):
            return []
        # A page at a time: many rows take a while to stamp.
        limit = window.page if window.page > 1 else messages
        due = dispatch(
            self._db,
            window.row,
            window.stages,
            limit=limit,
            again=self._again,
            # What is read may be huge: it never takes more than half of the slots.
            most_reads=max(1, slots // 2),
        )
        if Stage.UPLOAD in window.stages:
            # Batches that were admitted before come first, then new ones fill the window.
            due += self._admission.admit(
                self._db,
                limit=limit - len(due),
                capacity=Capacity.of(self._settings),
                limits=Limits.of(self._settings),
                rest=self._settings.rest_seconds,
                prices=self._settings.prices,
            )
        if window.gathers and len(due) == limit:
            self._gather_at = 0.0
        return due

    def _is_time_to_gather(self) -> bool:
        """Return whether to send rows of stages with pages: ten times per `poll_seconds`.

        Rows that are due at nearly the same time then share a message, a task, and one list of the
        account's batches.
        """
        if time.monotonic() < self._gather_at:
            return False
        self._gather_at = time.monotonic() + self._settings.poll_seconds.total_seconds() / 10
        return True

    @property
    def _again(self) -> timedelta:
        """The time after which a row that nobody took may be sent again."""
        return self._settings.lease_seconds

    def _publish(self, due: list[Due]) -> int:
        sent = 0
        for nudge, ids in messages(due):
            try:
                nudge.apply_async()
            except OperationalError as error:
                # Redis is away. The rest is sent again after a while.
                REDIS_ERRORS.count("scheduler")
                log.warning("redis_unavailable", reason=str(error), unsent=len(due) - sent)
                break
            sent += len(ids)
        if sent:
            log.debug("dispatched", rows=sent)
        return sent


class TickTimes:
    """Counts how long ticks took, and adds that to Postgres every few seconds, for `/metrics`.

    The counts of the last few seconds are lost when the process ends.
    """

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
        """Add the counts to Postgres, or keep them for the next time if that fails."""
        self._store_at = time.monotonic() + EVERY.total_seconds()
        try:
            add_ticks(self._db, self._buckets)
        except Exception as error:  # noqa: BLE001  metrics must never stop the work
            log.warning("ticks_unsaved", reason=first_line(error))
        else:
            self._buckets = {}


if __name__ == "__main__":
    run(lambda settings: Scheduler(settings).run())
