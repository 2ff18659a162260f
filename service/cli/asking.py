"""The arguments of commands that ask the API about what is there already."""

from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

import typer

from service.cli.arguments import CLIENT, AsJson, JobId
from service.rules.states import JobState

app = typer.Typer()

Outcome = Literal["succeeded", "failed"]


@app.command(rich_help_panel=CLIENT)
def jobs(
    *,
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(help="Only those that have it: KEY:VALUE, or a JSON object. May be repeated."),
    ] = None,
    producer: Annotated[str | None, typer.Option(help="Only this producer's (admin).")] = None,
    since: Annotated[
        str | None, typer.Option(help="Submitted at this instant (2026-11-22T12:00:00Z) or later.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Submitted before this instant.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    from service.cli.jobs import jobs

    jobs(
        limit=limit,
        as_json=json,
        state=state,
        metadata=metadata,
        producer=producer,
        created_after=since,
        created_before=until,
    )


@app.command(rich_help_panel=CLIENT)
def request(
    job: JobId,
    custom_id: Annotated[str, typer.Argument(help="Of the request.", show_default=False)],
    json: AsJson = False,
) -> None:
    """Show one request of a job: its outcome, its attempts, its result."""
    from service.cli.jobs import request

    request(job, custom_id, as_json=json)


@app.command(rich_help_panel=CLIENT)
def show(job: JobId, json: AsJson = False) -> None:
    """Show a job and its batches."""
    from service.cli.jobs import show

    show(job, as_json=json)


@app.command(rich_help_panel=CLIENT)
def watch(job: JobId, json: AsJson = False) -> None:
    """Show how a job goes until it ends. Ctrl-C leaves the job running."""
    from service.cli.watch import watch

    watch(job, as_json=json)


@app.command(rich_help_panel=CLIENT)
def results(
    job: JobId,
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="A file, instead of stdout."),
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Just the answers.")] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Those that are there, before the end.")
    ] = False,
    only: Annotated[
        Outcome | None, typer.Option(help="The lines of one outcome.", show_default=False)
    ] = None,
    json: AsJson = False,
) -> None:
    """Fetch a job's results: JSONL in input order; a table into .csv or .parquet."""
    from service.cli.results import results

    results(job, output, text=text, partial=partial, only=only, as_json=json)


@app.command(rich_help_panel=CLIENT)
def failures(job: JobId, json: AsJson = False) -> None:
    """List the requests of a job that failed for good."""
    from service.cli.jobs import failures

    failures(job, as_json=json)


@app.command(rich_help_panel=CLIENT)
def cancel(job: JobId, json: AsJson = False) -> None:
    """Cancel a job. What is done by then is kept."""
    from service.cli.jobs import cancel

    cancel(job, as_json=json)


@app.command(rich_help_panel=CLIENT)
def retry(
    job: JobId,
    custom_ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CUSTOM_ID]...", help="Which; all failed ones if left out."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Run failed requests of a finished job again, with all their attempts before them."""
    from service.cli.jobs import retry

    retry(job, custom_ids or None, as_json=json)


@app.command(rich_help_panel=CLIENT)
def accounts(json: AsJson = False) -> None:
    """List the Together accounts, and which of them are paused."""
    from service.cli.operating import accounts

    accounts(as_json=json)


@app.command(rich_help_panel=CLIENT)
def status(json: AsJson = False) -> None:
    """Show Haulier's processes and the batches under way."""
    from service.cli.operating import status

    status(as_json=json)


@app.command(rich_help_panel=CLIENT)
def usage(
    since: Annotated[
        str | None, typer.Option("--from", metavar="DAY", help="Default: 29 days before --to.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", metavar="DAY", help="The last day (UTC); default: today.")
    ] = None,
    by: Annotated[str, typer.Option(help="Some of day, model, producer, account.")] = "day,model",
    json: AsJson = False,
) -> None:
    """Show what was used, and what it is thought to have cost."""
    from service.cli.usage import usage

    usage(since=since, until=until, by=by, as_json=json)


@app.command(rich_help_panel=CLIENT)
def deliveries(job: JobId, json: AsJson = False) -> None:
    """List a job's notices, and what became of each."""
    from service.cli.deliveries import deliveries

    deliveries(job, as_json=json)


@app.command(rich_help_panel=CLIENT)
def redeliver(
    job: JobId,
    delivery: Annotated[UUID, typer.Argument(metavar="DELIVERY", help="A notice's id.")],
    json: AsJson = False,
) -> None:
    """Send a notice again, with the same id."""
    from service.cli.deliveries import redeliver

    redeliver(job, delivery, as_json=json)
