"""Saying that a process lives, while it does."""

import os
import socket
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import uuid4

import structlog

from config.settings import Settings
from service.store import engine, heartbeats

log = structlog.get_logger()

EVERY = timedelta(seconds=5)


class Heartbeat:
    """A thread that writes a row every few seconds and removes it at a clean end.

    The file for health checks is touched by `touch`, from a loop that would notice if it hung; a
    worker has no such loop, its thread touches it (`slots` above 0).
    """

    def __init__(
        self, settings: Settings, kind: str, *, queues: Sequence[str] = (), slots: int = 0
    ) -> None:
        self._url = settings.database_url or ""
        self._file = settings.heartbeat_file
        self._kind = kind
        self._queues = list(queues)
        self._slots = slots
        host, pid = socket.gethostname(), os.getpid()
        self.name = f"{kind}@{host}:{pid}:{uuid4().hex[:6]}"
        self._host, self._pid = host, pid
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def touch(self) -> None:
        """Say to a health check that the loop goes round."""
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
                self._guarded(
                    lambda: heartbeats.beat(
                        db,
                        name=self.name,
                        kind=self._kind,
                        host=self._host,
                        pid=self._pid,
                        queues=self._queues,
                        slots=self._slots,
                    )
                )
                self._stopped.wait(EVERY.total_seconds())
            self._guarded(lambda: heartbeats.gone(db, self.name))
        finally:
            db_engine.dispose()

    def _guarded(self, beat: Callable[[], None]) -> None:
        try:
            beat()
        except Exception as error:
            if not engine.is_unavailable(error):
                raise
            log.warning("heartbeat_missed", reason=str(error).splitlines()[0])
