"""`haulier`: every command, and nothing but their arguments."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from config.logging import configure
from config.settings import SettingsError, settings

app = typer.Typer(
    name="haulier",
    help="A durable job queue for batch inference on Together AI.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Port = Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")]
Host = Annotated[str, typer.Option(help="Address to listen on.")]


@app.command()
def migrate() -> None:
    """Bring the database to the newest schema."""
    from service.store.engine import migrate as run

    config = settings()
    config.required("database_url")
    configure(config)
    run(config.database_url or "")


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
    from service.simulator.server import serve

    serve(port=port, host=host, batch_seconds=batch_seconds, scenario=scenario, data=data)


def _become(module: str) -> None:
    """Replace this process: workers are started, never imported."""
    os.execv(sys.executable, [sys.executable, "-m", module])  # noqa: S606  our own module


def main() -> None:
    """The console script. A bad setting ends it with the variable's name, not a traceback."""
    try:
        app()
    except SettingsError as error:
        sys.stderr.write(f"haulier: {error}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
