"""`haulier results`: all results in input order, as lines, as text or as a table."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, BinaryIO, Literal
from uuid import UUID

import msgspec
import typer
from haulier_client import ProblemError
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from service.cli.api import Api
from service.cli.arguments import CLIENT, AsJson, JobId
from service.cli.screen import escaped, notes, printable
from service.cli.screen import output as standard_output
from service.cli.session import connected
from service.cli.show.answers import answers, lines, write_csv
from service.cli.show.download import written
from service.cli.submit.formats import NO_PARQUET, parquet_is_there

app = typer.Typer()

Only = Literal["succeeded", "failed"]
BOM_HELP = "Begin a .csv file with a byte order mark: Excel then reads it as UTF-8."


class Form(StrEnum):
    LINES = "lines"
    ARRAY = "array"
    TEXT = "text"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"


_FORMS = {
    "": Form.LINES,
    ".jsonl": Form.LINES,
    ".ndjson": Form.LINES,
    ".json": Form.ARRAY,
    ".csv": Form.CSV,
    ".tsv": Form.TSV,
    ".parquet": Form.PARQUET,
}


@dataclass(frozen=True)
class Wanted:
    """Where results go, and in which form. Without a target: to standard output."""

    target: Path | None
    form: Form
    raw: bool = False
    """Exactly what the provider sent, whatever a terminal or a spreadsheet makes of it."""
    bom: bool = False
    """Begin a table with a byte order mark."""

    @classmethod
    def of(
        cls, target: Path | None, *, text: bool = False, raw: bool = False, bom: bool = False
    ) -> "Wanted":
        """The form that the file's name says, or just the answers. Raises BadParameter."""
        # Found now, and not when somebody has waited a night for the results.
        if target is not None and not target.parent.is_dir():
            raise typer.BadParameter(f"cannot write {target}: there is no such directory")
        suffix = "" if target is None else target.suffix.lower()
        form = _FORMS.get(suffix)
        if text:
            if form not in {None, Form.LINES}:
                words = f"--text is no {suffix} file: leave it out, the text is in it"
                raise typer.BadParameter(words)
            form = Form.TEXT
        if form is None:
            known = ", ".join(filter(None, _FORMS))
            raise typer.BadParameter(
                f"{target}: nothing is known of {suffix} files; end the name in one of {known}"
            )
        if form is Form.PARQUET and not parquet_is_there():
            raise typer.BadParameter(NO_PARQUET)
        if bom and form not in {Form.CSV, Form.TSV}:
            raise typer.BadParameter("--bom: for a .csv or .tsv file only (--output answers.csv)")
        return cls(target, form, raw, bom)


@app.command(rich_help_panel=CLIENT)
def results(
    job: JobId,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            dir_okay=False,
            help="The file to write: .jsonl, .json (an array), .csv, .tsv or .parquet.",
        ),
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Write only the answers' text.")] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Fetch the results so far, before the job ends.")
    ] = False,
    only: Annotated[
        Only | None,
        typer.Option(help="Fetch only requests that succeeded, or failed.", show_default=False),
    ] = None,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw", help="Change nothing that a terminal would obey, or a spreadsheet run."
        ),
    ] = False,
    bom: Annotated[bool, typer.Option("--bom", help=BOM_HELP)] = False,
    json: AsJson = False,
) -> None:
    """Fetch a job's results in input order: JSONL, or what the ending of --output says."""
    wanted = Wanted.of(output, text=text, raw=raw, bom=bom)
    with connected() as api, _hinted(job):
        fetch(api, job, wanted, partial=partial, only=only, as_json=json)


