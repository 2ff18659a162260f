"""Looking at jobs, and cancelling them."""

from typing import Any
from uuid import UUID

import msgspec

from service.cli.documents import Batch, Job
from service.cli.listing import listed
from service.cli.screen import Column, Screen, age, length, output
from service.cli.session import connected


def jobs(*, limit: int, as_json: bool, **filters: Any) -> None:
    """The command: newest first. `filters` are those of the API's list."""
    with connected() as client:
        listed(
            client.jobs(limit=limit, **filters),
            (
                *(Column("job"), Column("state"), Column("succeeded", number=True)),
                *(Column("failed", number=True), Column("age", number=True)),
            ),
            lambda job: (
                *(job.id, job.state, f"{job.succeeded:,} of {job.total:,}", job.failed),
                age(job.created_at),
            ),
            as_json=as_json,
        )


def show(job_id: UUID, *, as_json: bool) -> None:
    """The command: a job's fields and its batches; as JSON the job alone."""
    with connected() as client:
        document = client.job(job_id)
        screen = output()
        if as_json:
            screen.line(document.line)
            return
        batches = [batch.value for batch in client.batches(job_id)]
        screen.fields(_fields(document.value, batches))
        if batches:
            _show_batches(screen, batches)


def failures(job_id: UUID, *, as_json: bool) -> None:
    """The command: requests that failed for good, in input order."""
    with connected() as client:
        listed(
            client.failures(job_id),
            (
                *(Column("custom_id"), Column("code"), Column("attempts", number=True)),
                Column("message", wrap=True),
            ),
            lambda failure: (failure.custom_id, failure.code, failure.attempts, failure.message),
            as_json=as_json,
        )


def request(job_id: UUID, custom_id: str, *, as_json: bool) -> None:
    """The command: one request, its attempts, and its result line."""
    with connected() as client:
        document = client.request(job_id, custom_id)
    screen, found = output(), document.value
    if as_json:
        screen.line(document.line)
        return
    screen.fields(
        [
            ("request", found.custom_id),
            ("outcome", found.outcome),
            ("error", found.error),
            ("ordinal", f"{found.ordinal:,}"),
            ("tokens", found.usage and f"{found.usage.total_tokens:,}"),
        ]
    )
    if found.attempts:
        screen.line("")
        screen.table(
            (
                *(Column("try", number=True), Column("outcome"), Column("batch at Together")),
                Column("error", wrap=True),
            ),
            ((a.attempt, a.outcome, a.provider_batch_id, a.error) for a in found.attempts),
        )
    if bytes(found.result) != b"null":
        screen.line("")
        screen.line(bytes(found.result).decode())


def cancel(job_id: UUID, *, as_json: bool) -> None:
    """The command."""
    with connected() as client:
        document = client.cancel(job_id)
        if as_json:
            output().line(document.line)
        elif document.value.ended:
            output().line(f"Job {job_id} is {document.value.state}.")
        else:
            output().line(f"Job {job_id} is being cancelled: what is done by then is kept.")


def retry(job_id: UUID, custom_ids: list[str] | None, *, as_json: bool) -> None:
    """The command."""
    with connected() as client:
        document = client.retry(job_id, custom_ids)
        if as_json:
            output().line(document.line)
        else:
            pending = document.value.pending
            output().line(f"Job {job_id} is running again: {pending:,} requests are pending.")


def _fields(job: Job, batches: list[Batch]) -> list[tuple[str, object]]:
    usage = job.usage
    took = job.finished_at and length(job.finished_at - job.created_at)
    counts = f"{job.succeeded:,} succeeded, {job.failed:,} failed, {job.pending:,} pending"
    tokens = f"{usage.prompt_tokens:,} prompt + {usage.completion_tokens:,} completion"
    return [
        ("job", job.id),
        ("state", job.state),
        ("cancelled", job.cancel_requested_at),
        ("waits", None if job.waiting is None else job.waiting.detail),
        ("parked", job.parked_at),
        ("error", job.error),
        *(("", str(problem)) for problem in job.problems or ()),
        ("last trouble", job.last_error),
        ("requests", f"{job.total:,}: {counts}"),
        ("tokens", f"{usage.total_tokens:,}: {tokens}"),
        ("endpoint", job.endpoint),
        *(("model", model) for model in sorted({batch.model for batch in batches})),
        ("account", job.account),
        ("producer", job.producer),
        ("attempts", job.max_attempts and f"{job.max_attempts} at most for a request"),
        ("priority", job.priority or None),
        ("key", job.idempotency_key),
        ("metadata", msgspec.json.encode(job.metadata).decode() if job.metadata else None),
        ("created", job.created_at),
        ("started", job.started_at),
        ("finished", job.finished_at),
        ("took", took),
    ]


def _show_batches(screen: Screen, batches: list[Batch]) -> None:
    screen.line("")
    screen.table(
        (
            *(Column("shard", number=True), Column("try", number=True), Column("state")),
            *(Column("requests", number=True), Column("succeeded", number=True)),
            *(Column("dead", number=True), Column("retried", number=True)),
            Column("batch at Together"),
        ),
        (
            (
                *(b.shard, b.attempt, b.state, b.requests, b.succeeded, b.dead, b.carried),
                _at_together(b),
            )
            for b in batches
        ),
    )


def _at_together(batch: Batch) -> str | None:
    if batch.provider_batch_id is None:
        return batch.last_error
    progress = f"{batch.progress:.0f} %" if batch.progress and batch.state == "created" else None
    status = None if batch.provider_status == "COMPLETED" else batch.provider_status
    words = (batch.provider_batch_id, status, progress, batch.last_error)
    return " ".join(filter(None, words))
