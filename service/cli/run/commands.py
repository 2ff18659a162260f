"""Commands that run Haulier's parts, and `haulier up`, which runs all of them."""

import os
import sys
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from config.logging import configure
from config.settings import settings
from service.cli.exits import Exit
from service.cli.run.worker import Queues, work
from service.rules.errors import BadInput

app = typer.Typer()

Port = Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")]
Host = Annotated[str, typer.Option(help="Address to listen on.")]


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
def migrate(
    runtime_role: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE",
            help="Give this role of the database the rights that the other processes need.",
        ),
    ] = None,
) -> None:
    """Bring the database to the newest schema."""
    from service.store.engine import (
        DATABASE_ERRORS,
        FORBIDDEN,
        first_line,
        is_unavailable,
        sqlstate,
    )
    from service.store.schema import migrate as run

    config = settings()
    config.required("database_url")
    configure(config)
    try:
        run(config.database_url or "", runtime_role=runtime_role)
    except BadInput as error:
        typer.echo(f"haulier migrate: --runtime-role: {error}", err=True)
        raise typer.Exit(Exit.REFUSED) from None
    except DATABASE_ERRORS as error:
        if is_unavailable(error):
            todo, status = "start Postgres, or correct DATABASE_URL", Exit.UNAVAILABLE
        elif sqlstate(error) == FORBIDDEN:
            todo, status = "let DATABASE_URL name the owner of the tables", Exit.REFUSED
        else:
            raise
        typer.echo(f"haulier migrate: {first_line(error)}: {todo}", err=True)
        raise typer.Exit(status) from None


@app.command()
def api(port: Port = 8080, host: Host = "127.0.0.1") -> None:
    """Serve the HTTP API."""
    from service.api.server import serve

    configure(settings())
    serve(settings(), host=host, port=port)


@app.command()
def openapi() -> None:
    """Print the HTTP API's OpenAPI document."""
    from service.api.app import application

    typer.echo(dumps(application().openapi(), indent=2, ensure_ascii=False))


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


def _become(module: str) -> None:
    """Replace this process: workers are started, never imported."""
    os.execv(sys.executable, [sys.executable, "-P", "-m", module])  # noqa: S606  our own module


@app.command()
def notifier() -> None:
    """Deliver notices. `haulier worker` runs one; several may run."""
    _become("workers.notifier")
