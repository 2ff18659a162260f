"""`haulier submit`: requests go in, a job's id comes out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from haulier_client import HaulierError, ProblemError
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TransferSpeedColumn,
)

from service.cli.api import Api, Envelope, Submitted, is_away
from service.cli.arguments import CLIENT, AsJson
from service.cli.documents import Job
from service.cli.exits import Exit
from service.cli.screen import clean, notes
from service.cli.screen import output as standard_output
from service.cli.session import connected
from service.cli.show.results import BOM_HELP, Wanted, fetch
from service.cli.show.watch import watched
from service.cli.submit.asked import Asked, Table
from service.cli.submit.blocks import request_blocks
from service.cli.submit.checks import check_of
from service.cli.submit.formats import Format
from service.cli.submit.options import (
    Delimiter,
    File,
    FormatName,
    IdColumn,
    Model,
    Param,
    PromptColumn,
    SpecFile,
    System,
    TemplateText,
)
from service.cli.submit.rows import Recipe
from service.cli.submit.sources import Bar, opened
from service.cli.submit.tables import BadInput
from service.rules.deadlines import OnDeadline
from service.rules.requests import CHAT

app = typer.Typer()


@app.command(rich_help_panel=CLIENT)
def submit(
    *,
    file: File = None,
    model: Model = None,
    prompt_column: PromptColumn = None,
    template: TemplateText = None,
    system: System = None,
    id_column: IdColumn = None,
    delimiter: Delimiter = None,
    param: Param = None,
    format: FormatName = None,  # noqa: A002 - the option's name
    endpoint: Annotated[str | None, typer.Option(help=f"Default: {CHAT}.")] = None,
    account: Annotated[str | None, typer.Option(help="Whose key is used.")] = None,
    max_attempts: Annotated[int | None, typer.Option(help="Of each request.")] = None,
    priority: Annotated[int | None, typer.Option(help="Higher goes first.")] = None,
    metadata: Annotated[str | None, typer.Option(help="A JSON object to find the job by.")] = None,
    check: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHECK",
            help="What answers must pass: complete, nonempty, json, @SCHEMA.json, or JSON;"
            " may be repeated.",
        ),
    ] = None,
    canary: Annotated[
        int | None, typer.Option(help="So many requests go first; the rest waits for them.")
    ] = None,
    canary_failures: Annotated[
        int | None, typer.Option(help="How many of them may fail; half if left out.")
    ] = None,
    max_cost: Annotated[
        str | None, typer.Option(metavar="USD", help="What the job may cost, by the estimate.")
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="When it should be done: 6h, or 2026-12-01T06:00:00Z."),
    ] = None,
    on_deadline: Annotated[
        OnDeadline | None,
        typer.Option(help="Report only, or raise the priority as the deadline comes nearer."),
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Submit once, however often this is run.")
    ] = None,
    spec: SpecFile = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show how it goes until it ends.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", dir_okay=False, help="With --wait: write the results there."
        ),
    ] = None,
    bom: Annotated[bool, typer.Option("--bom", help=BOM_HELP)] = False,
    json: AsJson = False,
) -> None:
    """Submit requests as a job, and print the job's id."""
    asked = Asked(
        file=file,
        spec=spec,
        model=model,
        form=format,
        table=Table(
            prompt_column=prompt_column,
            template=template,
            system=system,
            id_column=id_column,
            delimiter=delimiter,
            params=tuple(param or ()),
        ),
        endpoint=endpoint,
        account=account,
        max_attempts=max_attempts,
        priority=priority,
        metadata=metadata,
        check=check_of(check or ()),
        canary=canary,
        canary_failures=canary_failures,
        max_cost=max_cost,
        deadline=deadline,
        on_deadline=on_deadline,
        idempotency_key=idempotency_key,
    )
    if output is not None and not wait:
        raise typer.BadParameter("--output: there is nothing to write yet without --wait")
    _submit(asked, wait=wait, wanted=Wanted.of(output, bom=bom), as_json=json)


def _submit(asked: Asked, *, wait: bool, wanted: Wanted, as_json: bool) -> None:
    source, envelope, recipe = asked.source(), asked.envelope(), asked.recipe()
    key = asked.idempotency_key
    if key is not None and not (key.isascii() and key.isprintable()):
        raise typer.BadParameter("--idempotency-key: use printable ASCII characters")
    with connected() as api:
        try:
            with opened(source) as file:
                submitted = _send(api, asked, file, envelope, recipe)
        except BadInput as error:
            notes().line(f"haulier: {source}: {clean(str(error))}")
            raise typer.Exit(Exit.REFUSED) from None
        standard_output().line(submitted.job.line if as_json else submitted.job.value.id)
        _tell(submitted, wait=wait)
        if not wait:
            return
        job = _waited(api, submitted.job.value, wanted.target, as_json=as_json)
        if wanted.target is not None and job.state in {"completed", "cancelled"}:
            fetch(api, job.uuid, wanted)
    raise typer.Exit(Exit.FINE if job.served else Exit.UNSERVED)


def _waited(api: Api, job: Job, target: Path | None, *, as_json: bool) -> Job:
    screen = standard_output() if as_json else notes()
    return watched(api, job.uuid, screen, as_json=as_json, fetched=target is not None)


def _send(
    api: Api, asked: Asked, file: BinaryIO, envelope: Envelope | None, recipe: Recipe | None
) -> Submitted:
    """Read and send everything; says what is to be done where the outcome is not known."""
    key = asked.idempotency_key
    try:
        if envelope is None:
            return api.submit_spec(file.read(), idempotency_key=key)
        with _bar(in_rows=recipe is not None and asked.kind is Format.PARQUET) as bar:
            blocks, length = request_blocks(asked, file, recipe, bar)
            return api.submit_lines(blocks, envelope, length=length, idempotency_key=key)
    except KeyboardInterrupt:
        notes().line("Stopped before the API had answered; `haulier jobs` shows what it has taken.")
        raise
    except HaulierError as error:
        if is_away(error) and key is not None:
            notes().line("Repeat the command: with its idempotency key nothing is submitted twice.")
        if recipe is not None and isinstance(error, ProblemError) and error.problems:
            notes().line("(lines are the table's rows: line 1 is the first below the header)")
        raise


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
