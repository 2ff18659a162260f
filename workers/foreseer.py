"""A thread of the scheduler that forecasts when jobs will be done, and is in nothing's way."""

import threading
import time
from collections.abc import Callable

import structlog

from config.settings import Settings
from service.store import engine
from service.store.foresee import look
from workers.process import log_trouble

log = structlog.get_logger()

OFTEN, SELDOM = 0.2, 5.0
"""The shortest and the longest usual pause between two looks, in seconds."""
SHARE = 20
"""A pause is at least so many times as long as the look before it took."""


class Foreseer:
    """Looks at what is under way every few ticks. Several may run: each does a share."""

    def __init__(self, settings: Settings, *, rests: Callable[[], bool] = lambda: False) -> None:
        self._rests = rests
        self._url = settings.database_url or ""
        usual = settings.tick_seconds.total_seconds() * 3
        self._pause = min(max(usual, OFTEN), SELDOM)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="foreseer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        # A connection of its own: a slow look must not keep one from the scheduler.
        db_engine = engine.create(self._url, pool_size=1)
        db = engine.database(db_engine)
        try:
            pause = self._pause
            while not self._stopped.wait(pause):
                if self._rests():
                    continue
                started = time.monotonic()
                try:
                    look(db)
                except Exception as error:  # noqa: BLE001  without forecasts all else goes on
                    log_trouble("forecasts_failed", error)
                pause = max(self._pause, SHARE * (time.monotonic() - started))
        finally:
            db_engine.dispose()
