"""`haulier submit`: requests go in, a job's id comes out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TransferSpeedColumn,
)

from service.cli.asked import Asked
from service.cli.client import Client, Envelope, Refused, Submitted, Unavailable
from service.cli.documents import Job
from service.cli.exits import Exit
from service.cli.formats import Format, format_of
from service.cli.results import Wanted, fetch
from service.cli.rows import Recipe
from service.cli.screen import clean, notes, output
from service.cli.session import connected
from service.cli.sources import (
    Bar,
    filled_lines,
    length_of,
    opened,
    plain_lines,
    table_lines,
)
from service.cli.tables import BadInput
from service.cli.watch import watched


def submit(asked: Asked, *, wait: bool, target: Path | None, as_json: bool) -> None:
    """The command."""
    source, envelope, recipe = asked.source(), asked.envelope(), asked.recipe()
    if target is not None and not wait:
        raise typer.BadParameter("--output: there is nothing to write yet without --wait")
    wanted = Wanted.of(target)
    key = asked.idempotency_key
    if key is not None and not (key.isascii() and key.isprintable()):
        raise typer.BadParameter("--idempotency-key: use printable ASCII characters")
    with connected() as client:
        try:
            with opened(source) as file:
                submitted = _send(client, asked, file, envelope, recipe)
        except BadInput as error:
            notes().line(f"haulier: {source}: {clean(str(error))}")
            raise typer.Exit(Exit.REFUSED) from None
        output().line(submitted.job.line if as_json else submitted.job.value.id)
        _tell(submitted, wait=wait)
        if not wait:
            return
        job = _waited(client, submitted.job.value, target, as_json=as_json)
        if target is not None and job.state in {"completed", "cancelled"}:
            fetch(client, job.uuid, wanted)
    raise typer.Exit(Exit.FINE if job.served else Exit.UNSERVED)


def _waited(client: Client, job: Job, target: Path | None, *, as_json: bool) -> Job:
    screen = output() if as_json else notes()
    return watched(client, job.uuid, screen, as_json=as_json, fetched=target is not None)


def _send(
    client: Client, asked: Asked, file: BinaryIO, envelope: Envelope | None, recipe: Recipe | None
) -> Submitted:
    """Read and send everything; says what is to be done where the outcome is not known."""
    key = asked.idempotency_key
    try:
        if envelope is None:
            return client.submit_spec(file.read(), idempotency_key=key)
        with _bar(in_rows=recipe is not None and _is_parquet(asked)) as bar:
            blocks, length = _blocks(asked, file, recipe, bar)
            return client.submit_lines(blocks, envelope, length=length, idempotency_key=key)
    except Unavailable:
        if key is not None:
            notes().line("Repeat the command: with its idempotency key nothing is submitted twice.")
        raise
    except KeyboardInterrupt:
        notes().line("Stopped before the API had answered; `haulier jobs` shows what it has taken.")
        raise
    except Refused as error:
        if recipe is not None and error.problems:
            notes().line("(lines are the table's rows: line 1 is the first below the header)")
        raise


def _is_parquet(asked: Asked) -> bool:
    return format_of(asked.source(), asked.form) is Format.PARQUET


def _blocks(
    asked: Asked, file: BinaryIO, recipe: Recipe | None, bar: Bar
) -> tuple[Iterator[bytes], int | None]:
    """The request lines, and how many bytes they are where that is known beforehand."""
    if recipe is not None:
        kind = format_of(asked.source(), asked.form)
        return table_lines(asked.source(), file, kind, recipe, bar), None
    if asked.model is not None:
        return filled_lines(file, asked.model, bar), None
    length = length_of(file)
    return plain_lines(file, length, bar), length


@contextmanager
def _bar(*, in_rows: bool) -> Iterator[Bar]:
    """A bar that vanishes when the API has answered; on a terminal only."""
    screen = notes()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        *([MofNCompleteColumn()] if in_rows else [DownloadColumn(), TransferSpeedColumn()]),
        console=screen.console,
        disable=not screen.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task("Sending", total=None)

        def advanced(amount: int) -> None:
            progress.advance(task, amount)
            if progress.finished:
                progress.update(task, description="Sent, being checked")

        yield Bar(lambda total: progress.update(task, total=total), advanced)


def _tell(submitted: Submitted, *, wait: bool) -> None:
    """What the id alone does not say."""
    screen, job = notes(), submitted.job.value
    if not submitted.new:
        screen.line("This was submitted before: here is the job of that time.")
    elif screen.is_terminal:
        requests = f"{job.total:,} requests" if job.total else "Its requests"
        screen.line(f"Accepted: {requests}")
        if not wait:
            screen.line(f"  haulier watch {job.id}")
