"""The arguments of `haulier submit`."""

from pathlib import Path
from typing import Annotated

import typer

from service.cli.arguments import CLIENT, AsJson
from service.lines import CHAT

app = typer.Typer()


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


@app.command()
def estimate(
    file: Annotated[Path, typer.Argument(help="Requests as JSONL; - is stdin.")],
    endpoint: Annotated[str | None, typer.Option(help=f"Default: {CHAT}.")] = None,
    json: AsJson = False,
) -> None:
    """Say what a file would be as a job: requests, batches, tokens, cost. Sends nothing."""
    from service.cli.estimate import estimate

    estimate(file, endpoint=endpoint, as_json=json)
