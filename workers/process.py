"""Shared parts of every process here: its start, its heartbeat, its log lines about trouble."""

import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import uuid4

import structlog

from config.logging import configure
from config.settings import Settings, SettingsError, settings
from service.rules.measures import STARTS
from service.runner.runner import scratch_of
from service.store import engine, heartbeats
from service.store.revisions import is_too_new
from service.upkeep import measuring

log = structlog.get_logger()

EVERY = timedelta(seconds=5)
"""The time between two heartbeats."""
EVERY_DRAINING = timedelta(seconds=1)
"""The same of a process that takes nothing new: whoever drains it waits for its last word."""


def run(main: Callable[[Settings], None]) -> None:
    """Run a process's main function. A bad setting ends it with status 2 and a message."""
    try:
        configure(settings())
        main(settings())
    except SettingsError as error:
        sys.stderr.write(f"haulier: {error}\n")
        raise SystemExit(2) from None


def log_trouble(event: str, error: Exception) -> None:
    """Log an error after which a loop goes on: in one line if Postgres is away, else in full."""
    if engine.is_unavailable(error):
        log.warning("postgres_unavailable", reason=first_line(error))
    else:
        log.error(event, exc_info=error)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message. Messages of Postgres have several lines."""
    return (str(error).splitlines() or [repr(error)])[0]


class Every:
    """Says once in so many seconds that it is time: at once at first."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last = -float("inf")

    def due(self) -> bool:
        now = time.monotonic()
        if now - self._last < self.seconds:
            return False
        self._last = now
        return True


class Heartbeat:
    """A thread that updates the process's row every few seconds and deletes it at a clean end.

    A loop calls `touch` in each round, so that the file for health checks gets old if the loop
    hangs. A Celery worker (`slots` above 0) has no loop of ours, so the thread touches the file.

    The row also says whether an operator wants the process to be drained. A loop asks `takes`
    before each round. A Celery worker is told by `on_drain`, and asked by `under_way`.
    """

    def __init__(
        self,
        settings: Settings,
        kind: str,
        *,
        queues: Sequence[str] = (),
        slots: int = 0,
        on_drain: Callable[[bool], None] = lambda _: None,
        under_way: Callable[[], int] | None = None,
    ) -> None:
        STARTS.count(kind)
        self._scratch = scratch_of(settings) if slots else None
        self._url = settings.database_url or ""
        self._file = settings.heartbeat_file
        self._kind = kind
        self._queues = list(queues)
        self._slots = slots
        host, pid = socket.gethostname(), os.getpid()
        self.name = f"{kind}@{host}:{pid}:{uuid4().hex[:6]}"
        self._host, self._pid = host, pid
        self._draining_since: datetime | None = None
        self._on_drain = on_drain
        self._under_way = under_way
        self._is_idle = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    @property
    def is_draining(self) -> bool:
        """Whether the process is to take nothing new."""
        return self._draining_since is not None

    def takes(self, under_way: int = 0) -> bool:
        """Return whether a loop may take something new. `under_way` is what it still holds."""
        self._is_idle = self.is_draining and not under_way
        return not self.is_draining

    def start(self) -> None:
        self._thread.start()

    def touch(self) -> None:
        """Touch the file for health checks, if the settings name one."""
        if self._file is not None:
            self._file.touch()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        db_engine = engine.create(self._url)
        db = engine.database(db_engine)
        try:
            while not self._stopped.is_set():
                if self._slots:
                    self.touch()
                self._guarded(lambda: self._refuse_newer_schema(db))
                self._guarded(lambda: self._beat(db))
                measuring.store(lambda: db)
                every = EVERY_DRAINING if self.is_draining else EVERY
                self._stopped.wait(every.total_seconds())
            self._guarded(lambda: heartbeats.gone(db, self.name))
            measuring.store(lambda: db)
        finally:
            db_engine.dispose()

    def _beat(self, db: engine.Database) -> None:
        if self._under_way is not None:
            self._is_idle = self.is_draining and not self._under_way()
        was_draining = self.is_draining
        self._draining_since = heartbeats.beat(
            db,
            name=self.name,
            kind=self._kind,
            host=self._host,
            pid=self._pid,
            queues=self._queues,
            slots=self._slots,
            scratch_free=self._scratch_free(),
            draining_since=self._draining_since,
            is_idle=self._is_idle,
        )
        if self.is_draining != was_draining:
            # From here on it may have taken something again.
            self._is_idle = False
            log.info("process_draining" if self.is_draining else "process_takes_again")
            self._on_drain(self.is_draining)

    def _scratch_free(self) -> int | None:
        """Return the free bytes of the scratch space, which the first download makes."""
        if self._scratch is None or not self._scratch.exists():
            return None
        return shutil.disk_usage(self._scratch).free

    def _refuse_newer_schema(self, db: engine.Database) -> None:
        """End the process if the database was migrated past what its code may work on."""
        if is_too_new(db):
            log.critical("schema_too_new", action="start this process again with the new version")
            os.kill(os.getpid(), signal.SIGTERM)
            self._stopped.set()

    def _guarded(self, beat: Callable[[], None]) -> None:
        try:
            beat()
        except Exception as error:  # noqa: BLE001  the thread must go on, or the process looks dead
            log.warning("heartbeat_missed", reason=first_line(error))
