"""`haulier cancel`, `retry`, `release` and `abandon`."""

from typing import Annotated

import typer

from service.cli.arguments import CLIENT, AsJson, DryRun, JobId
from service.cli.screen import output
from service.cli.session import connected

app = typer.Typer()


@app.command(rich_help_panel=CLIENT)
def cancel(job: JobId, dry_run: DryRun = False, json: AsJson = False) -> None:
    """Cancel a job. Requests that are done by then keep their results."""
    with connected(dry_run=dry_run, as_json=json) as api:
        document = api.cancel(job)
        if json:
            output().line(document.line)
        elif document.value.ended:
            output().line(f"Job {job} is {document.value.state}.")
        else:
            output().line(f"Job {job} is being cancelled. Results that are there are kept.")


@app.command(rich_help_panel=CLIENT)
def retry(
    job: JobId,
    custom_ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CUSTOM_ID]...", help="The failed requests to retry; all if left out."
        ),
    ] = None,
    *,
    cause: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Those that failed for this cause (haulier failures JOB --by cause)."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="With --cause: the most requests to retry.")
    ] = None,
    dry_run: DryRun = False,
    json: AsJson = False,
) -> None:
    """Retry failed requests of a finished job, with a fresh set of attempts."""
    if cause is not None and custom_ids:
        raise typer.BadParameter("name custom_ids or --cause, not both")
    if limit is not None and cause is None:
        raise typer.BadParameter("--limit goes with --cause")
    with connected(dry_run=dry_run, as_json=json) as api:
        document = api.retry(job, custom_ids or None, cause=cause, limit=limit)
        if json:
            output().line(document.line)
        else:
            pending = document.value.pending
            output().line(f"Job {job} is running again: {pending:,} requests are pending.")


@app.command(rich_help_panel=CLIENT)
def release(
    job: JobId,
    max_cost: Annotated[
        str | None, typer.Option(metavar="USD", help="Let the job cost so much from now on.")
    ] = None,
    dry_run: DryRun = False,
    json: AsJson = False,
) -> None:
    """Let the rest of a job go that its canary or its max_cost holds."""
    with connected(dry_run=dry_run, as_json=json) as api:
        document = api.release(job, max_cost)
        if json:
            output().line(document.line)
        else:
            output().line(f"Job {job} goes on: {document.value.pending:,} requests are pending.")


@app.command(rich_help_panel=CLIENT)
def abandon(
    job: JobId,
    dead: Annotated[
        bool, typer.Option("--dead", help="Their requests become dead letters.")
    ] = False,
    again: Annotated[
        bool,
        typer.Option("--again", help="Their requests go into new batches, and may be paid twice."),
    ] = False,
    dry_run: DryRun = False,
    json: AsJson = False,
) -> None:
    """Give up the batches of a job that wait for an operator (needs the admin token)."""
    if dead == again:
        raise typer.BadParameter("say what becomes of the requests: --dead or --again")
    with connected(dry_run=dry_run, as_json=json) as api:
        document = api.abandon(job, "again" if again else "dead")
        if json:
            output().line(document.line)
        else:
            fate = "go into new batches" if again else "become dead letters"
            output().line(f"The parked batches of job {job} are given up: their requests {fate}.")
