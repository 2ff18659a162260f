"""`haulier drain` and `resume process`: what a process takes."""

import sys
from typing import Annotated

import typer

from service.cli.api import Api
from service.cli.arguments import CLIENT, AsJson, DryRun
from service.cli.documents import Process, Status
from service.cli.exits import Exit
from service.cli.screen import clean, notes, output
from service.cli.session import connected

app = typer.Typer()

Name = Annotated[
    str,
    typer.Argument(
        metavar="PROCESS",
        help="A process: its id (haulier status), or any part of it that no other has.",
        show_default=False,
    ),
]


@app.command(rich_help_panel=CLIENT)
def drain(process: Name, dry_run: DryRun = False, json: AsJson = False) -> None:
    """Let a process finish what it has, and take nothing new (needs the admin token)."""
    with connected(dry_run=dry_run, as_json=json) as api:
        kind, found, others = _found(api, process)
        if not others:
            notes().line(f"It is the only {kind} that takes work: start another one first.")
        document = api.process(found.id, "drain")
        if json:
            output().line(document.line)
        else:
            output().line(f"{clean(found.id)} takes nothing new from now on.")
            output().line("`haulier status` says when it is drained.")
            output().line(f"To undo that: haulier resume process {clean(found.id)}")


def resume_process(process: Name, dry_run: DryRun = False, json: AsJson = False) -> None:
    """Let a process that was to be drained take work again (needs the admin token)."""
    with connected(dry_run=dry_run, as_json=json) as api:
        _, found, _ = _found(api, process)
        document = api.process(found.id, "resume")
        if json:
            output().line(document.line)
        else:
            output().line(f"{clean(found.id)} takes work again.")


def by_kind(status: Status) -> tuple[tuple[str, list[Process]], ...]:
    """Return the processes with the names of their kinds, in the order of the work."""
    return (
        ("worker", status.workers),
        ("scheduler", status.schedulers),
        ("inbox", status.inboxes),
        ("notifier", status.notifiers),
    )


def _found(api: Api, name: str) -> tuple[str, Process, int]:
    """Return the process that is meant, its kind, and how many others do the same work."""
    known = [(kind, one) for kind, several in by_kind(api.status().value) for one in several]
    found = [(kind, one) for kind, one in known if name == one.id] or [
        (kind, one) for kind, one in known if name in one.id
    ]
    if len(found) == 1:
        kind, process = found[0]
        same = [one for other, one in known if other == kind and one.id != process.id]
        others = [
            one for one in same if one.state == "running" and set(process.queues) <= set(one.queues)
        ]
        return kind, process, len(others)
    if found:
        ids = ", ".join(one.id for _, one in found)
        words = f"several processes have {name!r} in their ids: {ids}"
    else:
        words = f"there is no process {name!r}; `haulier status` lists them"
    sys.stderr.write(f"haulier: {clean(words)}\n")
    raise typer.Exit(Exit.REFUSED)
