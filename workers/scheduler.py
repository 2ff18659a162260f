"""The scheduler: a plain loop that tells the workers what is due. Run one, or several."""

import signal
import threading
import time
from contextlib import suppress
from datetime import timedelta

import structlog
from kombu.exceptions import OperationalError

from config.settings import Settings
from service.admission import Limits
from service.crashpoints import CrashPoint, reached
from service.models import Batch, Job
from service.states import Stage
from service.store import engine, heartbeats
from service.store.admit import admit
from service.store.due import Due, dispatch, outstanding
from service.store.spent import spent_files
from workers import chores
from workers.app import CONTROL, TRANSFER
from workers.heartbeat import EVERY, Heartbeat
from workers.pipeline import PAGE, messages, sweep
from workers.process import run
from workers.ticks import TickTimes

log = structlog.get_logger("workers.scheduler")  # the module itself is run as __main__

AHEAD = 3
"""How many times as many rows as worker slots may be on their way at once."""
SOON = 0.05
"""The least pause between two ticks, in seconds."""
FEW = 4
"""Slots to reckon with before the first worker has said how many it has."""

JOBS = frozenset({Stage.SPLIT, Stage.ASSEMBLE})
TRANSFERS = frozenset({Stage.UPLOAD, Stage.FETCH})
CREATES = frozenset({Stage.CREATE})
POLLS = frozenset({Stage.POLL})


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
        transfer = heartbeats.slots(self._db, TRANSFER, within=within) or FEW
        control = heartbeats.slots(self._db, CONTROL, within=within) or FEW
        due: list[Due] = []
        try:
            due += self._take(Job, JOBS, transfer * AHEAD)
            due += self._take_transfers(transfer * AHEAD)
            due += self._take(Batch, CREATES, control * AHEAD)
            due += self._gather(control * AHEAD * PAGE)
        finally:
            # What is stamped goes out, whatever became of the rest.
            if due:
                reached(CrashPoint.SCHEDULER_STAMPED)
            sent = self._publish(due)
        self._now_and_then()
        return sent

    def _gather(self, window: int) -> list[Due]:
        """Due polls, taken in gulps: what is due within a tenth of the shortest time between two
        looks shares one list of the account's batches, and one task."""
        if time.monotonic() < self._gather_at:
            return []
        self._gather_at = time.monotonic() + self._settings.poll_seconds.total_seconds() / 10
        return self._take(Batch, POLLS, window)

    def _now_and_then(self) -> None:
        """What is not looked for at every tick: batches under files that were given up, chores."""
        if time.monotonic() < self._look_at:
            return
        every = self._settings.probe_seconds
        self._look_at = time.monotonic() + every.total_seconds()
        for message in chores.due(self._db, self._settings, every=every):
            with suppress(OperationalError):
                message.apply_async()
        for account, file_ids in spent_files(self._db).items():
            with suppress(OperationalError):
                sweep(account, file_ids, expires=every).apply_async()

    def _take(self, row: type[Job | Batch], stages: frozenset[Stage], window: int) -> list[Due]:
        """As many rows as fit into the window beside those that are under way."""
        again = self._again
        room = window - outstanding(self._db, row, stages, again=again)
        return dispatch(self._db, row, stages, limit=room, again=again)

    def _take_transfers(self, window: int) -> list[Due]:
        """What was begun comes first; what room is left goes to batches that wait to be let in."""
        again = self._again
        room = window - outstanding(self._db, Batch, TRANSFERS, again=again)
        begun = dispatch(self._db, Batch, TRANSFERS, limit=room, again=again)
        limits = Limits.of(self._settings)
        return [*begun, *admit(self._db, room=room - len(begun), limits=limits)]

    @property
    def _again(self) -> timedelta:
        """When a message has expired, so that its rows may be sent again."""
        return self._settings.lease_seconds

    def _publish(self, due: list[Due]) -> int:
        sent = 0
        for message, ids in messages(due, self._again):
            try:
                message.apply_async()
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
