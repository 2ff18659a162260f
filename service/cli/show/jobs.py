"""`haulier jobs`, `show` and `request`."""

from functools import partial
from itertools import islice
from typing import Annotated

import msgspec
import typer

from service.cli.api import Api
from service.cli.arguments import CLIENT, AsJson, Columns, JobId, Since, Until
from service.cli.documents import Batch, Job
from service.cli.listing import listed
from service.cli.screen import Screen, age, escaped, length, output, usd
from service.cli.session import connected
from service.cli.show.batches import Batches
from service.cli.show.forecasts import ending
from service.cli.show.paused import tell_paused
from service.cli.show.states import state_of
from service.cli.tables import Column
from service.rules.states import JobState

app = typer.Typer()

FIRST_PARTS = 200
_STATES = ", ".join(JobState)


def _mark(words: str) -> str:
    """Return a mark as the API takes it: `key=value` becomes `key:value`."""
    key, equals, value = words.partition("=")
    if words.startswith("{") or not equals or ":" in key:
        return words
    return f"{key}:{value}"


@app.command(rich_help_panel=CLIENT)
def jobs(
    *,
    state: Annotated[
        JobState | None, typer.Option(metavar="STATE", help=f"Only jobs in this state: {_STATES}.")
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            parser=_mark,
            help="Only jobs with this metadata; a JSON object as well. May be repeated.",
        ),
    ] = None,
    producer: Annotated[
        str | None, typer.Option(help="Only jobs of this producer (admin).")
    ] = None,
    since: Since = None,
    until: Until = None,
    calls: Annotated[
        bool, typer.Option("--calls", help="Only jobs that came as calls, and are not listed else.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="The most jobs to list.")] = 20,
    json: AsJson = False,
    columns: Columns = None,
) -> None:
    """List jobs, newest first."""
    with connected() as api:
        found = api.jobs(
            limit=limit,
            state=state,
            metadata=metadata,
            producer=producer,
            created_after=since,
            created_before=until,
            calls=calls or None,
        )
        listed(
            found,
            (
                *(Column("job"), Column("state", rank=0), Column("succeeded", number=True)),
                *(Column("failed", number=True), Column("age", number=True)),
                *(Column("producer", extra=True), Column("account", extra=True)),
                *(Column("model", wrap=True, extra=True), Column("endpoint", extra=True)),
                Column("cost (USD)", number=True, extra=True),
                *(Column("priority", number=True, extra=True), Column("created", extra=True)),
                *(Column("finished", extra=True), Column("deadline", extra=True)),
                *(Column("done", wrap=True, extra=True), Column("metadata", wrap=True, extra=True)),
            ),
            lambda job: (
                *(job.id, state_of(job), f"{job.succeeded:,} of {job.total:,}", job.failed),
                *(age(job.created_at), job.producer, job.account),
                *(partial(_models, api, job), job.endpoint, partial(_cost, api, job)),
                *(job.priority, job.created_at, job.finished_at, job.deadline),
                *(ending(job.forecast), _marks(job)),
            ),
            as_json=json,
            chosen=columns,
        )
        if not json:
            tell_paused(api)


def _models(api: Api, job: Job) -> str | None:
    """The models of a job, as its first parts show them: it has 64 at most."""
    found = islice(api.batches(job.uuid), FIRST_PARTS)
    names = sorted({document.value.model for document in found})
    return ", ".join(names) or None


def _cost(api: Api, job: Job) -> str:
    """What the settled batches of a job cost."""
    cost = api.job_usage(job.uuid).value.total.estimated_cost
    return "unknown" if cost is None else usd(cost)


def _marks(job: Job) -> str | None:
    return msgspec.json.encode(job.metadata).decode() if job.metadata else None


@app.command(rich_help_panel=CLIENT)
def show(job: JobId, json: AsJson = False, columns: Columns = None) -> None:
    """Show a job and its batches; with --json, the job alone."""
    with connected() as api:
        document = api.job(job)
        screen = output()
        if json:
            screen.line(document.line)
            return
        batches = [batch.value for batch in api.batches(job)]
        screen.fields(_fields(document.value, batches))
        if batches:
            _show_batches(screen, batches, columns)


@app.command(rich_help_panel=CLIENT)
def request(
    job: JobId,
    custom_id: Annotated[
        str,
        typer.Argument(
            metavar="CUSTOM_ID", help="The custom_id of the request.", show_default=False
        ),
    ],
    json: AsJson = False,
    columns: Columns = None,
) -> None:
    """Show one request of a job: its outcome, its attempts and its result."""
    with connected() as api:
        document = api.request(job, custom_id)
    screen, found = output(), document.value
    if json:
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
                *(Column("try", number=True), Column("outcome", rank=0)),
                *(Column("batch at Together"), Column("error", wrap=True, rank=0)),
            ),
            ((a.attempt, a.outcome, a.provider_batch_id, a.error) for a in found.attempts),
            columns,
        )
    if bytes(found.result) != b"null":
        screen.line("")
        screen.line(escaped(bytes(found.result).decode()))


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
        ("done", ending(job.forecast)),
        ("parked", job.parked_at),
        ("held", job.held_at),
        ("error", job.error),
        *(("", str(problem)) for problem in job.problems or () if str(problem) != job.error),
        ("last trouble", job.last_error),
        ("requests", f"{job.total:,}: {counts}"),
        ("tokens", f"{usage.total_tokens:,}: {tokens}"),
        *(("odd answers", words) for words in Batches(batches).odd()),
        ("endpoint", job.endpoint),
        *(("model", model) for model in sorted({batch.model for batch in batches})),
        ("account", job.account),
        ("producer", job.producer),
        ("attempts", job.max_attempts and f"{job.max_attempts} at most for a request"),
        ("check", _shortened(job.check)),
        ("canary", job.canary and f"{job.canary:,}, of which {job.canary_failures:,} may fail"),
        ("max cost", job.max_cost and f"{job.max_cost} USD"),
        ("deadline", job.deadline),
        ("", "missed" if job.deadline_missed_at else None),
        ("at risk", None if job.deadline_missed_at else job.deadline_at_risk_since),
        ("priority", _priority(job)),
        ("key", job.idempotency_key),
        ("metadata", _marks(job)),
        ("created", job.created_at),
        ("started", job.started_at),
        ("finished", job.finished_at),
        ("took", took),
    ]


