"""`haulier lanes`, and `pause`, `resume` and `probe` of a lane."""

import sys
from typing import Annotated

import typer

from service.cli.api import Api
from service.cli.arguments import CLIENT, AsJson, Columns, DryRun
from service.cli.documents import Lane
from service.cli.exits import Exit
from service.cli.listing import listed
from service.cli.operate.accounts import pause_account, probe_account, resume_account
from service.cli.operate.processes import resume_process
from service.cli.screen import clean, output
from service.cli.session import connected
from service.cli.show.forecasts import ending
from service.cli.tables import Column

app = typer.Typer()


@app.command(rich_help_panel=CLIENT)
def lanes(json: AsJson = False, columns: Columns = None) -> None:
    """List the lanes (account, endpoint, model): how each is, and what comes next."""
    with connected() as api:
        listed(
            api.lanes(),
            (
                *(Column("lane"), Column("account"), Column("endpoint", rank=2)),
                *(Column("model", rank=0), Column("state", rank=0)),
                *(Column("since", rank=3), Column("until", rank=2)),
                Column("done", wrap=True, rank=2),
                *(Column("failed", wrap=True), Column("next", wrap=True)),
            ),
            lambda lane: (
                *(lane.id, lane.account, lane.endpoint, lane.model),
                *("paused" if lane.paused_at else lane.state, lane.paused_at or lane.since),
                *(lane.until, ending(lane.forecast), _evidence(lane), lane.next),
            ),
            as_json=json,
            chosen=columns,
        )


def _evidence(lane: Lane) -> str | None:
    found = lane.evidence
    return None if found is None else f"{found.kind}: {found.text}"


Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A lane: its id, its model, or `account endpoint model` in quotes.",
        show_default=False,
    ),
]


def _verb(verb: str, about: str, does: str, done: str) -> typer.Typer:
    """The command `haulier VERB lane NAME`."""
    made = typer.Typer(name=verb, help=about, no_args_is_help=True)

    @made.callback()
    def of_something() -> None:
        """Keep `lane` a word of its own, though it is the only one."""

    @made.command(name="lane", help=does)
    def lane(name: Name, dry_run: DryRun = False, json: AsJson = False) -> None:
        with connected(dry_run=dry_run, as_json=json) as api:
            document = api.lane(_found(api, name).id, verb)
            if json:
                output().line(document.line)
                return
            value = document.value
            where = f"{value.model} ({value.account}, {value.endpoint})"
            output().line(f"{done.format(where=clean(where))}: {value.next}.")

    return made


VERBS = (
    _verb(
        "pause",
        "Pause a lane or an account.",
        "Let nothing be sent into a lane until it is resumed (needs the admin token).",
        "{where} is paused",
    ),
    _verb(
        "resume",
        "Resume a lane, an account or a process.",
        "End a lane's pause, or its rest: what waits is admitted (needs the admin token).",
        "{where} goes on",
    ),
    _verb(
        "probe",
        "Probe a lane or an account.",
        "Let a probe of a few requests into a lane that rests (needs the admin token).",
        "{where} is being probed",
    ),
)


PAUSE, RESUME, PROBE = VERBS
PAUSE.command(name="account")(pause_account)
RESUME.command(name="account")(resume_account)
RESUME.command(name="process")(resume_process)
PROBE.command(name="account")(probe_account)


def _found(api: Api, name: str) -> Lane:
    known = [document.value for document in api.lanes()]
    found = [lane for lane in known if name in _names(lane)]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(f"{lane.id} ({lane.account}, {lane.endpoint})" for lane in found)
        words = f"several lanes have the model {name!r}; name one by its id: {ids}"
    else:
        words = f"there is no lane {name!r}; `haulier lanes` lists them"
    sys.stderr.write(f"haulier: {clean(words)}\n")
    raise typer.Exit(Exit.REFUSED)


def _names(lane: Lane) -> tuple[str, ...]:
    return lane.id, lane.model, f"{lane.account} {lane.endpoint} {lane.model}"
