"""`haulier watch`: a live bar for people, lines for logs, documents for programs."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from uuid import UUID

import typer
from haulier_client import HaulierError
from rich.console import RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from service.cli.api import Api, is_away
from service.cli.arguments import CLIENT, AsJson, JobId
from service.cli.documents import Document, Job
from service.cli.exits import Exit
from service.cli.place import Place
from service.cli.screen import Screen, clean, length, notes, output
from service.cli.session import connected, message_of
from service.cli.show.batches import Batches, batches_of
from service.cli.show.follow import follow
from service.cli.show.forecasts import ending

app = typer.Typer()

BATCHES_EVERY = 2.0
"""Seconds between two looks at the batches, of which there may be many."""

Show = Callable[[Document[Job] | HaulierError], None]
Told = Callable[[Document[Job]], tuple[str, str]]
"""Gives what must change for a line to be written, and the line."""


@app.command(rich_help_panel=CLIENT)
def watch(job: JobId, json: AsJson = False) -> None:
    """Show a job's progress until it ends. Ctrl-C leaves the job running."""
    with connected() as api:
        ended = watched(api, job, output(), as_json=json)
    raise typer.Exit(Exit.FINE if ended.served else Exit.UNSERVED)


def watched(api: Api, job_id: UUID, screen: Screen, *, as_json: bool, fetched: bool = False) -> Job:
    """Show the job until it has ended, and what there is to do then. Raises HaulierError.

    `fetched`: whoever calls fetches the results, so that nobody has to be told how to.
    """
    api.job(job_id)  # fails for a job that is none, before anything is said of its going on
    try:
        job = shown(api, job_id, screen, as_json=as_json)
    except (KeyboardInterrupt, HaulierError) as error:
        if not isinstance(error, HaulierError) or is_away(error):
            notes().line(f"The job goes on without us. To come back:\n  haulier watch {job_id}")
        raise
    if not as_json:
        _conclude(screen, job, fetched=fetched)
    return job


def shown(api: Api, job_id: UUID, screen: Screen, *, as_json: bool) -> Job:
    """Show the job until it has ended. Raises HaulierError."""
    with _display(api, job_id, screen, as_json=as_json) as show:
        for seen in follow(api, job_id):
            show(seen)
    assert isinstance(seen, Document)
    return seen.value


@contextmanager
def _display(api: Api, job_id: UUID, screen: Screen, *, as_json: bool) -> Iterator[Show]:
    if as_json:
        yield _Changes(screen, api.place, lambda document: (document.line, document.line))
    elif not screen.is_terminal:
        yield _Changes(screen, api.place, lambda document: _line(document.value))
    else:
        with _Bar(screen, api, job_id) as bar:
            yield bar.show


class _Changes:
    """Tells of a job whenever what there is to tell has changed."""

    def __init__(self, screen: Screen, place: Place, told: Told) -> None:
        self._screen = screen
        self._place = place
        self._told = told
        self._last = ""
        self._away = False

    def __call__(self, seen: Document[Job] | HaulierError) -> None:
        if isinstance(seen, HaulierError):
            if not self._away:
                notes().line(f"haulier: {clean(message_of(seen, self._place))}; waiting for it")
            self._away = True
            return
        self._away = False
        changes, line = self._told(seen)
        if changes != self._last:
            self._last = changes
            self._screen.line(line)


class _Bar(Progress):
    """A bar that changes in place; below it the requests, and what the batches are doing."""

    def __init__(self, screen: Screen, api: Api, job_id: UUID) -> None:
        # Drawn from the start.
        self._below = ""
        self._batches = Batches()
        super().__init__(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=screen.console,
        )
        self._api = api
        self._job_id = job_id
        self._looked = 0.0
        self._task = self.add_task("", total=None)

    def get_renderables(self) -> Iterable[RenderableType]:
        """What is drawn at each refresh."""
        yield from super().get_renderables()
        yield Text(f"  {self._below}", style="dim")
        yield self._batches.drawn()

    def show(self, seen: Document[Job] | HaulierError) -> None:
        if isinstance(seen, HaulierError):
            self._below = "the API is away, waiting for it"
            return
        job = seen.value
        if job.ended or time.monotonic() - self._looked > BATCHES_EVERY:
            self._batches = batches_of(self._api, self._job_id) or self._batches
            self._looked = time.monotonic()
        waits = clean(job.waiting.detail) if job.waiting else ""
        done = ending(job.forecast) if job.forecast and job.forecast.p50 else None
        self._below = " · ".join(filter(None, [_counts(job), waits, done and f"done {done}"]))
        under_way = 0 if job.ended else self._batches.under_way
        self.update(
            self._task,
            description=clean(job.state),
            total=job.total or None,
            completed=min(job.total, job.succeeded + job.failed + under_way),
        )


def _counts(job: Job) -> str:
    return f"{job.succeeded:,} of {job.total:,} succeeded, {job.failed:,} failed"


def _line(job: Job) -> tuple[str, str]:
    """A line for logs. Why the job waits is in it, but only another kind of wait is news."""
    counts = f"{job.state}: {_counts(job)}, {job.pending:,} pending"
    if job.waiting is None:
        return counts, counts
    return f"{counts} {job.waiting.code}", f"{counts} (waits: {clean(job.waiting.detail)})"


def _conclude(screen: Screen, job: Job, *, fetched: bool) -> None:
    """What became of the job, and where to go from here."""
    took = f" in {length(job.finished_at - job.created_at)}" if job.finished_at else ""
    why = job.error and clean(job.error)
    screen.line(
        f"{job.state}{took}: {why or f'{job.succeeded:,} succeeded, {job.failed:,} failed'}"
    )
    if screen.is_terminal:
        if job.total and not fetched:
            screen.line(f"  haulier results {job.id} --output results.jsonl")
        if job.failed:
            screen.line(f"  haulier failures {job.id}")
