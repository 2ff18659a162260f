"""What all client commands share: a connection, and an end without a traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from haulier_client import HaulierError, NotHaulier, ProblemError, ResultsChanged, Unreachable

from config.settings import settings
from service.cli.api import Api, Rehearsed, is_away
from service.cli.exits import Exit
from service.cli.place import Place, find, is_local
from service.cli.screen import clean, output
from service.cli.show.changes import tell_changes


@contextmanager
def connected(*, dry_run: bool = False, as_json: bool = False) -> Iterator[Api]:
    """Yield the API. An error ends the command with a message and an exit status.

    The first verb of a dry run ends the command as well, with what would change.
    """
    place = find(settings())
    try:
        with _opened(place, dry_run=dry_run) as api:
            yield api
        sys.stdout.flush()
    except Rehearsed as rehearsed:
        if as_json:
            output().line(rehearsed.preview.line)
        else:
            tell_changes(output(), rehearsed.preview.value)
        raise typer.Exit from None
    except HaulierError as error:
        _say(error, place)
        raise typer.Exit(status_of(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None
    except BrokenPipeError:
        # The interpreter flushes its buffers when it ends, and nobody reads them.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(Exit.CLOSED) from None


def _opened(place: Place, *, dry_run: bool) -> Api:
    for note in (*place.notes, *_warnings(place)):
        typer.echo(f"haulier: {clean(note)}", err=True)
    try:
        return Api(place, dry_run=dry_run)
    except UnicodeEncodeError:
        words = f"{place.source}: contains characters that no token has"
    except ValueError as error:
        words = f"HAULIER_URL: {place.url!r} is not a URL ({error})"
    typer.echo(f"haulier: {clean(words)}", err=True)
    raise typer.Exit(Exit.REFUSED)


def _warnings(place: Place) -> Iterator[str]:
    if place.token is not None and place.url.startswith("http:") and not is_local(place.url):
        yield f"the token of {place.source} goes to {place.url} in clear text: use https:// there"


def status_of(error: HaulierError) -> Exit:
    return Exit.UNAVAILABLE if is_away(error) else Exit.REFUSED


def message_of(error: HaulierError, place: Place) -> str:
    """Say what is wrong and what to do about it."""
    match error:
        case Unreachable():
            return _unreachable(error, place)
        case NotHaulier():
            return _stranger(str(error), place)
        case ResultsChanged():
            return "the job has new results by now: fetch them again"
        case ProblemError(status=401):
            if place.token is None:
                return f"the API at {place.url} requires a token: set HAULIER_TOKEN"
            return f"the API at {place.url} does not accept the token of {place.source}"
        case ProblemError(status=status) if status >= 500:
            return f"the API at {place.url} is in trouble ({status}: {error.detail})"
        case ProblemError(status=status) if "title" not in error.document:
            return _stranger(f"status {status}", place)
        case ProblemError():
            # The detail of several problems repeats the first, which stands in the list.
            several = len(error.problems) > 1
            return str(error.document["title"]) if several else error.detail
    return str(error)


def _unreachable(error: Unreachable, place: Place) -> str:
    if not error.connected:
        return (
            f"cannot reach the API at {place.url} ({error.__cause__}): start it with"
            " `haulier up`, or set HAULIER_URL to where it is"
        )
    if error.timed_out:
        return f"the API at {place.url} did not answer in time: try again"
    reason = error.__cause__ or error
    return f"the connection to the API at {place.url} broke ({reason}): try again"


def _stranger(what: str, place: Place) -> str:
    return (
        f"the server at {place.url} does not answer as Haulier's API does ({what});"
        " is HAULIER_URL right?"
    )


def _say(error: HaulierError, place: Place) -> None:
    typer.echo(f"haulier: {clean(message_of(error, place))}", err=True)
    if isinstance(error, ProblemError) and len(error.problems) > 1:
        for problem in error.problems:
            at = "" if problem.line is None else f"line {problem.line:,}: "
            typer.echo(f"  {clean(at + problem.message)}", err=True)
        if more := error.document.get("more"):
            typer.echo(f"  and {more:,} more", err=True)
