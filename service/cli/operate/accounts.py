"""`haulier accounts` and `status`: where work goes, and which processes are alive."""

from datetime import timedelta
from typing import Annotated

import typer

from service.cli.arguments import CLIENT, AsJson, Columns, DryRun
from service.cli.documents import Status
from service.cli.listing import listed
from service.cli.operate.processes import by_kind
from service.cli.screen import Screen, clean, length, output
from service.cli.session import connected
from service.cli.show.paused import reason_of, tell_paused
from service.cli.tables import Column

app = typer.Typer()


@app.command(rich_help_panel=CLIENT)
def accounts(json: AsJson = False, columns: Columns = None) -> None:
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
                *(account.paused_until, reason_of(account)),
            ),
            as_json=json,
            chosen=columns,
        )


Name = Annotated[str, typer.Argument(metavar="NAME", help="An account.", show_default=False)]


def pause_account(
    name: Name,
    reason: Annotated[
        str,
        typer.Option(help="Why: `accounts`, `status` and `show` say so.", show_default=False),
    ],
    dry_run: DryRun = False,
    json: AsJson = False,
) -> None:
    """Let nothing be sent to an account until it is resumed (needs the admin token)."""
    words = "is paused: nothing is sent to it. What Together holds is fetched."
    _verb(name, "pause", words, dry_run=dry_run, json=json, reason=reason)


def resume_account(name: Name, dry_run: DryRun = False, json: AsJson = False) -> None:
    """End an operator's pause of an account (needs the admin token)."""
    _verb(name, "resume", "is resumed.", dry_run=dry_run, json=json)


def probe_account(name: Name, dry_run: DryRun = False, json: AsJson = False) -> None:
    """Try an account that Together refused, as after topping up (needs the admin token)."""
    words = "is being probed: its pause is over. If Together refused it, one batch goes first."
    _verb(name, "probe", words, dry_run=dry_run, json=json)


def _verb(
    name: str, verb: str, words: str, *, dry_run: bool, json: bool, reason: str | None = None
) -> None:
    with connected(dry_run=dry_run, as_json=json) as api:
        document = api.account(name, verb, reason)
        if json:
            output().line(document.line)
            return
        output().line(clean(f"Account {name} {words}"))
        if verb == "resume" and document.value.state == "paused":
            output().line(clean(f"Together still refuses it: {document.value.reason}"))


@app.command(rich_help_panel=CLIENT)
def status(json: AsJson = False, columns: Columns = None) -> None:
    """Show Haulier's processes and the batches under way."""
    with connected() as api:
        document = api.status()
        screen, found = output(), document.value
        if json:
            screen.line(document.line)
            return
        _processes(screen, found, columns)
        batches = ", ".join(f"{n:,} {state}" for state, n in found.open_batches.items() if n)
        screen.line("")
        screen.line(f"open batches: {batches or 'none'}")
        tell_paused(api)


def _processes(screen: Screen, status: Status, chosen: list[str] | None) -> None:
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
        chosen,
    )