def _priority(job: Job) -> str | None:
    if job.raised_priority is None:
        return str(job.priority) if job.priority else None
    return f"{job.raised_priority}, raised from {job.priority} because of the deadline"


def _shortened(check: msgspec.Raw) -> str | None:
    words = bytes(check).decode()
    return None if words == "null" else words if len(words) <= 200 else f"{words[:200]}…"


def _show_batches(screen: Screen, batches: list[Batch], chosen: list[str] | None) -> None:
    screen.line("")
    screen.table(
        (
            *(Column("shard", number=True), Column("try", number=True, rank=2)),
            *(Column("state", rank=0), Column("requests", number=True)),
            *(Column("succeeded", number=True, rank=2), Column("dead", number=True, rank=2)),
            *(Column("retried", number=True, rank=3), Column("batch at Together", rank=0)),
            Column("how it is", wrap=True),
        ),
        (
            (
                *(b.shard, b.attempt, b.state, b.requests, b.succeeded, b.dead, b.carried),
                *(b.provider_batch_id, _at_together(b)),
            )
            for b in batches
        ),
        chosen,
    )


def _at_together(batch: Batch) -> str | None:
    progress = f"{batch.progress:.0f} %" if batch.progress and batch.state == "created" else None
    status = None if batch.provider_status == "COMPLETED" else batch.provider_status
    return " ".join(filter(None, (status, progress, batch.last_error))) or None
