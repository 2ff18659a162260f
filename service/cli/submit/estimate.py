"""`haulier estimate`."""

from pathlib import Path
from typing import Annotated

import typer

from service.cli.arguments import AsJson
from service.rules.requests import CHAT

app = typer.Typer()


@app.command()
def estimate(
    file: Annotated[Path, typer.Argument(help="Requests as JSONL; - is stdin.")],
    endpoint: Annotated[str | None, typer.Option(help=f"Default: {CHAT}.")] = None,
    json: AsJson = False,
) -> None:
    """Say what a file would be as a job: requests, batches, tokens, cost. Sends nothing."""
    from service.cli.submit.measure import show_estimate

    show_estimate(file, endpoint=endpoint, as_json=json)
