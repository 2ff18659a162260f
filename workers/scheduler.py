"""The scheduler: a plain loop that tells the workers what is due. Run one, or several."""

import signal
import threading
import time
from contextlib import suppress
from datetime import timedelta

import structlog
from kombu.exceptions import OperationalError

from config.settings import Settings
from service.rules.admission import Capacity
from service.rules.crashpoints import CrashPoint, reached
from service.rules.states import Stage
from service.store import engine, heartbeats
from service.store.admit import admit
from service.store.due import Due, dispatch, outstanding
from service.store.spent import spent_files
from workers import chores
from workers.app import CONTROL
from workers.heartbeat import EVERY, Heartbeat
from workers.pipeline import WINDOWS, Window, message, messages
from workers.process import run
from workers.ticks import TickTimes

log = structlog.get_logger("workers.scheduler")  # the module itself is run as __main__

AHEAD = 3
"""How many times as many rows as worker slots may be on their way at once."""
SOON = 0.05
"""The least pause between two ticks, in seconds."""
FEW = 4
"""Slots to reckon with before the first worker has said how many it has."""


class Scheduler:
    """Each tick: stamp what is due, commit, publish, and stop publishing at the first failure."""

    def __init__(self, settings: Settings) -> None:
        settings.required("database_url", "redis_url")
        self._settings = settings
        self._db = engine.database(engine.create(settings.database_url or ""))
        self._stop = threading.Event()
        self._look_at = 0.0
        self._gather_at = 0.0

    def run(self) -> None:
        """Tick until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        heartbeat = Heartbeat(self._settings, "scheduler")
        heartbeat.start()
        log.info("scheduler_started", tick=self._settings.tick_seconds.total_seconds())
        tick = self._settings.tick_seconds.total_seconds()
        soon = min(tick, max(tick / 10, SOON))
        times = TickTimes(self._db)
        try:
            while not self._stop.is_set():
                started = time.monotonic()
                heartbeat.touch()
                sent = 0
                try:
                    sent = self.tick()
                except Exception as error:
                    if not engine.is_unavailable(error):
                        log.exception("tick_failed")
                    else:
                        log.warning("postgres_unavailable", reason=str(error).splitlines()[0])
                times.note(time.monotonic() - started)
                # Where there was work there is more: small tasks do not last for a tick.
                pause = soon if sent else tick
                self._stop.wait(max(0.0, pause - (time.monotonic() - started)))
        finally:
            heartbeat.stop()
            log.info("scheduler_stopped")

    def tick(self) -> int:
        """Send what is due; returns how many rows were sent."""
        within = max(EVERY * 3, self._settings.tick_seconds * 3)
        queues = {window.queue for window in WINDOWS}
        slots = {name: heartbeats.slots(self._db, name, within=within) or FEW for name in queues}
        due: list[Due] = []
        try:
            for window in WINDOWS:
                due += self._take(window, slots[window.queue] * AHEAD * window.page)
        finally:
            # What is stamped goes out, whatever became of the rest.
            if due:
                reached(CrashPoint.SCHEDULER_STAMPED)
            sent = self._publish(due)
        self._now_and_then()
        return sent

    def _now_and_then(self) -> None:
        """What is not looked for at every tick: batches under files that were given up, chores."""
        if time.monotonic() < self._look_at:
            return
        every = self._settings.probe_seconds
        self._look_at = time.monotonic() + every.total_seconds()
        for chore in chores.due(self._db, self._settings, every=every):
            with suppress(OperationalError):
                chore.apply_async()
        for account, file_ids in spent_files(self._db).items():
            with suppress(OperationalError):
                message("sweep", account, file_ids, queue=CONTROL, expires=every).apply_async()

    def _take(self, window: Window, size: int) -> list[Due]:
        """As many due rows as fit into the window beside those that are on their way."""
        if window.page > 1 and not self._is_time_to_gather():
            return []
        row, stages, again = window.row, window.stages, self._again
        room = size - outstanding(self._db, row, stages, again=again)
        due = dispatch(self._db, row, stages, limit=room, again=again)
        if Stage.UPLOAD in stages:
            # What was begun comes first; the room that is left goes to batches that wait.
            capacity = Capacity.of(self._settings)
            due += admit(self._db, room=room - len(due), capacity=capacity)
        return due

    def _is_time_to_gather(self) -> bool:
        """Rows that share a message are taken in gulps, ten to the shortest time between two polls.

        So they share one list of the account's batches, and one task.
        """
        if time.monotonic() < self._gather_at:
            return False
        self._gather_at = time.monotonic() + self._settings.poll_seconds.total_seconds() / 10
        return True

    @property
    def _again(self) -> timedelta:
        """When a message has expired, so that its rows may be sent again."""
        return self._settings.lease_seconds

    def _publish(self, due: list[Due]) -> int:
        sent = 0
        for nudge, ids in messages(due, self._again):
            try:
                nudge.apply_async()
            except OperationalError as error:
                # Redis is away. What is stamped comes again when its message would have expired.
                log.warning("redis_unavailable", reason=str(error), unsent=len(due) - sent)
                break
            sent += len(ids)
        if sent:
            log.debug("dispatched", rows=sent)
        return sent


if __name__ == "__main__":
    run(lambda settings: Scheduler(settings).run())
