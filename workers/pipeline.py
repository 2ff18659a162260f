"""How each stage's work reaches the workers: one table, and the messages that it makes.

A message is a nudge: it carries ids only, it may get lost, and it decides nothing.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from typing import Any
from uuid import UUID

from celery import chain, signature

from service import stages
from service.rules.states import BATCH_STAGES, JOB_STAGES, Stage
from service.runner.runner import BatchWork, JobWork, Work
from service.store.due import Due
from service.store.models import Batch, Job
from workers.app import CONTROL, TRANSFER


@dataclass(frozen=True, kw_only=True)
class Step:
    """How one stage runs as a Celery task."""

    job: JobWork | None = None
    """The function that does the work of a job, where the stage is a job's."""
    batch: BatchWork | None = None
    """The same for a batch."""
    queue: str
    chains_to: Stage | None = None
    """The next link of the same chain; it runs when the row advanced."""
    starts: Stage | None = None
    """The stage that the task itself starts for each of its rows that advanced."""
    page: int = 1
    """The most rows of one account in one message."""


PIPELINE = {
    Stage.SPLIT: Step(job=stages.split, queue=TRANSFER),
    Stage.UPLOAD: Step(batch=stages.upload, queue=TRANSFER, chains_to=Stage.CREATE),
    Stage.CREATE: Step(batch=stages.create, queue=CONTROL),
    # A page of polls shares one list of the account's batches.
    Stage.POLL: Step(batch=stages.poll, queue=CONTROL, page=1000, starts=Stage.FETCH),
    Stage.FETCH: Step(batch=stages.fetch, queue=TRANSFER),
    Stage.ASSEMBLE: Step(job=stages.assemble, queue=TRANSFER),
}

WORK = Work(
    jobs={stage: step.job for stage, step in PIPELINE.items() if step.job is not None},
    batches={stage: step.batch for stage, step in PIPELINE.items() if step.batch is not None},
)


@dataclass(frozen=True)
class Window:
    """Stages whose rows are sent together: rows of one table, on one queue, in pages of one size.

    The scheduler keeps a few times as many of them on their way as there are worker slots.
    """

    row: type[Job | Batch]
    queue: str
    page: int
    stages: frozenset[Stage]


def _windows() -> list[Window]:
    """Every stage in one window, in the order of the table."""
    found: dict[tuple[type[Job | Batch], str, int], set[Stage]] = {}
    for stage, step in PIPELINE.items():
        row = Job if step.job is not None else Batch
        found.setdefault((row, step.queue, step.page), set()).add(stage)
    return [Window(*key, frozenset(stages)) for key, stages in found.items()]


WINDOWS = _windows()


def _check() -> None:
    """A stage that is missing here, or under the wrong kind of row, must not start."""
    if WORK.jobs.keys() != set(JOB_STAGES.values()):
        raise AssertionError("PIPELINE does not list the stages of a job")
    if WORK.batches.keys() != set(BATCH_STAGES.values()):
        raise AssertionError("PIPELINE does not list the stages of a batch")


_check()


def message(name: object, *arguments: Any, queue: str, expires: timedelta) -> Any:
    """One of our own tasks as a Celery signature.

    Each has its own expiry, since that of a chain does not reach its later links.
    """
    return signature(
        f"haulier.{name}",
        args=arguments,
        immutable=True,
        queue=queue,
        expires=expires.total_seconds(),
    )


def link(stage: Stage, *arguments: Any, expires: timedelta) -> Any:
    """One link of a chain."""
    return message(stage, *arguments, queue=PIPELINE[stage].queue, expires=expires)


def messages(due: Iterable[Due], expires: timedelta) -> Iterator[tuple[Any, list[UUID]]]:
    """The messages for rows that are due, each with the ids that it carries.

    A batch goes as far as it can without waiting.
    """
    rows = sorted(due, key=lambda row: (row.stage, row.account))
    for (stage, _), group in groupby(rows, key=lambda row: (row.stage, row.account)):
        ids = [row.id for row in group]
        size = PIPELINE[stage].page
        for start in range(0, len(ids), size):
            page = ids[start : start + size]
            yield _chain(stage, page, expires), page


def _chain(stage: Stage, page: list[UUID], expires: timedelta) -> Any:
    names = [str(row_id) for row_id in page]
    # A stage that takes pages has them as one argument, a list.
    argument: list[str] | str = names if PIPELINE[stage].page > 1 else names[0]
    links = []
    following: Stage | None = stage
    while following is not None:
        links.append(link(following, argument, expires=expires))
        following = PIPELINE[following].chains_to
    return chain(*links) if len(links) > 1 else links[0]
