"""The arguments of `haulier submit`."""

from pathlib import Path
from typing import Annotated

import typer

from service.cli.arguments import CLIENT, AsJson
from service.cli.formats import Format
from service.rules.requests import CHAT

app = typer.Typer()

TABLES = "Of CSV and Parquet, whose rows become chat requests"


@app.command(rich_help_panel=CLIENT)
def submit(
    *,
    file: Annotated[
        Path | None, typer.Argument(help="JSONL, CSV or Parquet; - is stdin.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="For requests that name none.")
    ] = None,
    prompt_column: Annotated[
        str | None, typer.Option(help="Whose cells are the prompts.", rich_help_panel=TABLES)
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help="A prompt with columns in it: 'Translate: {text}'.", rich_help_panel=TABLES
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="A system message for all.", rich_help_panel=TABLES)
    ] = None,
    id_column: Annotated[
        str | None,
        typer.Option(
            help="Whose cells are the custom_ids (else row-1, …).", rich_help_panel=TABLES
        ),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="For all, as temperature=0; may be repeated.",
            rich_help_panel=TABLES,
        ),
    ] = None,
    format: Annotated[  # noqa: A002 - the option's name
        Format | None, typer.Option(help="Where the file's name does not say.")
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
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", dir_okay=False, help="With --wait: write the results there."
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Submit requests as a job, and print the job's id."""
    from service.cli.asked import Asked, Table
    from service.cli.submit import submit

    submit(
        Asked(
            file=file,
            spec=spec,
            model=model,
            form=format,
            table=Table(
                prompt_column=prompt_column,
                template=template,
                system=system,
                id_column=id_column,
                params=tuple(param or ()),
            ),
            endpoint=endpoint,
            account=account,
            max_attempts=max_attempts,
            priority=priority,
            metadata=metadata,
            idempotency_key=idempotency_key,
        ),
        wait=wait,
        target=output,
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
