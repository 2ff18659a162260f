"""The inbox: a loop that reads producers' submissions from the queue and stores them as jobs.

It is a kombu consumer, not a Celery task. It reads a page of messages, stores their jobs in one
transaction, and acknowledges the messages after the commit. While Postgres is down, it reads none.
"""

import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid5

import msgspec
import structlog
from kombu import Connection, Consumer, Queue

from config.settings import Settings
from service.payloads.blobs import STORAGE_ERRORS, Blobs
from service.payloads.bundles import BUNDLE_BYTES, BUNDLE_SPECS, take_in_together
from service.payloads.intake import Taken
from service.rules.crashpoints import CrashPoint, reached
from service.rules.errors import BadInput, IdTaken, Problem
from service.rules.spec import Spec, read_spec
from service.store import engine
from service.store.models import Producer
from service.store.permissions import newcomer, permissions_of
from service.store.producers import producers_named
from service.store.submit import NotStored, Submission, Submitted, submit_each
from workers.broker import SUBMIT, transport_options
from workers.messages import (
    body_of,
    bound_unpacking,
    check_signature,
    check_size,
    job_id_of,
    needs_proof,
    producer_of,
    spec_of,
    stray_id_of,
    task_id_of,
)
from workers.process import Heartbeat, log_trouble, run

log = structlog.get_logger("workers.inbox")  # the module itself is run as __main__

PAUSE = 1.0
"""Seconds to wait after a failure of the broker or the database."""
REDELIVERY = 60
"""Seconds after which kombu delivers a dead inbox's messages again."""


