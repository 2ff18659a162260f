"""`haulier`: every command, and nothing but their arguments."""

import os
import sys
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from config.logging import configure
from config.settings import SettingsError, settings
from service.cli.worker import Queues, work
from service.lines import CHAT
from service.states import JobState

app = typer.Typer(
    name="haulier",
    help="A durable job queue for batch inference on Together AI.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Port = Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
CLIENT = "Commands that ask the API (HAULIER_URL, HAULIER_TOKEN)"
AsJson = Annotated[bool, typer.Option("--json", help="JSON documents, one a line.")]
JobId = Annotated[UUID, typer.Argument(metavar="JOB", help="A job's id.", show_default=False)]


@app.command()
def up(
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Play Together too: no key, no cost.")
    ] = False,
    port: Port = 8080,
    batch_seconds: Annotated[
        float | None, typer.Option(help="How long a simulated batch takes.")
    ] = None,
) -> None:
    """Run everything on this machine until Ctrl-C."""
    from service.cli.up.command import up as run

    configure(settings())
    raise typer.Exit(run(settings(), simulate=simulate, port=port, batch_seconds=batch_seconds))


@app.command()
def migrate() -> None:
    """Bring the database to the newest schema."""
    from service.store.schema import migrate as run

    config = settings()
    config.required("database_url")
    configure(config)
    run(config.database_url or "")


@app.command()
def api(port: Port = 8080, host: Host = "127.0.0.1") -> None:
    """Serve the HTTP API."""
    from service.api.server import serve

    configure(settings())
    serve(settings(), host=host, port=port)


@app.command()
def worker(
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Processes for transfers (default: HAULIER_CONCURRENCY, or 2)."),
    ] = None,
    queues: Annotated[
        Queues, typer.Option(help="Both kinds of work, with slots of their own, or one.")
    ] = Queues.ALL,
) -> None:
    """Do the work: upload, create, poll, fetch. Several may run."""
    work(settings(), queues=queues, concurrency=concurrency)


@app.command()
def scheduler() -> None:
    """Tell the workers what is due. Several may run."""
    _become("workers.scheduler")


@app.command()
def inbox() -> None:
    """Read producers' submissions from the queue. Several may run."""
    _become("workers.inbox")


@app.command()
def simulator(
    port: Port = 8081,
    host: Host = "127.0.0.1",
    batch_seconds: Annotated[float, typer.Option(help="How long a batch takes.")] = 1.0,
    scenario: Annotated[
        Path | None, typer.Option(help="Switches, rules and faults (JSON).")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Where it keeps its state.")] = None,
) -> None:
    """Serve a Together of your own, for tests and staging."""
    from service.simulator.server import CannotServe, serve

    try:
        serve(port=port, host=host, batch_seconds=batch_seconds, scenario=scenario, data=data)
    except CannotServe as error:
        typer.echo(f"haulier simulator: {error}", err=True)
        raise typer.Exit(2) from None


@app.command(rich_help_panel=CLIENT)
def submit(
    *,
    file: Annotated[
        Path | None, typer.Argument(help="Requests as JSONL; - is stdin.", show_default=False)
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help=f"Default: {CHAT}.")] = None,
    account: Annotated[str | None, typer.Option(help="Whose key is used.")] = None,
    max_attempts: Annotated[int | None, typer.Option(help="Of each request.")] = None,
    priority: Annotated[int | None, typer.Option(help="Higher goes first.")] = None,
    metadata: Annotated[str | None, typer.Option(help="A JSON object to find the job by.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Submit once, however often this is run.")
    ] = None,
    spec: Annotated[Path | None, typer.Option(help="A whole batch spec (JSON).")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show how it goes until it ends.")] = False,
    json: AsJson = False,
) -> None:
    """Submit requests as a job, and print the job's id."""
    from service.cli.submit import Asked, submit

    submit(
        Asked(
            file=file,
            spec=spec,
            endpoint=endpoint,
            account=account,
            max_attempts=max_attempts,
            priority=priority,
            metadata=metadata,
            idempotency_key=idempotency_key,
        ),
        wait=wait,
        as_json=json,
    )


@app.command(rich_help_panel=CLIENT)
def jobs(
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    from service.cli.jobs import jobs

    jobs(state=state, limit=limit, as_json=json)


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
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="A file, instead of stdout."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Those that are there, before the end.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Fetch a job's results: JSONL in input order."""
    from service.cli.results import results

    results(job, output, partial=partial, as_json=json)


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


def _become(module: str) -> None:
    """Replace this process: workers are started, never imported."""
    os.execv(sys.executable, [sys.executable, "-P", "-m", module])  # noqa: S606  our own module


def main() -> None:
    """The console script. A bad setting ends it with the variable's name, not a traceback."""
    try:
        app()
    except SettingsError as error:
        sys.stderr.write(f"haulier: {error}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
