"""The calls whose clients wait at this process, and the loop that learns what became of them.

The body of a call is dropped once it is stored, so that a held call costs its connection alone.
One query about every second asks for all of them, and their results are read together.
"""

import asyncio
import ctypes
import gc
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from uuid import UUID, uuid4

import structlog
from anyio import CapacityLimiter, to_thread

from service.api.auth import OF_THE_ADMIN, Caller
from service.api.calls.held import Ended, Held
from service.api.calls.results import Answer, result_of
from service.api.problems import TOO_MANY_CALLS, HttpProblem
from service.payloads.blobs import STORAGE_ERRORS, Blobs, place_of
from service.payloads.excerpts import excerpt
from service.store import calls as store
from service.store.calls import BEAT, Hold, Settled
from service.store.engine import Database, is_unavailable

log = structlog.get_logger()

LOOK_SECONDS = 0.9
"""Between two looks at what has ended."""
SOON = 0.2
"""Between these while calls end: a batch settles in slices, so more may have ended by now."""
CHECK_SECONDS = 2.0
"""How often the credentials of held calls are looked at."""
TIDY = 500
"""By how many held calls must become more, or fewer, until garbage is collected."""
MOMENT = 0.02
"""How long what is to be written, or looked at, at once waits for others."""
GROUP_BYTES = 1 << 20
"""The results that are read together have about so many bytes."""
SENDING_BYTES = 8 << 20
"""The most bytes of results, but for the last group, that wait to be sent."""


class Desk:
    """The calls that are held by this process: at most `most`, and `share` of one producer."""

    def __init__(self, db: Database, blobs: Blobs, *, most: int, share: int) -> None:
        self.process = uuid4()
        self.is_ending = False
        self._is_closing = False
        self._db = db
        self._blobs = blobs
        self._most = most
        self._share = share
        self._held: defaultdict[UUID, set[Held]] = defaultdict(set)
        self._places: Counter[str] = Counter()
        self._notes = _Notes(db)
        self._limiter = CapacityLimiter(4)
        self._watching: asyncio.Task[None] | None = None
        self._look_now = asyncio.Event()
        self._sending = 0
        self._tidied = 0
        self._sent = asyncio.Event()

    @property
    def count(self) -> int:
        """The number of calls that have a place."""
        return self._places.total()

    @contextmanager
    def place(self, caller: Caller) -> Iterator[None]:
        """Count a call until its answer is sent. Raises HttpProblem if there is no place."""
        share = self._share if caller.held_calls is None else caller.held_calls
        if self.count >= self._most or self._places[caller.producer] >= share:
            raise HttpProblem(
                TOO_MANY_CALLS,
                f"{self._places[caller.producer]:,} calls of {caller.producer!r} are waiting here"
                f" already; {share:,} may, and {self._most:,} of all producers. Make the call again"
                " when some are answered, or send the requests as a job",
                # The SDK's own repeat would look like that of a call which was stored.
                headers={"Retry-After": "30", "x-should-retry": "false"},
            )
        self._places[caller.producer] += 1
        try:
            yield
        finally:
            self._places[caller.producer] -= 1
            self._places += Counter()  # forgets those at 0

    def new_hold(self) -> Hold:
        return Hold(id=uuid4(), process=self.process)

    async def take(self, credential: str, digest: bytes, hold: Hold) -> UUID | None:
        """Return the call that a repeat takes over; see `service.store.calls.take`."""
        await self._notes.written()  # its first connection may have ended a moment ago
        work = partial(store.take, self._db, credential, digest, hold)
        return await to_thread.run_sync(work, limiter=self._limiter)

    async def attend(self, job_id: UUID, hold: Hold) -> bool:
        work = partial(store.attend, self._db, job_id, hold)
        return await to_thread.run_sync(work, limiter=self._limiter)

    @contextmanager
    def holding(self, held: Held, *, at_once: bool) -> Iterator[None]:
        """Let a connection wait; with `at_once`, its call may have ended already."""
        self._held[held.job_id].add(held)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        if at_once:
            self._look_now.set()
        if self.is_ending:
            held.end(Ended.STOPPING)
        try:
            yield
        finally:
            self._held[held.job_id].discard(held)
            if not self._held[held.job_id]:
                del self._held[held.job_id]
            if isinstance(held.outcome, Answer):
                self._sending -= len(held.outcome.body)
                self._sent.set()
            self._notes.add(held.id, is_delivered=held.is_delivered)

    def drop(self, hold: Hold, *, is_delivered: bool = False) -> None:
        """Let go of a call for which nobody waits."""
        self._notes.add(hold.id, is_delivered=is_delivered)

    def end(self) -> None:
        """Wake every connection, since this process ends, and let go of their calls."""
        self.is_ending = True
        for held in self._all():
            held.end(Ended.STOPPING)

    async def close(self) -> None:
        """Write what is still to be written."""
        self._is_closing = True
        self._look_now.set()
        self._sent.set()
        if self._watching is not None:
            await self._watching  # cancelled, it would leave a thread in the middle of a query
        with suppress(Exception):
            await self._notes.written()
            await to_thread.run_sync(store.leave, self._db, self.process)

    def _all(self) -> list[Held]:
        return [held for here in self._held.values() for held in here]

    # --- learning what is done --------------------------------------------------------------------

    async def _watch(self) -> None:
        beat_at = check_at = 0.0
        while not self._is_closing:
            pause = LOOK_SECONDS
            try:
                if time.monotonic() >= beat_at:
                    beat_at = time.monotonic() + BEAT.total_seconds()
                    await to_thread.run_sync(store.beat, self._db, self.process)
                if time.monotonic() >= check_at:
                    check_at = time.monotonic() + CHECK_SECONDS
                    await self._check_credentials()
                if await self._look():
                    pause = SOON
                self._tidy()
            except Exception as error:
                # The next look tells.
                if not is_unavailable(error):
                    log.exception("watching_failed")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._look_now.wait(), pause)
                await asyncio.sleep(MOMENT)
            self._look_now.clear()

    def _tidy(self) -> None:
        """Free what taking many calls in left behind: Python leaves it be while so much lives."""
        if abs(len(self._held) - self._tidied) >= TIDY:
            self._tidied = len(self._held)
            gc.collect()
            _trim_heap()

    async def _check_credentials(self) -> None:
        used = {held.credential for held in self._all()} - {OF_THE_ADMIN}
        if not used:
            return
        valid = await to_thread.run_sync(store.valid_credentials, self._db, used)
        for held in self._all():
            if held.credential in used - valid:
                held.end(Ended.REVOKED)

    async def _look(self) -> bool:
        """Wake those whose calls have ended. Returns whether there were any."""
        waiting = [
            job_id
            for job_id, here in self._held.items()
            if any(held.outcome is None for held in here)
        ]
        if not waiting:
            return False
        found = await to_thread.run_sync(store.settled, self._db, waiting)
        has_told = False
        for group in _groups(found):
            while self._sending > SENDING_BYTES and not self._is_closing:
                self._sent.clear()
                await self._sent.wait()
            for settled, line in await to_thread.run_sync(_read, self._blobs, group):
                self._tell(settled, result_of(settled, line))
                has_told = True
        return has_told

    def _tell(self, settled: Settled, result: Answer | HttpProblem) -> None:
        for held in self._held.get(settled.job_id, ()):
            if held.outcome is None:
                held.end(result)
                if isinstance(result, Answer):
                    self._sending += len(result.body)


