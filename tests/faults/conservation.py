"""What must be true at the end, whatever happened before: nothing lost, nothing bought twice.

Looked up in three places that know nothing of one another: the results, the rows, and the
simulator's books.
"""

from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from service.rules.states import BatchState, JobState
from service.store import jobs
from service.store.models import Job
from tests.pipeline import Pipeline
from tests.simulator import Simulator

DONE = {BatchState.SETTLED, BatchState.FAILED, BatchState.CANCELLED}


def ids(count: int) -> list[str]:
    """custom_ids in input order."""
    return [f"r{number:04}" for number in range(count)]


def assert_conserved(
    pipeline: Pipeline,
    simulator: Simulator,
    job: Job,
    custom_ids: Sequence[str],
    *,
    batches: int,
    state: JobState = JobState.COMPLETED,
) -> None:
    """One result line for each request, in order; paid once what succeeded; so many batches."""
    assert job.state is state
    lines = pipeline.results(job.id)
    assert [line["custom_id"] for line in lines] == list(custom_ids)
    _assert_counted(pipeline, job, lines)
    _assert_paid_once(simulator, lines)
    _assert_batches(pipeline, simulator, job, batches)


def assert_all_conserved(
    pipeline: Pipeline,
    simulator: Simulator,
    job_ids: Sequence[UUID],
    sizes: Sequence[int],
    *,
    batches: int,
) -> None:
    """The same for jobs that shared their batches. Their requests are called `ids(size)`."""
    paid: dict[str, int] = {}
    for job_id, size in zip(job_ids, sizes, strict=True):
        job = pipeline.ended(job_id)
        assert job.state is JobState.COMPLETED
        lines = pipeline.results(job_id)
        assert [line["custom_id"] for line in lines] == ids(size)
        _assert_counted(pipeline, job, lines)
        prefix = urlsafe_b64encode(job_id.bytes).decode().rstrip("=")
        for ordinal, line in enumerate(lines):
            assert "error" not in line
            paid[f"{prefix}-{ordinal}"] = 1
    books = simulator.books()
    assert books.totals.duplicate_successes == 0
    assert books.totals.batches_created == batches
    booked = {
        custom_id: book.succeeded
        for account in books.accounts.values()
        for custom_id, book in account.lines.items()
        if book.succeeded
    }
    assert booked == paid


def _assert_counted(pipeline: Pipeline, job: Job, lines: list[dict[str, Any]]) -> None:
    dead = [line["custom_id"] for line in lines if "error" in line]
    assert (job.total, job.succeeded, job.failed, job.pending, job.open_parts) == (
        len(lines),
        len(lines) - len(dead),
        len(dead),
        0,
        0,
    )
    letters = jobs.failures(pipeline.db, job.id, after=-1, limit=100_000)
    assert [letter.custom_id for letter in letters] == dead


def _assert_paid_once(simulator: Simulator, lines: list[dict[str, Any]]) -> None:
    books = simulator.books()
    assert books.totals.duplicate_successes == 0
    paid = {
        custom_id: book.succeeded
        for account in books.accounts.values()
        for custom_id, book in account.lines.items()
        if book.succeeded
    }
    assert paid == {line["custom_id"]: 1 for line in lines if "error" not in line}


def _assert_batches(pipeline: Pipeline, simulator: Simulator, job: Job, expected: int) -> None:
    rows = pipeline.batches(job.id)
    assert {row.state for row in rows} <= DONE
    assert [row.id for row in rows if row.lease is not None] == []
    made = [
        batch.id for account in simulator.books().accounts.values() for batch in account.batches
    ]
    known = [row.provider_batch_id for row in rows if row.provider_batch_id is not None]
    assert sorted(made) == sorted(known)
    assert len(made) == expected
