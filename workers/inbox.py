"""The inbox: a loop that reads producers' submissions from the queue and stores them as jobs.

It takes a page of messages, stores their jobs in one transaction, and deletes the messages after
the commit. While Postgres is down, it takes none. Nothing that one message is or holds makes it
pause: what cannot be read is set aside, and so is what another transaction holds, for a while.
"""

import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from uuid import UUID, uuid5

import msgspec
import structlog
from redis.exceptions import RedisError

from config.settings import Settings
from service.payloads.blobs import STORAGE_ERRORS, Blobs
from service.payloads.bundles import BUNDLE_BYTES, BUNDLE_SPECS, take_in_together
from service.payloads.intake import Taken
from service.rules.crashpoints import CrashPoint, reached
from service.rules.errors import BadInput, Contended, IdTaken, Problem
from service.rules.measures import REDIS_ERRORS
from service.rules.spec import Spec, read_spec
from service.store import counters, engine
from service.store.models import Producer
from service.store.permissions import newcomer, permissions_of
from service.store.producers import producers_named
from service.store.submit import Answer, Submission, Submitted, submit_each
from workers.envelopes import Unreadable
from workers.messages import Message, check_enabled, check_size, open_message
from workers.process import Every, Heartbeat, log_trouble, run
from workers.submit_queue import SUBMIT, SubmitQueue
from workers.unread import UnreadLists

log = structlog.get_logger("workers.inbox")  # the module itself is run as __main__

PAUSE = 1.0
"""Seconds to wait after a failure of Redis, the database or blob storage."""
HELD_AT_ONCE = 64
HELD_PAUSES = (1.0, 15.0)
"""Seconds between tries of messages whose keys are held: at first, and at most."""
LOST_PAUSE = 10.0
"""Seconds between looks for what dead inboxes held."""
LOOK_PAUSE = 1.0
"""Seconds between looks at some keys of Redis, for lists that nobody reads."""


