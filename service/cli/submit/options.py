"""The options that say what a file holds, of `haulier submit` and `haulier estimate`."""

from pathlib import Path
from typing import Annotated

import typer

from service.cli.submit.formats import Format

TABLES = "Of CSV and Parquet, whose rows become chat requests"

File = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="JSONL, CSV or Parquet; - is stdin.", show_default=False),
]
Model = Annotated[str | None, typer.Option("--model", "-m", help="For requests that name none.")]
PromptColumn = Annotated[
    str | None, typer.Option(help="Whose cells are the prompts.", rich_help_panel=TABLES)
]
TemplateText = Annotated[
    str | None,
    typer.Option(help="A prompt with columns in it: 'Translate: {text}'.", rich_help_panel=TABLES),
]
System = Annotated[
    str | None, typer.Option(help="A system message for all.", rich_help_panel=TABLES)
]
IdColumn = Annotated[
    str | None,
    typer.Option(help="Whose cells are the custom_ids (else row-1, …).", rich_help_panel=TABLES),
]
Delimiter = Annotated[
    str | None,
    typer.Option(
        help="What separates the cells of CSV: ';' or '\\t'. Default: a comma.",
        rich_help_panel=TABLES,
    ),
]
Param = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="For all, as temperature=0; may be repeated.",
        rich_help_panel=TABLES,
    ),
]
FormatName = Annotated[Format | None, typer.Option(help="Where the file's name does not say.")]
SpecFile = Annotated[Path | None, typer.Option(help="A whole batch spec (JSON).")]
