"""`haulier accounts` and `status`: where work goes, and which processes are alive."""

from datetime import timedelta

import typer

from service.cli.arguments import CLIENT, AsJson
from service.cli.documents import Status
from service.cli.listing import listed
from service.cli.operate.processes import by_kind
from service.cli.screen import Screen, length, output
from service.cli.session import connected
from service.cli.show.paused import tell_paused
from service.cli.tables import Column

app = typer.Typer()


@app.command(rich_help_panel=CLIENT)
def accounts(json: AsJson = False) -> None:
    """List the Together accounts, and which of them are paused."""
    with connected() as api:
        listed(
            api.accounts(),
            (
                *(Column("account"), Column("state", rank=0), Column("key", rank=2)),
                *(Column("paused until"), Column("reason", wrap=True, rank=0)),
            ),
            lambda account: (
                *(account.name, account.state, "set" if account.configured else "not in the API"),
                *(account.paused_until, account.reason),
            ),
            as_json=json,
        )


@app.command(rich_help_panel=CLIENT)
def status(json: AsJson = False) -> None:
    """Show Haulier's processes and the batches under way."""
    with connected() as api:
        document = api.status()
        screen, found = output(), document.value
        if json:
            screen.line(document.line)
            return
        _processes(screen, found)
        batches = ", ".join(f"{n:,} {state}" for state, n in found.open_batches.items() if n)
        screen.line("")
        screen.line(f"open batches: {batches or 'none'}")
        tell_paused(api)


def _processes(screen: Screen, status: Status) -> None:
    kinds = by_kind(status)
    for kind, processes in kinds:
        if not processes:
            screen.line(f"No {kind} is running: start one with `haulier {kind}`")
    screen.table(
        (
            *(Column("process"), Column("id", rank=0), Column("state", rank=0)),
            *(Column("queues", rank=3), Column("slots", number=True, rank=2)),
            *(Column("version", rank=2), Column("started"), Column("last seen", rank=0)),
        ),
        (
            (
                *(kind, process.id, process.state, ", ".join(process.queues) or None),
                *(process.slots or None, process.version, process.started_at),
                *(f"{length(timedelta(seconds=process.age_seconds))} ago",),
            )
            for kind, processes in kinds
            for process in processes
        ),
    )