class Inbox:
    """Stores a page of messages at a time, and each alone if one spoils the page."""

    def __init__(self, settings: Settings) -> None:
        settings.required("database_url", "redis_url")
        self._settings = settings
        self._db = engine.database(engine.create(settings.database_url or ""))
        self._blobs = Blobs(settings.blobs)
        self._queue = SubmitQueue(settings.redis_url or "")
        self._lost = Every(LOST_PAUSE)
        self._held = Every(HELD_PAUSES[0])
        self._unread = UnreadLists(settings.redis_url or "")
        self._look = Every(LOOK_PAUSE)
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
                if self._heartbeat.takes():
                    self._consume()
                else:
                    self._heartbeat.touch()
                    self._stop.wait(PAUSE)
        finally:
            # What it still holds, because the last round failed, need not wait for a minute.
            with suppress(RedisError):
                self._queue.leave()
            self._unread.close()
            self._heartbeat.stop()
            log.info("inbox_stopped")

    def _consume(self) -> None:
        """Read pages until an error, the end, or until it is drained. What is held goes back."""
        self._heartbeat.touch()
        try:
            engine.clock(self._db)
            self._queue.give_back()
            while not self._stop.is_set() and self._heartbeat.takes():
                self._heartbeat.touch()
                self._read()
            self._queue.leave()
        except RedisError as error:
            REDIS_ERRORS.count("inbox")
            log.warning("redis_unavailable", reason=str(error))
            self._stop.wait(PAUSE)
        except Exception as error:  # noqa: BLE001  the loop goes on
            log_trouble("inbox_failed", error)
            self._stop.wait(PAUSE)

    def _read(self) -> None:
        if self._lost.due():
            lost = self._queue.give_back()
            if lost:
                log.warning("messages_given_back", messages=lost)
        page = self._queue.take(BUNDLE_SPECS, BUNDLE_BYTES, wait=1)
        if page:
            self.store(page)
        if self._held.due():
            self._try_held()
        if self._look.due():
            self._unread.look(self._db)

    def _try_held(self) -> None:
        page = self._queue.take_held(HELD_AT_ONCE)
        still = self.store(page) if page else 0
        first, longest = HELD_PAUSES
        self._held.seconds = first if still < len(page) else min(2 * self._held.seconds, longest)

    def store(self, page: Sequence[bytes]) -> int:
        """Store a page and delete it from Redis. Returns how many messages have to wait."""
        reached(CrashPoint.INBOX_TAKEN)
        messages, unreadable = self._opened(page)
        held = [message.raw for message in self._stored_messages(messages)]
        self._queue.done(held=held, unreadable=unreadable)
        if held:
            log.info("messages_wait", messages=len(held), reason="their keys are held")
        return len(held)

    def _opened(self, page: Iterable[bytes]) -> tuple[list[Message], list[bytes]]:
        """Return the messages, and those that can neither be read nor become a rejected job."""
        messages, unreadable = [], []
        for raw in page:
            try:
                messages.append(open_message(raw))
            except Unreadable as error:
                log.warning("message_set_aside", reason=str(error), bytes=len(raw))
                unreadable.append(raw)
        if unreadable:
            counters.count(self._db, counters.SET_ASIDE, len(unreadable))
        return messages, unreadable

    def _stored_messages(self, messages: Sequence[Message]) -> list[Message]:
        """Store messages in one transaction, or each by itself if one spoils that.

        Returns those whose keys another transaction holds.
        """
        try:
            return self._store_together(messages)
        except Exception as error:
            if _will_pass(error):
                raise
            log.exception("page_failed", messages=len(messages))
            return [held for message in messages for held in self._store_alone(message)]

    def _store_alone(self, message: Message) -> list[Message]:
        try:
            return self._store_together([message])
        except Exception as error:
            if _will_pass(error):
                raise
            log.exception("message_failed")
            bare = self._bare(message)
            words = f"the submission could not be stored ({type(error).__name__})"
            self._submitted([_refused(bare, words)])
            return []

    def _bare(self, message: Message) -> Submission:
        """Return a submission without a spec: the message's producer and job, if readable."""
        try:
            (read,) = self._read_all([message])
        except Exception as error:
            if _will_pass(error):
                raise
            return Submission(id=message.stray_id, producer="default", spec=Spec(endpoint=""))
        return replace(read, spec=Spec(endpoint=""))

    def _store_together(self, messages: Sequence[Message]) -> list[Message]:
        read = self._read_all(messages)
        # A page may hold a message twice, if it was delivered again.
        unique = list({(one.producer, one.id): one for one in read}.values())
        held: set[UUID] = set()
        stored: list[tuple[Submission, Submitted]] = []
        for submission, done in self._stored(self._taken_in(unique)):
            if isinstance(done, Contended):
                held.add(submission.id)
            else:
                stored.append((submission, done))
        reached(CrashPoint.INBOX_STORED)
        for submission, done in stored:
            _report(submission, done)
        return [
            message
            for message, one in zip(messages, read, strict=True)
            if not held.isdisjoint({one.id, _renamed(one).id})
        ]

    def _read_all(self, messages: Sequence[Message]) -> list[Submission]:
        """Return messages as submissions. One that cannot be read becomes a rejected one."""
        default = self._settings.queue_default_producer or "default"
        names = [message.producer or default for message in messages]
        known = producers_named(self._db, set(names))
        return [
            self._read_as(known.get(name) or newcomer(name), message)
            for name, message in zip(names, messages, strict=True)
        ]

    def _read_as(self, producer: Producer, message: Message) -> Submission:
        signed = message.needs_proof(always=self._settings.queue_signed)
        # What is refused before it is proven must not count against the producer that it names.
        owner, job_id = "default", message.stray_id if signed else message.job_id
        try:
            message.check_name(self._settings.queue_default_producer, signed=signed)
            if signed:
                message.check_signature(message.sent(), producer)
            owner, job_id = producer.name, message.job_id
            check_enabled(producer)
            sent = message.sent()
            check_size(sent, producer)
            spec = read_spec(sent, permissions_of(producer, self._settings))
            return Submission(id=job_id, producer=owner, spec=spec, not_before=message.not_before)
        except BadInput as error:
            return Submission(id=job_id, producer=owner, spec=Spec(endpoint=""), bad=error)

    def _taken_in(self, read: list[Submission]) -> list[Submission]:
        """Write the requests to blob storage. Returns submissions with their blobs or problems."""
        good = [(submission.id, submission.spec) for submission in read if submission.bad is None]
        found = iter(take_in_together(good, self._blobs, self._settings))
        return [one if one.bad is not None else _with(one, next(found)) for one in read]

    def _stored(
        self, submissions: list[Submission]
    ) -> Iterator[tuple[Submission, Submitted | Contended]]:
        """Store submissions. Yields each with its job, or with the word that its key is held.

        A submission whose idempotency key is used for another job, or that is over a limit of its
        producer, becomes a rejected job without the key.
        """
        for submission, found in self._submitted(submissions):
            if isinstance(found, Submitted | Contended):
                yield submission, found
            else:
                yield from self._stored([_refused(submission, str(found))])

    def _submitted(self, submissions: list[Submission]) -> list[tuple[Submission, Answer]]:
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


def _report(submission: Submission, done: Submitted) -> None:
    with structlog.contextvars.bound_contextvars(job=str(done.id)):
        if not done.new:
            log.info("submission_known", asked_as=str(submission.id))
        elif submission.bad is not None:
            log.warning("submission_rejected", problems=len(submission.bad.problems))
        else:
            log.info("submission_accepted")


def _will_pass(error: Exception) -> bool:
    """Return whether the database, Redis or storage is to blame, not a message."""
    outside = isinstance(error, (OSError, RedisError, *STORAGE_ERRORS))
    return outside or engine.is_of_the_database(error)


if __name__ == "__main__":
    run(lambda settings: Inbox(settings).run())
