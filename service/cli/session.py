"""What all client commands share: a connection, and an end without a traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from config.settings import settings
from service.cli.client import ApiError, Client, Refused
from service.cli.exits import Exit
from service.cli.place import find
from service.cli.screen import clean


@contextmanager
def connected() -> Iterator[Client]:
    """A client of the API. Errors end the command with their words and status."""
    try:
        with Client(find(settings())) as client:
            yield client
        sys.stdout.flush()
    except ApiError as error:
        _say(error)
        raise typer.Exit(error.exit) from None
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None
    except BrokenPipeError:
        # What is still in the buffer has nowhere to go when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(Exit.CLOSED) from None


def _say(error: ApiError) -> None:
    typer.echo(f"haulier: {clean(str(error))}", err=True)
    if isinstance(error, Refused) and len(error.problems) > 1:
        for problem in error.problems:
            typer.echo(f"  {clean(str(problem))}", err=True)
        if error.more:
            typer.echo(f"  and {error.more:,} more", err=True)