def _trim_heap() -> None:
    """Give the holes in the heap of the C library back to the system, where it is glibc's."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _groups(found: Sequence[Settled]) -> Iterator[list[Settled]]:
    """Divide what has ended into groups that are read together: neighbours in one blob."""
    group: list[Settled] = []
    size = 0
    for settled in sorted(found, key=_place):
        length = settled.line[1] if settled.line else 0
        if group and (size + length > GROUP_BYTES or _place(settled)[0] != _place(group[-1])[0]):
            yield group
            group, size = [], 0
        group.append(settled)
        size += length
    if group:
        yield group


def _place(settled: Settled) -> tuple[str, int]:
    if settled.line is None:
        return "", 0
    blob, offset, _ = place_of(settled.line[0])
    return blob, offset


def _read(blobs: Blobs, group: Sequence[Settled]) -> list[tuple[Settled, bytes | None]]:
    """Return the result lines of a group; of one whose blob cannot be read nothing is said yet."""
    without = [(settled, None) for settled in group if settled.line is None]
    within = [(settled, settled.line[1]) for settled in group if settled.line is not None]
    if not within:
        return list(without)
    ranges = [(_place(settled)[1], length) for settled, length in within]
    try:
        data = b"".join(excerpt(blobs, _place(within[0][0])[0], ranges))
    except (OSError, *STORAGE_ERRORS) as error:
        log.warning("call_unread", reason=str(error))
        return list(without)
    lines: list[tuple[Settled, bytes | None]] = list(without)
    at = 0
    for settled, length in within:
        lines.append((settled, data[at : at + length]))
        at += length
    return lines


class _Notes:
    """Writes which holds have ended, as many at a time as there are."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._released: set[UUID] = set()
        self._delivered: set[UUID] = set()
        self._writing: asyncio.Task[None] | None = None

    def add(self, hold: UUID, *, is_delivered: bool) -> None:
        (self._delivered if is_delivered else self._released).add(hold)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    async def written(self) -> None:
        """Wait until all that was added before is written, or cannot be."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    async def _write(self) -> None:
        try:
            while self._released or self._delivered:
                await asyncio.sleep(MOMENT)
                work = partial(
                    store.let_go, self._db, released=self._released, delivered=self._delivered
                )
                self._released, self._delivered = set(), set()
                try:
                    await to_thread.run_sync(work)
                except Exception as error:
                    # They look held until this process ends, or a repeat takes them all the same.
                    if not is_unavailable(error):
                        log.exception("letting_go_failed")
        finally:
            self._writing = None