class Inbox:
    """Stores a page of messages at a time, and each alone if one spoils the page."""

    def __init__(self, settings: Settings) -> None:
        settings.required("database_url", "redis_url")
        bound_unpacking()
        self._settings = settings
        self._db = engine.database(engine.create(settings.database_url or ""))
        self._blobs = Blobs(settings.blobs)
        self._page: list[Any] = []
        self._page_bytes = 0
        self._heartbeat = Heartbeat(settings, "inbox")
        self._stop = threading.Event()

    def run(self) -> None:
        """Read until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        self._heartbeat.start()
        log.info("inbox_started", queue=SUBMIT)
        try:
            while not self._stop.is_set():
                self._consume()
        finally:
            self._heartbeat.stop()
            log.info("inbox_stopped")

    def _consume(self) -> None:
        """Read pages until an error. Messages that are not acknowledged are delivered again."""
        self._heartbeat.touch()
        self._turn_page()
        options = {**transport_options(), "visibility_timeout": REDELIVERY}
        try:
            with (
                Connection(self._settings.redis_url, transport_options=options) as connection,
                Consumer(
                    connection,
                    [Queue(SUBMIT)],
                    on_message=self._take,
                    # A message that cannot be unpacked goes the usual way and is rejected there.
                    on_decode_error=lambda message, _error: self._take(message),
                    prefetch_count=BUNDLE_SPECS,
                    accept=None,
                ),
            ):
                while not self._stop.is_set():
                    self._heartbeat.touch()
                    self._read_page(connection)
                    if self._page:
                        self.store(self._page)
                        self._turn_page()
        except connection_errors() as error:
            log.warning("redis_unavailable", reason=str(error))
            self._stop.wait(PAUSE)
        except Exception as error:  # noqa: BLE001  the loop goes on
            log_trouble("inbox_failed", error)
            self._stop.wait(PAUSE)

    def _read_page(self, connection: Any) -> None:
        """Wait for a message, then take the others that are there, up to a page."""
        timeout = 1.0
        while len(self._page) < BUNDLE_SPECS and self._page_bytes < BUNDLE_BYTES:
            try:
                connection.drain_events(timeout=timeout)
            except TimeoutError:
                return
            timeout = 0.01

    def _take(self, message: Any) -> None:
        self._page.append(message)
        self._page_bytes += len(body_of(message))

    def _turn_page(self) -> None:
        self._page.clear()
        self._page_bytes = 0

    def store(self, page: list[Any]) -> None:
        """Store a page in one transaction, or each message in its own if that fails."""
        try:
            self._store_together(page)
        except Exception as error:
            if _will_pass(error):
                raise
            log.exception("page_failed", messages=len(page))
            for message in page:
                self._store_alone(message)

    def _store_alone(self, message: Any) -> None:
        try:
            self._store_together([message])
        except Exception as error:
            if _will_pass(error):
                raise
            if engine.is_contended(error):
                # Without an acknowledgement the message is delivered again.
                log.warning("message_waits", reason="another transaction holds its key")
                return
            log.exception("message_failed")
            bare = self._bare(message)
            words = f"the submission could not be stored ({type(error).__name__})"
            self._submitted([_refused(bare, words)])
            message.ack()

    def _bare(self, message: Any) -> Submission:
        """Return a submission without a spec: the message's producer and job, if readable."""
        try:
            (read,) = self._read([message])
        except Exception as error:
            if _will_pass(error):
                raise
            stray = stray_id_of(message, job_id_of(task_id_of(message)))
            return Submission(id=stray, producer="default", spec=Spec(endpoint=""))
        return replace(read, spec=Spec(endpoint=""))

    def _store_together(self, page: list[Any]) -> None:
        """Store messages in one transaction, and acknowledge them after the commit."""
        # A page may hold a message twice, if it was delivered again.
        unique = list({(read.producer, read.id): read for read in self._read(page)}.values())
        stored = list(self._stored(self._taken_in(unique)))
        reached(CrashPoint.INBOX_STORED)
        for message in page:
            message.ack()
        for submission, done in stored:
            with structlog.contextvars.bound_contextvars(job=str(done.id)):
                if not done.new:
                    log.info("submission_known", asked_as=str(submission.id))
                elif submission.bad is not None:
                    log.warning("submission_rejected", problems=len(submission.bad.problems))
                else:
                    log.info("submission_accepted")

    def _read(self, page: list[Any]) -> list[Submission]:
        """Return messages as submissions. One that cannot be read becomes a rejected one."""
        known = producers_named(self._db, {producer_of(message) for message in page})
        return [
            self._read_as(known.get(name) or newcomer(name), message)
            for name, message in ((producer_of(message), message) for message in page)
        ]

    def _read_as(self, producer: Producer, message: Any) -> Submission:
        job_id = job_id_of(task_id_of(message))
        proven = not needs_proof(message, always=self._settings.queue_signed)
        try:
            data = spec_of(message)
            if not proven:
                check_signature(message, data, producer)
                proven = True
            check_size(data, producer)
            spec = read_spec(data, permissions_of(producer, self._settings))
            return Submission(id=job_id, producer=producer.name, spec=spec)
        except BadInput as error:
            # A message without proof must not count against the producer that it names.
            return Submission(
                id=job_id if proven else stray_id_of(message, job_id),
                producer=producer.name if proven else "default",
                spec=Spec(endpoint=""),
                bad=error,
            )

    def _taken_in(self, read: list[Submission]) -> list[Submission]:
        """Write the requests to blob storage. Returns submissions with their blobs or problems."""
        good = [(submission.id, submission.spec) for submission in read if submission.bad is None]
        found = iter(take_in_together(good, self._blobs, self._settings))
        return [one if one.bad is not None else _with(one, next(found)) for one in read]

    def _stored(self, submissions: list[Submission]) -> Iterator[tuple[Submission, Submitted]]:
        """Store submissions. Yields each with its job.

        A submission whose idempotency key is used for another job, or that is over a limit of its
        producer, becomes a rejected job without the key.
        """
        for submission, found in self._submitted(submissions):
            if isinstance(found, Submitted):
                yield submission, found
            else:
                yield from self._stored([_refused(submission, str(found))])

    def _submitted(
        self, submissions: list[Submission]
    ) -> list[tuple[Submission, Submitted | NotStored]]:
        """Store submissions, under another id if theirs is taken. Returns each with the result."""
        if not submissions:
            return []
        # Of two submissions with one id, the second must find the job of the first.
        of_id = {s.id: s for s in submissions}
        later = [s for s in submissions if s is not of_id[s.id]]
        first = list(of_id.values())
        found = list(zip(first, submit_each(self._db, first), strict=True))
        # The names of blobs begin with the job's id, so a new id needs new blobs.
        renamed = self._taken_in([_renamed(s) for s, done in found if isinstance(done, IdTaken)])
        settled = [(s, done) for s, done in found if not isinstance(done, IdTaken)]
        return settled + self._submitted(later + renamed)


def _with(submission: Submission, found: Taken | BadInput | None) -> Submission:
    if isinstance(found, BadInput):
        return replace(submission, bad=found)
    return replace(submission, taken=found)


def _renamed(submission: Submission) -> Submission:
    """Return the submission under another id, the same each time, since its own is taken."""
    return replace(submission, id=uuid5(submission.id, submission.producer), taken=None)


def _refused(submission: Submission, reason: str) -> Submission:
    keyless = msgspec.structs.replace(submission.spec, idempotency_key=None)
    bad = BadInput([Problem(reason)])
    return replace(submission, spec=keyless, taken=None, bad=bad)


def connection_errors() -> tuple[type[BaseException], ...]:
    """Return the errors that kombu raises when Redis is away."""
    transport = Connection("redis://")
    errors: set[type[BaseException]] = {*transport.connection_errors, *transport.channel_errors}
    return tuple(errors - {KeyError})  # kombu lists KeyError too, which would hide bugs


def _will_pass(error: Exception) -> bool:
    """Return whether the database, broker or storage is to blame, not a message."""
    outside: tuple[type[BaseException], ...] = (OSError, *STORAGE_ERRORS, *connection_errors())
    away = engine.is_unavailable(error) and not engine.is_contended(error)
    return away or isinstance(error, outside)


if __name__ == "__main__":
    run(lambda settings: Inbox(settings).run())
