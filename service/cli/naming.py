"""Which job somebody means: an id, the beginning of one, or `-` for the last."""

import re
import sys
from uuid import UUID

import typer

from service.cli.api import Api
from service.cli.exits import Exit
from service.cli.session import connected

_BEGINNING = re.compile("[0-9a-fA-F-]{4,36}")
LAST = "-"
NAMED = 5
"""Jobs that are named where several are meant."""


def job_id(words: str) -> UUID:
    """Return the id of the job that is meant. Ends the command where that is not one job."""
    try:
        return UUID(words)
    except ValueError:
        pass
    if words != LAST and not _BEGINNING.fullmatch(words):
        raise typer.BadParameter(
            f"{words!r} is no job: give its id (a UUID), the first 4 digits of it or more,"
            " or - for the last job"
        )
    with connected() as api:
        return _last(api) if words == LAST else _that_begins(api, words)


def _last(api: Api) -> UUID:
    newest = next(api.jobs(limit=1), None)
    if newest is None:
        raise _refused("there is no job yet")
    return newest.value.uuid


def _that_begins(api: Api, words: str) -> UUID:
    found = [document.value.uuid for document in api.jobs(limit=NAMED + 1, id=words)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise _refused(f"there is no job whose id begins with {words}")
    named = ", ".join(map(str, found[:NAMED]))
    more = " and others" if len(found) > NAMED else ""
    raise _refused(f"several jobs have ids that begin with {words}: {named}{more}; give more of it")


def _refused(words: str) -> typer.Exit:
    sys.stderr.write(f"haulier: {words}\n")
    return typer.Exit(Exit.REFUSED)
