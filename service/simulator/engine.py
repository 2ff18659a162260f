"""Batches on their way: VALIDATING, IN_PROGRESS, the end.

Each batch is one asyncio task that sleeps until the next thing is due; all instants are on the
wall clock and in the batch's row, so that a restarted simulator takes up where it was killed.
"""

import asyncio
import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar
from uuid import uuid4

from service.simulator import execution, validation, wire
from service.simulator.outages import lasting
from service.simulator.rows import BatchRow, BatchStatus, FileRow, LineBooking
from service.simulator.scenario import Scenario
from service.simulator.storage import Storage

VALIDATING_SHARE = 0.2
"""Validation takes at least this part of the execution time, on top of it..."""
VALIDATING_SECONDS = 1.0
"""...but no more than this."""
THREADS = 2
LOOK_SECONDS = 0.2
"""How long a batch sleeps at most before it looks at the clock again, while there are few..."""
LOOKS_PER_SECOND = 1000
"""...and how many such looks there are at most, over all batches."""

_Result = TypeVar("_Result")


class _End(NamedTuple):
    """How a batch ends."""

    status: BatchStatus
    share: float


class Engine:
    """Moves all unfinished batches on."""

    def __init__(self, storage: Storage, scenario: Callable[[], Scenario]) -> None:
        """`scenario` is asked anew whenever it matters."""
        self._storage = storage
        self._scenario = scenario
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._cancelled: dict[str, asyncio.Event] = {}
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="batch")

    def resume(self) -> None:
        """Take up all batches that have not ended."""
        for batch_id in self._storage.unfinished():
            self.run(batch_id)

    def run(self, batch_id: str) -> None:
        """Take up one batch."""
        self._cancelled[batch_id] = asyncio.Event()
        task = asyncio.create_task(self._advance(batch_id))
        self._tasks[batch_id] = task
        task.add_done_callback(functools.partial(self._forget, batch_id))

    def notice_cancel(self, batch_id: str) -> None:
        """Wake a batch that is to be cancelled; its row says so already."""
        if batch_id in self._cancelled:
            self._cancelled[batch_id].set()

    async def stop(self) -> None:
        """Let go of all batches, where they are."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def close(self) -> None:
        """Let go for good. Returns when no thread writes any more."""
        await self.stop()
        await asyncio.to_thread(self._pool.shutdown)

    def _forget(self, batch_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(batch_id, None)
        self._cancelled.pop(batch_id, None)
        if not task.cancelled():
            task.result()

    async def _advance(self, batch_id: str) -> None:
        """Move a batch from where it is to its end."""
        batch = self._storage.batch(batch_id)
        if batch is None or batch.completed_at is not None:
            return
        if batch.status == "VALIDATING" and not await self._validate(batch):
            return
        while (batch := self._storage.batch(batch_id)) and batch.completed_at is None:
            if batch.status == "CANCELING":
                await self._until((batch.canceling_at or 0) + self._canceling_seconds)
            elif await self._cancelled_in_execution(batch):
                continue
            await self._thread(self._finish, batch, _end(batch))

    @property
    def _canceling_seconds(self) -> float:
        return self._scenario().switches.canceling_seconds

    async def _validate(self, batch: BatchRow) -> bool:
        """Look at the input when it is time. False if that was the batch's end."""
        wait = min(VALIDATING_SHARE * batch.seconds, VALIDATING_SECONDS)
        if await self._until(batch.created_at + wait, cancelled=self._cancelled[batch.id]):
            return True
        problem = await self._thread(self._problem, batch)
        if problem is None:
            problem = await self._thread(self._outage, batch)
        if problem is None and batch.rule.outcome == "fail":
            problem = batch.rule.message
        if problem is None:
            await self._thread(
                functools.partial(self._storage.start_batch, batch.id, at=wire.now())
            )
            return True
        return not await self._thread(
            functools.partial(
                self._storage.end_batch,
                batch,
                status="FAILED",
                at=wire.now(),
                share=0,
                error=problem,
            )
        )

    def _problem(self, batch: BatchRow) -> str | None:
        """What is wrong with a batch's input."""
        file = self._storage.file(batch.input_file_id, account=batch.account)
        if file is None or file.state != "stored":
            return validation.not_there(batch.input_file_id)
        path = self._storage.path(batch.input_file_id)
        scenario = self._scenario()
        poisons = [rule for rule in scenario.lines if rule.effect == "poison"]
        return validation.problem(path, batch.input_file_id, scenario.switches, poisons)

    def _outage(self, batch: BatchRow) -> str | None:
        """The error of a batch that an outage of batches befalls."""
        found = lasting(self._scenario().outages, "batches", wire.now())
        model = validation.first_model(self._storage.path(batch.input_file_id)) if found else None
        return next((outage.message for outage in found if outage.hits_model(model)), None)

    async def _cancelled_in_execution(self, batch: BatchRow) -> bool:
        """Wait until the execution is over, or somebody cancels it."""
        rule = batch.rule
        start = batch.started_at or wire.now()
        end = start + batch.seconds + rule.hang_seconds
        if rule.shows is not None:
            end = max(end, start + rule.shows_seconds)
        return await self._until(
            math.inf if rule.hang else end, cancelled=self._cancelled[batch.id]
        )

    async def _until(self, instant: float, *, cancelled: asyncio.Event | None = None) -> bool:
        """Sleep until an instant. True if the batch was cancelled before."""
        event = cancelled or asyncio.Event()
        while not event.is_set() and (left := instant - wire.now()) > 0:
            # Timers do not notice when the clock is set.
            with suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), min(left, self._look_seconds))
        return event.is_set()

    @property
    def _look_seconds(self) -> float:
        return max(LOOK_SECONDS, len(self._tasks) / LOOKS_PER_SECOND)

    async def _thread(self, work: Callable[..., _Result], *values: object) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *values)

    def _finish(self, batch: BatchRow, end: _End) -> None:
        """Execute what is done of a batch and end it."""
        output, errors = self._new_file_id(), self._new_file_id()
        parts = [Path(f"{self._storage.path(file_id)}.part") for file_id in (output, errors)]
        product = execution.Product(output=False, errors=False, bookings=list[LineBooking]())
        if end.share > 0:
            product = execution.execute(
                batch_id=batch.id,
                endpoint=batch.endpoint,
                share=end.share,
                scenario=self._scenario(),
                executions=functools.partial(self._storage.executions, batch.account),
                source=self._storage.path(batch.input_file_id),
                output=parts[0],
                errors=parts[1],
            )
        files = []
        if product.output:
            files.append(self._keep(batch, output, parts[0], "output"))
        if product.errors:
            files.append(self._keep(batch, errors, parts[1], "error"))
        ended = self._storage.end_batch(
            batch,
            status=end.status,
            at=wire.now(),
            share=end.share,
            files=files,
            bookings=product.bookings,
        )
        for part in parts:
            part.unlink(missing_ok=True)
        if not ended:
            for row in files:
                self._storage.path(row.id).unlink(missing_ok=True)
        self._storage.drop_unused(batch.input_file_id)

    def _keep(
        self, batch: BatchRow, file_id: str, part: Path, role: Literal["output", "error"]
    ) -> FileRow:
        """Give a result file its place; its row makes it visible."""
        size = part.stat().st_size
        part.replace(self._storage.path(file_id))
        return FileRow(
            id=file_id,
            account=batch.account,
            filename=f"batch_{batch.id}.jsonl",
            purpose="batch-api",
            file_type="jsonl",
            role=role,
            bytes=size,
            checksum=None,
            created_at=wire.now(),
            state="stored",
        )

    @staticmethod
    def _new_file_id() -> str:
        return f"file-{uuid4()}"


def _end(batch: BatchRow) -> _End:
    """How a batch ends whose time is up."""
    if batch.status == "CANCELING":
        return _End("CANCELLED", batch.share)
    match batch.rule.outcome:
        case "expire":
            return _End("EXPIRED", batch.rule.share)
        case "cancel":
            return _End("CANCELLED", batch.rule.share)
        case _:
            return _End("COMPLETED", 1.0)
