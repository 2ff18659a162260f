"""Arguments that many commands share."""

from typing import Annotated, Any
from uuid import UUID

import typer

from service.cli.when import WHEN, instant

CLIENT = "Commands that ask the API (HAULIER_URL, HAULIER_TOKEN)"
"""The panel of --help."""

AsJson = Annotated[bool, typer.Option("--json", help="JSON documents, one a line.")]

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")
]


def _names(words: str) -> list[str]:
    return [name for name in words.split(",") if name.strip()]


Columns = Annotated[
    Any,
    typer.Option(
        "--columns",
        metavar="NAMES",
        parser=_names,
        help="The columns to show, with commas between them; a wrong name lists all.",
        show_default=False,
    ),
]
"""A list of names, or None."""


def _job_ids(incomplete: str) -> list[tuple[str, str]]:
    from service.cli.completing import job_ids

    return job_ids(incomplete)


def _job_id(context: typer.Context, words: str) -> UUID | None:
    if context.resilient_parsing:
        return None  # somebody pressed Tab: nothing is looked up, and nothing complains
    from service.cli.naming import job_id

    return job_id(words)


JobId = Annotated[
    UUID,
    typer.Argument(
        metavar="JOB",
        help="A job's id, the first 4 digits of it or more, or - for the last job.",
        show_default=False,
        autocompletion=_job_ids,
        parser=str,
        callback=_job_id,
    ),
]

Since = Annotated[
    str | None,
    typer.Option("--since", metavar="WHEN", parser=instant, help=f"From then on: {WHEN}."),
]
Until = Annotated[
    str | None, typer.Option("--until", metavar="WHEN", parser=instant, help="Before then.")
]
