"""`haulier logs`: what the log says of one job."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, TextIO
from uuid import UUID

import msgspec
import typer

from service.cli.api import Api
from service.cli.arguments import CLIENT, AsJson, JobId
from service.cli.exits import Exit
from service.cli.screen import Screen, notes, output
from service.cli.session import connected

app = typer.Typer()

_FIRST = ("timestamp", "level", "event")
_NOT_SHOWN = frozenset((*_FIRST, "logger", "job", "task_id"))


@app.command(rich_help_panel=CLIENT)
def logs(
    job: JobId,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]…",
            help="Logs in JSON of any of Haulier's processes; default: standard input.",
            show_default=False,
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Pick the lines about a job and its batches out of logs, as they come.

    Standard input is read where no file is named, as behind `docker compose logs --no-log-prefix`.
    """
    with connected() as api, ExitStack() as opened:
        sources = [_open(path, opened) for path in files or ()] or [sys.stdin]
        screen = output()
        for source in sources:
            for line, found in _of_job(source, api, job):
                if json:
                    screen.line(line)
                else:
                    _show(screen, found)


def _open(path: Path, opened: ExitStack) -> TextIO:
    try:
        return opened.enter_context(path.open(errors="replace"))
    except OSError as error:
        notes().line(f"cannot read {path}: {error.strerror}")
        raise typer.Exit(Exit.REFUSED) from None


def _of_job(source: TextIO, api: Api, job: UUID) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the lines about a job: those that name it, or a batch in which it has a part."""
    batches: set[str | None] = set()
    others: set[str] = set()
    api.job(job)  # there may be none
    is_final = False
    for line in source:
        try:
            found = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if not isinstance(found, dict):
            continue
        batch = found.get("batch")
        if isinstance(batch, str) and not is_final and batch not in batches | others:
            # It may be new, unless the job had ended before: each is asked for once.
            is_final = api.job(job).value.ended
            batches |= {one.value.id for one in api.batches(job)}
            others |= {batch} - {str(one) for one in batches}
        if found.get("job") == str(job) or (isinstance(batch, str) and batch in batches):
            yield line.rstrip("\n"), found


def _show(screen: Screen, found: dict[str, Any]) -> None:
    more = (f"{k}={v}" for k, v in found.items() if k not in _NOT_SHOWN and v is not None)
    first = (str(found.get(name, "")) for name in _FIRST)
    screen.line("  ".join((*first, " ".join(more))).rstrip())
