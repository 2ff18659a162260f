"""Group commit: what is submitted while a store is under way is stored together by the next one.

Nobody waits for company: on an idle service a submission is stored at once, by itself.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from anyio import CapacityLimiter, to_thread

from config.settings import Settings
from service.api.problems import INTERNAL, unforeseen
from service.payloads.blobs import Blobs
from service.payloads.bundles import BUNDLE_SPECS, take_in_together
from service.rules.crashpoints import CrashPoint, reached
from service.rules.errors import BadInput
from service.store import jobs
from service.store.engine import Database, is_contended
from service.store.models import Job
from service.store.submit import NotStored, Submission, Submitted, submit_each


@dataclass(frozen=True)
class Accepted:
    """The job that stands for a submission; not `new` where it was there already."""

    job: Job
    new: bool


@dataclass(frozen=True)
class _Waiting:
    submission: Submission
    answer: "asyncio.Future[Accepted]"


class Gathering:
    """Takes small specs in and stores them, as many at a time as there are."""

    def __init__(self, db: Database, blobs: Blobs, settings: Settings) -> None:
        self._db = db
        self._blobs = blobs
        self._settings = settings
        self._waiting: list[_Waiting] = []
        self._under_way: asyncio.Task[None] | None = None
        self._limiter = CapacityLimiter(1)

    async def submit(self, submission: Submission) -> Accepted:
        """Store a submission whose requests are still to be taken in.

        Raises BadInput, Conflict, OverQuota, and whatever blob storage or Postgres raise.
        """
        waiting = _Waiting(submission, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._under_way is None:
            self._under_way = asyncio.create_task(self._store_all())
        return await waiting.answer

    async def _store_all(self) -> None:
        try:
            while self._waiting:
                page, self._waiting = self._waiting[:BUNDLE_SPECS], self._waiting[BUNDLE_SPECS:]
                await self._answer(page)
        finally:
            self._under_way = None

    async def _answer(self, page: Sequence[_Waiting]) -> None:
        asked = [waiting.submission for waiting in page]
        answers: Sequence[Accepted | Exception]
        try:
            answers = await to_thread.run_sync(self._store, asked, limiter=self._limiter)
        except Exception as error:  # noqa: BLE001  not even a thread could be had; everyone is told
            answers = [error] * len(page)
        for waiting, answer in zip(page, answers, strict=True):
            if waiting.answer.done():
                continue  # whoever asked is gone; the job is there all the same
            if isinstance(answer, Accepted):
                waiting.answer.set_result(answer)
            else:
                waiting.answer.set_exception(answer)

    def _store(self, asked: Sequence[Submission]) -> list[Accepted | Exception]:
        try:
            return self._store_together(asked)
        except Exception as error:  # noqa: BLE001  handed to whoever asked
            everybodys = unforeseen(error).kind is not INTERNAL and not is_contended(error)
            if len(asked) == 1 or everybodys:
                return [error] * len(asked)
            # It may be one of them that cannot be stored: the others must not suffer for it.
            return [answer for one in asked for answer in self._store([one])]

    def _store_together(self, asked: Sequence[Submission]) -> list[Accepted | Exception]:
        taken = take_in_together([(s.id, s.spec) for s in asked], self._blobs, self._settings)
        good = [
            replace(submission, taken=found)
            for submission, found in zip(asked, taken, strict=True)
            if not isinstance(found, BadInput)
        ]
        stored = iter(self._accepted(good) if good else ())
        return [found if isinstance(found, BadInput) else next(stored) for found in taken]

    def _accepted(self, submissions: Sequence[Submission]) -> list[Accepted | NotStored]:
        stored = submit_each(self._db, submissions)
        reached(CrashPoint.ACCEPT_STORED)
        found = jobs.jobs_by_id(self._db, {s.id for s in stored if isinstance(s, Submitted)})
        return [s if not isinstance(s, Submitted) else Accepted(found[s.id], s.new) for s in stored]
