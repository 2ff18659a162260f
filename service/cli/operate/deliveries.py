"""`haulier deliveries` and `redeliver`: the notices of a job."""

from typing import Annotated
from uuid import UUID

import typer

from service.cli.arguments import CLIENT, AsJson, Columns, DryRun, JobId
from service.cli.listing import listed
from service.cli.screen import clean, output
from service.cli.session import connected
from service.cli.tables import Column

app = typer.Typer()


@app.command(rich_help_panel=CLIENT)
def deliveries(job: JobId, json: AsJson = False, columns: Columns = None) -> None:
    """List a job's notices, oldest first, and what became of each."""
    with connected() as api:
        listed(
            api.deliveries(job),
            (
                *(Column("delivery"), Column("event", rank=2), Column("state", rank=0)),
                *(Column("tries", number=True), Column("to", rank=2)),
                Column("last error", wrap=True),
            ),
            lambda notice: (
                *(notice.id, notice.event, notice.state, notice.tries),
                *(notice.to, notice.last_error),
            ),
            as_json=json,
            chosen=columns,
        )


@app.command(rich_help_panel=CLIENT)
def redeliver(
    job: JobId,
    delivery: Annotated[UUID, typer.Argument(metavar="DELIVERY", help="The id of a notice.")],
    dry_run: DryRun = False,
    json: AsJson = False,
) -> None:
    """Send a notice again, with the same id."""
    with connected(dry_run=dry_run, as_json=json) as api:
        document = api.redeliver(job, delivery)
        if json:
            output().line(document.line)
        else:
            output().line(f"Delivery {delivery} to {clean(document.value.to)} is sent again.")
