"""The notifier: a loop that delivers notices from the outbox. One or several may run."""

import asyncio
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from typing import Any

import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from config.settings import Settings
from service.notices.content import body, content
from service.notices.results import UNAVAILABLE, Results, results_of
from service.notices.webhooks import DEADLINE, Gone, NotDelivered, Sender, tls_context
from service.payloads.blobs import Blobs
from service.rules.crashpoints import CrashPoint, reached
from service.rules.measures import NOTICES, REDIS_ERRORS
from service.rules.notices import FIRST_PAUSE, LONGEST_PAUSE
from service.rules.retry import backoff
from service.store import engine, notices
from service.store.notices import Sending
from service.store.permissions import reach
from workers.broker import celery_settings
from workers.process import Heartbeat, log_trouble, run

log = structlog.get_logger("workers.notifier")  # the module itself is run as __main__

SLOTS = 64
"""The most notices that one notifier sends at once."""
SHARE = SLOTS // 4
"""The most notices of one producer among them, so that its dead endpoints delay nobody else."""
PUBLISHERS = 4
"""Threads that publish to Redis."""
READERS = 16
"""Threads that read results."""
LEASE = DEADLINE * 4
"""The time after which another notifier may take a notice. No send takes that long."""
SOON = 0.05
"""The pause before the next claim if the last one found notices, in seconds."""


class Notifier:
    """Claims notices that are due, sends them, and notes the result of each."""

    def __init__(self, settings: Settings) -> None:
        settings.required("database_url", "redis_url")
        self._settings = settings
        self._connections = engine.create(settings.database_url or "", pool_size=4)
        self._db = engine.database(self._connections)
        self._heartbeat = Heartbeat(settings, "notifier")
        self._celery = _producer(settings)
        self._database_threads = ThreadPoolExecutor(4, "database")
        self._publishers = ThreadPoolExecutor(PUBLISHERS, "publisher")
        self._readers = ThreadPoolExecutor(READERS, "reader")
        self._sender = Sender(
            resolvers=ThreadPoolExecutor(SLOTS, "resolver"),
            tls=tls_context(),
        )
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Deliver until SIGTERM or SIGINT."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        self._heartbeat.start()
        log.info("notifier_started")
        try:
            await self.deliver(stop)
        finally:
            self._heartbeat.stop()
            self.close()
            log.info("notifier_stopped")

    async def deliver(self, stop: asyncio.Event) -> None:
        """Deliver until `stop`, then wait for the notices that are being sent."""
        while not stop.is_set():
            self._heartbeat.touch()
            if self._heartbeat.takes(len(self._under_way)):
                pause = await self._tick()
            else:
                pause = self._settings.tick_seconds.total_seconds()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause)
        await asyncio.gather(*self._under_way)

    def close(self) -> None:
        for threads in (
            self._database_threads,
            self._publishers,
            self._readers,
            self._sender.resolvers,
        ):
            threads.shutdown(wait=False)
        self._celery.close()
        self._connections.dispose()

    async def _tick(self) -> float:
        """Start to send notices that are due. Returns the seconds until the next claim."""
        tick = self._settings.tick_seconds.total_seconds()
        free = SLOTS - len(self._under_way)
        if free <= 0:
            return SOON
        try:
            found = await self._in_database(
                notices.claim, self._db, limit=free, share=SHARE, lease_for=LEASE
            )
        except Exception as error:  # noqa: BLE001  the loop goes on
            log_trouble("claim_failed", error)
            return tick
        for sending in found:
            task = asyncio.create_task(self._deliver(sending))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        return min(SOON, tick) if found else tick

    async def _deliver(self, sending: Sending) -> None:
        """Send one notice and note the result. Without a note it is due again after its lease."""
        with structlog.contextvars.bound_contextvars(
            job=str(sending.job.id), delivery=str(sending.id)
        ):
            try:
                trouble = await self._trouble(sending)
                reached(CrashPoint.NOTICE_SENT)
                await self._in_database(self._note, sending, trouble)
            except Exception as error:  # noqa: BLE001  the notice comes again with its lease
                log_trouble("delivery_failed", error)

    async def _trouble(self, sending: Sending) -> NotDelivered | None:
        """Send one notice. Returns why it was not delivered, or None."""
        try:
            results = await self._results(sending)
            if "webhook" in sending.target:
                url = sending.target["webhook"]
                private = reach(sending.private_webhooks, self._settings)
                await self._sender.send(
                    url, str(sending.id), body(sending, results), sending.secrets, private
                )
            else:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._publishers, self._publish, sending, results)
        except NotDelivered as error:
            return error
        except Exception as error:
            # Count it as a try, or this notice would come again at once, for ever.
            log.exception("notice_failed")
            return NotDelivered(f"{type(error).__name__}: {error}")
        return None

    async def _results(self, sending: Sending) -> Results | None:
        """Return the results that a notice is to carry, or why not; None if none were asked for."""
        if sending.segments is None:
            return None
        reading = asyncio.get_running_loop().run_in_executor(
            self._readers, results_of, sending, sending.segments, lambda: self._blobs
        )
        try:
            return await asyncio.wait_for(reading, DEADLINE.total_seconds())
        except TimeoutError:
            return UNAVAILABLE

    @cached_property
    def _blobs(self) -> Blobs:
        return Blobs(self._settings.blobs, create=False)

    def _publish(self, sending: Sending, results: Results | None) -> None:
        """Publish a Celery task to the producer's own queue. Raises NotDelivered."""
        try:
            self._celery.send_task(
                sending.target["task"],
                kwargs=content(sending, results),
                queue=sending.target["queue"],
                task_id=str(sending.id),
                ignore_result=True,
            )
        except OperationalError as error:
            REDIS_ERRORS.count("notifier")
            raise NotDelivered(f"Redis: {error}") from None

    def _note(self, sending: Sending, trouble: NotDelivered | None) -> None:
        NOTICES.count("delivered" if trouble is None else "failed")
        if trouble is None:
            kept = notices.delivered(self._db, sending)
            log.info("notice_delivered", event_sent=sending.event, noted=kept)
            return
        luck = random.random()  # noqa: S311  not for secrets
        pause = backoff(sending.tries, FIRST_PAUSE, luck, longest=LONGEST_PAUSE)
        kept = notices.failed(
            self._db,
            sending,
            str(trouble),
            pause=None if isinstance(trouble, Gone) else pause,
            retry_for=self._settings.notice_retry_seconds,
        )
        log.warning("notice_not_delivered", tries=sending.tries, reason=str(trouble), noted=kept)

    async def _in_database(self, call: Any, *arguments: Any, **named: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._database_threads, lambda: call(*arguments, **named))


def _producer(settings: Settings) -> Celery:
    """Return a Celery application that may send to queues that Haulier does not know."""
    app = Celery("haulier-notices", set_as_current=False)
    app.conf.update(
        **celery_settings(settings.redis_url or ""),
        task_create_missing_queues=True,
        result_backend=None,
        task_serializer="json",
    )
    return app


if __name__ == "__main__":
    run(lambda settings: asyncio.run(Notifier(settings).run()))