def fetch(
    api: Api,
    job_id: UUID,
    wanted: Wanted,
    *,
    partial: bool = False,
    only: str | None = None,
    as_json: bool = False,
) -> None:
    """Fetch all results and say what was written. Raises HaulierError."""
    if wanted.target is None:
        blocks = api.results(job_id, partial=partial, only=only)
        _write(blocks, wanted, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    with (
        written(wanted.target) as file,
        _shown(api, job_id, partial=partial, only=only) as blocks,
    ):
        count = _write(blocks, wanted, file)
        # Of devices and pipes nobody knows the size.
        size = file.tell() if file.seekable() else None
    if as_json:
        told = {"output": str(wanted.target), "lines": count, "bytes": size}
        standard_output().line(msgspec.json.encode(told).decode())
    else:
        notes().line(f"{count:,} results in {wanted.target}")


@contextmanager
def _hinted(job_id: UUID) -> Iterator[None]:
    """Say what to do about results that are not there yet."""
    try:
        yield
    except ProblemError as error:
        if error.status == 409:
            notes().line(f"(haulier watch {job_id} waits; --partial gives those that are there)")
        raise


@contextmanager
def _shown(api: Api, job_id: UUID, *, partial: bool, only: str | None) -> Iterator[Iterator[bytes]]:
    """The blocks of the results, with a bar on a terminal."""
    screen = notes()
    with Progress(
        TextColumn("Fetching"),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=screen.console,
        disable=not screen.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task("", total=None)

        def blocks() -> Iterator[bytes]:
            for block in api.results(
                job_id,
                partial=partial,
                only=only,
                opened=lambda total: progress.update(task, total=total),
            ):
                yield block
                progress.advance(task, len(block))

        yield blocks()


def _write(blocks: Iterable[bytes], wanted: Wanted, file: BinaryIO) -> int:
    """Write all results in a form; gives their number."""
    # A terminal obeys what it is shown. A file or a pipe gets the provider's bytes.
    shown = file.isatty() and not wanted.raw
    match wanted.form:
        case Form.LINES:
            return _show_lines(blocks, file) if shown else _write_lines(blocks, file)
        case Form.TEXT:
            return _write_text(blocks, file, printable if shown else str)
        case Form.ARRAY:
            return _write_array(blocks, file)
        case Form.CSV | Form.TSV:
            delimiter = "," if wanted.form is Form.CSV else "\t"
            return write_csv(
                answers(blocks), file, raw=wanted.raw, bom=wanted.bom, delimiter=delimiter
            )
        case Form.PARQUET:
            from service.cli.submit.parquet import write_parquet

            return write_parquet(answers(blocks), file)


def _write_lines(blocks: Iterable[bytes], file: BinaryIO) -> int:
    lines = 0
    for block in blocks:
        file.write(block)
        lines += block.count(b"\n")
    return lines


def _write_array(blocks: Iterable[bytes], file: BinaryIO) -> int:
    """Write result lines as one JSON array, a line each; each line is as it came."""
    count = 0
    for line in lines(blocks):
        file.write((b",\n" if count else b"[\n") + line)
        count += 1
    file.write(b"\n]\n" if count else b"[]\n")
    return count


def _show_lines(blocks: Iterable[bytes], file: BinaryIO) -> int:
    """Write result lines to a terminal, as JSON that says the same."""
    count = 0
    for line in lines(blocks):
        file.write(f"{escaped(line.decode(errors='replace'))}\n".encode())
        count += 1
    return count


def _write_text(blocks: Iterable[bytes], file: BinaryIO, written_as: Callable[[str], str]) -> int:
    """The answers, each ended by a line feed; an empty line where there is none, and a word.

    An answer that calls tools instead of saying something is its calls as JSON.
    """
    count = failed = silent = 0
    for found in answers(blocks):
        said = found.text or found.tool_calls or ""
        file.write(f"{written_as(said)}\n".encode())
        count += 1
        failed += found.text is None
        silent += found.text is not None and not said
    if failed:
        notes().line(f"{failed:,} of {count:,} requests failed: an empty line stands for each")
    if silent:
        notes().line(f"{silent:,} of {count:,} answers hold no text: an empty line stands for each")
    return count
