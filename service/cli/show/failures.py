"""`haulier failures` and `errors`: what failed for good, one by one or by cause."""

from enum import StrEnum
from typing import Annotated

import typer

from service.cli.arguments import CLIENT, AsJson, Columns, JobId, Since, Until
from service.cli.documents import Causes
from service.cli.listing import listed
from service.cli.screen import Screen, age, local, output
from service.cli.session import connected
from service.cli.tables import Column

app = typer.Typer()


class By(StrEnum):
    CAUSE = "cause"


@app.command(rich_help_panel=CLIENT)
def failures(
    job: JobId,
    by: Annotated[
        By | None, typer.Option(help="Group them, with counts and an example.", show_default=False)
    ] = None,
    json: AsJson = False,
    columns: Columns = None,
) -> None:
    """List the requests of a job that failed for good, in input order, or by cause."""
    with connected() as api:
        if by is By.CAUSE:
            document = api.causes(job)
            screen = output()
            if json:
                screen.line(document.line)
                return
            _show_causes(screen, document.value, columns)
            if document.value.data:
                screen.line(f"To try five of a cause: haulier retry {job} --cause ID --limit 5")
            return
        listed(
            api.failures(job),
            (
                *(Column("custom_id"), Column("code"), Column("attempts", number=True, rank=2)),
                Column("message", wrap=True, rank=0),
            ),
            lambda failure: (failure.custom_id, failure.code, failure.attempts, failure.message),
            as_json=json,
            chosen=columns,
        )


@app.command(rich_help_panel=CLIENT)
def errors(
    *,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The most causes to list.")] = 20,
    json: AsJson = False,
    columns: Columns = None,
) -> None:
    """List what failed for good in all jobs in the last day, or --since, grouped by cause."""
    with connected() as api:
        document = api.errors(since=since, until=until, limit=limit)
    screen = output()
    if json:
        screen.line(document.line)
        return
    found = document.value
    if found.data:
        _show_causes(screen, found, columns, with_jobs=True)
    else:
        screen.line(f"No request failed for good since {_when(found)}.")


def _show_causes(
    screen: Screen, found: Causes, chosen: list[str] | None, *, with_jobs: bool = False
) -> None:
    jobs = (Column("jobs", number=True),) if with_jobs else ()
    screen.table(
        (
            *(Column("cause"), Column("requests", number=True, rank=0), *jobs),
            *(Column("code", rank=0), Column("message", wrap=True, rank=0)),
            *(Column("last", number=True), Column("example", rank=2)),
        ),
        (
            (
                *(cause.id, cause.requests, *((cause.jobs,) if with_jobs else ())),
                *(cause.code, cause.text, age(cause.last_at)),
                cause.examples[-1].custom_id if cause.examples else None,
            )
            for cause in found.data
        ),
        chosen,
    )
    told = sum(cause.requests for cause in found.data)
    if told < found.requests:
        screen.line(f"And {found.requests - told:,} failed requests of rarer causes.")
    if not found.is_complete:
        screen.line(
            f"Only {found.requests:,} failed requests were looked at; there may be more of them."
        )


def _when(found: Causes) -> str:
    return "then" if found.since is None else local(found.since)
