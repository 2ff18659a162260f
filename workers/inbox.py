"""The inbox: reads producers' submissions from the queue and stores them as jobs.

A consumer of its own, not a task: a message is acknowledged after its job is committed, a page
of them at a time. While Postgres is down nothing is consumed.
"""

import signal
import threading
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import msgspec
import structlog
from kombu import Connection, Consumer, Queue

from config.settings import Settings
from service.blobs import Blobs
from service.crashpoints import CrashPoint, reached
from service.errors import BadInput, Conflict, Problem
from service.intake import take_in
from service.spec import Rules, Spec, read_spec
from service.store import engine
from service.store.submit import Submission, Submitted, submit
from workers.app import SUBMIT, transport_options
from workers.heartbeat import Heartbeat
from workers.process import run

log = structlog.get_logger("workers.inbox")  # the module itself is run as __main__

PAGE = 100
PAUSE = 1.0
"""Seconds to wait before asking a broken broker or database again."""
REDELIVERY = 60
"""Seconds after which Redis hands out again what a dead inbox held."""


class Inbox:
    def __init__(self, settings: Settings) -> None:
        settings.required("database_url", "redis_url")
        self._settings = settings
        self._db = engine.database(engine.create(settings.database_url or ""))
        self._blobs = Blobs(settings.blobs)
        self._rules = Rules(accounts=settings.account_names, input_roots=settings.input_roots)
        self._page: list[Any] = []
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
        """Read pages until something breaks; what was not acknowledged comes again."""
        self._heartbeat.touch()
        self._page.clear()
        options = {**transport_options(), "visibility_timeout": REDELIVERY}
        try:
            with (
                Connection(self._settings.redis_url, transport_options=options) as connection,
                Consumer(
                    connection,
                    [Queue(SUBMIT)],
                    on_message=self._page.append,
                    prefetch_count=PAGE,
                    accept=None,
                ),
            ):
                while not self._stop.is_set():
                    self._heartbeat.touch()
                    self._read_page(connection)
                    if self._page:
                        self.store(self._page)
                        self._page.clear()
        except connection_errors() as error:
            log.warning("redis_unavailable", reason=str(error))
            self._stop.wait(PAUSE)
        except Exception as error:
            if not engine.is_unavailable(error):
                log.exception("inbox_failed")
            else:
                log.warning("postgres_unavailable", reason=str(error).splitlines()[0])
            self._stop.wait(PAUSE)

    def _read_page(self, connection: Any) -> None:
        """Wait for a message, then take what else is there."""
        timeout = 1.0
        while len(self._page) < PAGE:
            try:
                connection.drain_events(timeout=timeout)
            except TimeoutError:
                return
            timeout = 0.01

    def store(self, page: list[Any]) -> None:
        """Store a page in one transaction and acknowledge it after the commit."""
        submissions = [self._read(message) for message in page]
        # A redelivered message may stand beside itself.
        unique = list({submission.id: submission for submission in submissions}.values())
        try:
            stored = submit(self._db, unique)
        except Conflict:
            stored = [self._store_one(submission) for submission in unique]
        reached(CrashPoint.INBOX_STORED)
        for message in page:
            message.ack()
        for submission, done in zip(unique, stored, strict=True):
            with structlog.contextvars.bound_contextvars(job=str(done.id)):
                if not done.new:
                    log.info("submission_known", asked_as=str(submission.id))
                elif submission.bad is not None:
                    log.warning("submission_rejected", problems=len(submission.bad.problems))
                else:
                    log.info("submission_accepted")

    def _store_one(self, submission: Submission) -> Submitted:
        """A page in which one key was used for two things: each for itself."""
        try:
            return submit(self._db, [submission])[0]
        except Conflict as error:
            refused = msgspec.structs.replace(submission.spec, idempotency_key=None)
            return submit(
                self._db,
                [
                    Submission(
                        id=submission.id,
                        producer=submission.producer,
                        spec=refused,
                        bad=BadInput([Problem(str(error))]),
                    )
                ],
            )[0]

    def _read(self, message: Any) -> Submission:
        """A message as a submission; whatever cannot be read becomes a rejected one."""
        headers = message.headers or {}
        job_id = job_id_of(headers.get("id") or message.properties.get("correlation_id"))
        producer = str(headers.get("haulier-producer") or "default").replace("\x00", "")[:255]
        spec = Spec(endpoint="")
        try:
            spec = read_spec(_spec_of(message), self._rules)
            taken = take_in(spec, self._blobs, f"jobs/{job_id}/{uuid4()}", self._settings)
            return Submission(id=job_id, producer=producer, spec=spec, taken=taken)
        except BadInput as error:
            return Submission(id=job_id, producer=producer, spec=spec, bad=error)


def connection_errors() -> tuple[type[BaseException], ...]:
    """What kombu raises when Redis is away."""
    transport = Connection("redis://")
    errors: tuple[type[BaseException], ...] = transport.connection_errors
    return (*errors, *transport.channel_errors)


def job_id_of(task_id: object) -> UUID:
    """The job's id is the task's id; uuid5 of it where it is no UUID."""
    text = str(task_id) if task_id else str(uuid4())
    try:
        return UUID(text)
    except ValueError:
        return uuid5(NAMESPACE_URL, text)


def _spec_of(message: Any) -> bytes:
    """The `spec` keyword argument of a task message, as JSON."""
    if message.content_type != "application/json":
        raise BadInput([Problem(f"the message is {message.content_type}, not application/json")])
    body = message.body
    data = body if isinstance(body, bytes) else str(body).encode()
    try:
        arguments = msgspec.json.decode(data, type=tuple[list[Any], dict[str, msgspec.Raw], Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput([Problem(f"the message is not a Celery task message: {error}")]) from None
    positional, named, _ = arguments
    if positional or set(named) != {"spec"}:
        raise BadInput([Problem('send the spec as the one keyword argument: kwargs={"spec": {…}}')])
    return bytes(named["spec"])


if __name__ == "__main__":
    run(lambda settings: Inbox(settings).run())
