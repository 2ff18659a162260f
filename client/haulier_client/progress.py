"""A bar on standard error that shows how much of a job is done."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from haulier_client.views import Job

Seen = Callable[[Job], None]


@contextmanager
def following(job: Job, progress: bool | Seen) -> Iterator[Seen]:
    """Yield what to tell of the job each time it was looked at. What is raised names the job."""
    try:
        if callable(progress):
            yield progress
        elif not progress:
            yield lambda _: None
        else:
            with _bar(job.total) as seen:
                yield seen
    except BaseException as error:
        error.add_note(f"this was about Haulier's job {job.id}; it did not end with the waiting")
        raise


@contextmanager
def _bar(total: int) -> Iterator[Seen]:
    """A bar by rich, where that is installed and has a terminal; else some lines."""
    try:
        from rich.console import Console  # noqa: PLC0415  an extra
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )
    except ImportError:
        yield _Lines(total)
        return
    console = Console(stderr=True)
    if not console.is_terminal and not console.is_jupyter:
        yield _Lines(total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("accepted", total=total)
        yield lambda job: bar.update(task, completed=_done(job), description=job.state)


class _Lines:
    """Writes a line for each tenth that is done."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._tenths = 0

    def __call__(self, job: Job) -> None:
        tenths = _done(job) * 10 // max(self._total, 1)
        if tenths > self._tenths:
            self._tenths = tenths
            sys.stderr.write(f"{_done(job):,} of {self._total:,} calls are done\n")
            sys.stderr.flush()


def _done(job: Job) -> int:
    return job.succeeded + job.failed
