"""A thread that stores what this process measures, for processes without a heartbeat of ours."""

import threading
from collections.abc import Callable
from datetime import timedelta

import structlog

from service.store import measures
from service.store.engine import Database, first_line

log = structlog.get_logger()

EVERY = timedelta(seconds=5)
"""The time between two stores. What was measured since the last one dies with a killed process."""


class Storing:
    """Stores every few seconds, and once more at its end."""

    def __init__(self, db: Callable[[], Database], *, every: timedelta = EVERY) -> None:
        self._db = db
        self._every = every.total_seconds()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="measures", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        ended = False
        while not ended:
            ended = self._stopped.wait(self._every)
            store(self._db)


def store(db: Callable[[], Database]) -> None:
    """Store, or keep it for the next time: metrics must never stop the work."""
    try:
        measures.store(db())
    except Exception as error:  # noqa: BLE001
        log.warning("measures_unsaved", reason=first_line(error))
