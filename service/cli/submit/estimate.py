"""`haulier estimate`."""

from typing import Annotated

import typer

from service.cli.arguments import AsJson, Columns
from service.cli.submit.options import (
    Delimiter,
    File,
    FormatName,
    IdColumn,
    Model,
    Param,
    PromptColumn,
    SpecFile,
    System,
    TemplateText,
)
from service.rules.requests import CHAT

app = typer.Typer()


@app.command()
def estimate(
    *,
    file: File = None,
    model: Model = None,
    prompt_column: PromptColumn = None,
    template: TemplateText = None,
    system: System = None,
    id_column: IdColumn = None,
    delimiter: Delimiter = None,
    param: Param = None,
    format: FormatName = None,  # noqa: A002 - the option's name
    endpoint: Annotated[str | None, typer.Option(help=f"Default: {CHAT}.")] = None,
    spec: SpecFile = None,
    json: AsJson = False,
    columns: Columns = None,
) -> None:
    """Say what a file would be as a job: requests, batches, tokens, cost. Sends nothing."""
    from service.cli.submit.asked import Asked, Table
    from service.cli.submit.measure import show_estimate

    asked = Asked(
        file=file,
        spec=spec,
        model=model,
        form=format,
        table=Table(
            prompt_column=prompt_column,
            template=template,
            system=system,
            id_column=id_column,
            delimiter=delimiter,
            params=tuple(param or ()),
        ),
        endpoint=endpoint,
    )
    show_estimate(asked, as_json=json, chosen=columns)
