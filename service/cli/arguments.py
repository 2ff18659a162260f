"""Arguments that many commands share."""

from typing import Annotated
from uuid import UUID

import typer

CLIENT = "Commands that ask the API (HAULIER_URL, HAULIER_TOKEN)"
"""The panel of --help."""

AsJson = Annotated[bool, typer.Option("--json", help="JSON documents, one a line.")]


def _job_ids(incomplete: str) -> list[tuple[str, str]]:
    from service.cli.completing import job_ids

    return job_ids(incomplete)


JobId = Annotated[
    UUID,
    typer.Argument(metavar="JOB", help="A job's id.", show_default=False, autocompletion=_job_ids),
]
