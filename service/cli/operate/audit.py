"""`haulier audit`: what operators did."""

from typing import Annotated, Any

import msgspec
import typer

from service.cli.arguments import CLIENT, AsJson, Columns, Since, Until
from service.cli.documents import AuditLine
from service.cli.listing import listed
from service.cli.session import connected
from service.cli.tables import Column

app = typer.Typer()


@app.command(rich_help_panel=CLIENT)
def audit(
    *,
    actor: Annotated[
        str | None, typer.Option(help="Only what this one did: admin, producer:NAME or os:USER.")
    ] = None,
    verb: Annotated[str | None, typer.Option(help="Only deeds of this kind: add, cancel.")] = None,
    object_: Annotated[
        str | None,
        typer.Option(
            "--object", help="Only deeds on this, or on what belongs to it: producers/billing."
        ),
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, help="The most lines to list.")] = 20,
    json: AsJson = False,
    columns: Columns = None,
) -> None:
    """List what operators did, newest first (needs the admin token)."""
    filters = {"actor": actor, "verb": verb, "object": object_, "since": since, "until": until}
    with connected() as api:
        listed(
            api.items("/v1/audit", AuditLine, limit=limit, filters=filters),
            (
                *(Column("at"), Column("actor", rank=0), Column("verb", rank=0)),
                Column("object", wrap=True, rank=0),
                *(Column("before", wrap=True), Column("after", wrap=True)),
                *(Column("from", rank=2), Column("token", rank=2)),
            ),
            lambda line: (
                *(line.at, line.actor, line.verb, line.object),
                *(_shown(line.before), _shown(line.after), line.origin, line.credential),
            ),
            as_json=json,
            chosen=columns,
        )


def _shown(fields: dict[str, Any] | None) -> str | None:
    """The fields as people read them."""
    if fields is None:
        return None
    return ", ".join(f"{k}={msgspec.json.encode(v).decode()}" for k, v in fields.items())
