"""Group commit: what is submitted while a store is under way is stored together by the next one.

On an idle service a submission is stored at once, by itself; on a busy one it waits a few
milliseconds for others. Nobody waits for what another producer has under way, and of a producer
that submits much only a share is stored together with the others'. What cannot be stored because
another transaction holds its idempotency key leaves the group, and tries again beside it.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from anyio import CapacityLimiter, to_thread

from config.settings import Settings
from service.api import turns
from service.api.problems import INTERNAL, unforeseen
from service.api.turns import Turns
from service.payloads.blobs import Blobs
from service.payloads.bundles import BUNDLE_SPECS, take_in_together
from service.rules.crashpoints import CrashPoint, reached
from service.rules.errors import BadInput, Contended
from service.store import jobs
from service.store.engine import Database
from service.store.models import Job
from service.store.submit import NotStored, Submission, Submitted, submit_each

PATIENCE = 3.0
"""Seconds for which a submission waits for a key that another transaction holds."""
MOMENT = 0.003
"""Seconds that a busy service waits for others before it stores a group: each costs about as much,
however many are in it."""
AGAIN = 0.1
"""Seconds until it tries again."""
PAGES = 3
"""The most pages that a group stores at the same time, none with a producer of another."""
SHARE = 8
"""The most that a producer has in a page with others."""


@dataclass(frozen=True)
class Accepted:
    """The job that stands for a submission; not `new` where it was there already."""

    job: Job
    new: bool


@dataclass
class _Waiting:
    submission: Submission
    answer: "asyncio.Future[Accepted]"


class Gathering:
    """Takes small specs in and stores them, as many at a time as there are."""

    def __init__(self, db: Database, blobs: Blobs, settings: Settings, taking_turns: Turns) -> None:
        storage = _Storage(db, blobs, settings)
        self._together = _Group(storage, taking_turns)
        self._beside = _Group(storage, taking_turns)
        self._contended: Counter[tuple[str, str | None]] = Counter()

    async def submit(self, submission: Submission) -> Accepted:
        """Store a submission, after taking its requests in if that is still to be done.

        Raises BadInput, Conflict, OverQuota, Contended, and whatever blob storage or Postgres
        raise.
        """
        turns.leave()
        waiting = _Waiting(submission, asyncio.get_running_loop().create_future())
        key = submission.producer, submission.spec.idempotency_key
        until = time.monotonic() + PATIENCE
        group = self._beside if self._contended[key] else self._together
        while True:
            try:
                return await group.store(waiting)
            except Contended:
                if time.monotonic() > until:
                    raise
            # Others with this key need not find out for themselves that it is held.
            self._contended[key] += 1
            try:
                await asyncio.sleep(AGAIN)
            finally:
                self._contended[key] -= 1
                self._contended += Counter()  # forgets those at 0
            group = self._beside
            waiting = _Waiting(waiting.submission, asyncio.get_running_loop().create_future())


class _Group:
    """Stores what waits, page after page."""

    def __init__(self, storage: "_Storage", taking_turns: Turns) -> None:
        self._storage = storage
        self._turns = taking_turns
        self._waiting: list[_Waiting] = []
        self._storing = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way: set[str] = set()
        """The producers of the pages that are being stored."""
        self._limiter = CapacityLimiter(PAGES)
        self._busy = False
        """Whether several submissions were stored together the last time."""

    async def store(self, waiting: _Waiting) -> Accepted:
        self._waiting.append(waiting)
        if self._storing < PAGES and waiting.submission.producer not in self._under_way:
            self._storing += 1
            task = asyncio.create_task(self._store_all())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await waiting.answer

    async def _store_all(self) -> None:
        try:
            while True:
                if self._busy:
                    await asyncio.sleep(MOMENT)
                page = self._page()
                if not page:
                    return
                self._busy = len(page) > 1
                await self._store(page)
        finally:
            self._storing -= 1

    async def _store(self, page: Sequence[_Waiting]) -> None:
        producers = {waiting.submission.producer for waiting in page}
        self._under_way |= producers
        held = [self._turns.turn(producer) for producer in producers]
        for turn in held:
            turn.take_at_once()  # a page that waited would keep its place from other producers
        try:
            await self._answer(page)
        finally:
            for turn in held:
                turn.leave()
            self._under_way -= producers

    def _page(self) -> list[_Waiting]:
        """Take the next ones that wait. Those of a producer that is under way go on waiting."""
        can = [one for one in self._waiting if one.submission.producer not in self._under_way]
        is_shared = len({one.submission.producer for one in can}) > 1
        counts: Counter[str] = Counter()
        page: list[_Waiting] = []
        for one in can:
            producer = one.submission.producer
            if len(page) < BUNDLE_SPECS and not (is_shared and counts[producer] == SHARE):
                counts[producer] += 1
                page.append(one)
        taken = set(map(id, page))
        self._waiting = [one for one in self._waiting if id(one) not in taken]
        return page

    async def _answer(self, page: Sequence[_Waiting]) -> None:
        answers: Sequence[Accepted | Exception]
        try:
            answers = await to_thread.run_sync(self._storage.store, page, limiter=self._limiter)
        except Exception as error:  # noqa: BLE001  not even a thread could be had; everyone is told
            answers = [error] * len(page)
        for waiting, answer in zip(page, answers, strict=True):
            if waiting.answer.done():
                continue  # whoever asked is gone; the job is there all the same
            if isinstance(answer, Accepted):
                waiting.answer.set_result(answer)
            else:
                waiting.answer.set_exception(answer)


@dataclass(frozen=True)
class _Storage:
    db: Database
    blobs: Blobs
    settings: Settings

    def store(self, page: Sequence[_Waiting]) -> list[Accepted | Exception]:
        try:
            return self._store_together(page)
        except Exception as error:  # noqa: BLE001  handed to whoever asked
            if len(page) == 1 or unforeseen(error).kind is not INTERNAL:
                return [error] * len(page)
            # It may be one of them that cannot be stored: the others must not suffer for it.
            return [answer for one in page for answer in self.store([one])]

    def _store_together(self, page: Sequence[_Waiting]) -> list[Accepted | Exception]:
        new = [waiting for waiting in page if waiting.submission.taken is None]
        specs = [(waiting.submission.id, waiting.submission.spec) for waiting in new]
        bad: dict[int, BadInput] = {}
        for waiting, found in zip(
            new, take_in_together(specs, self.blobs, self.settings), strict=True
        ):
            if isinstance(found, BadInput):
                bad[id(waiting)] = found
            else:
                waiting.submission = replace(waiting.submission, taken=found)
        good = [waiting.submission for waiting in page if id(waiting) not in bad]
        stored = iter(self._accepted(good) if good else ())
        return [bad.get(id(waiting)) or next(stored) for waiting in page]

    def _accepted(self, submissions: Sequence[Submission]) -> list[Accepted | NotStored]:
        stored = submit_each(self.db, submissions)
        reached(CrashPoint.ACCEPT_STORED)
        known = {s.id for s in stored if isinstance(s, Submitted) and s.row is None}
        found = jobs.jobs_by_id(self.db, known) if known else {}
        return [self._answer(s, found) if isinstance(s, Submitted) else s for s in stored]

    @staticmethod
    def _answer(stored: Submitted, found: Mapping[UUID, Job]) -> Accepted | NotStored:
        job = stored.row or found.get(stored.id)
        if job is None:
            return Contended("the job was forgotten just now")
        return Accepted(job, stored.new)
