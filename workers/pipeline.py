"""The pipeline as one table: each stage's queue, the stage it chains to, the stage it starts.

Queues, chains, the scheduler's windows and the runner's functions come from this table. A message
is a nudge: it carries only ids, it may get lost, and it decides nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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
    """The stage's function, if the stage works on a job."""
    batch: BatchWork | None = None
    """The stage's function, if the stage works on a batch."""
    queue: str
    chains_to: Stage | None = None
    """The next link of the same Celery chain. It runs if the row advanced."""
    starts: Stage | None = None
    """The stage whose message the task sends for each row that advanced."""
    page: int = 1
    """The most rows of one account that share a message."""
    gathers: bool = False
    """Whether rows that become due wait a moment for others, to share a message."""


PIPELINE = {
    Stage.SPLIT: Step(job=stages.split, queue=TRANSFER),
    Stage.UPLOAD: Step(batch=stages.upload, queue=TRANSFER, chains_to=Stage.CREATE),
    Stage.CREATE: Step(batch=stages.create, queue=CONTROL),
    # A page of polls shares one list of the account's batches.
    Stage.POLL: Step(
        batch=stages.poll, queue=CONTROL, page=10_000, gathers=True, starts=Stage.FETCH
    ),
    Stage.FETCH: Step(batch=stages.fetch, queue=TRANSFER),
    # Small jobs are merged in no time.
    Stage.ASSEMBLE: Step(job=stages.assemble, queue=TRANSFER, page=20),
}


def check(pipeline: Mapping[Stage, Step]) -> None:
    """Raise AssertionError unless the table lists each stage once, with the right kind of row."""
    jobs = {stage for stage, step in pipeline.items() if step.job is not None}
    batches = {stage for stage, step in pipeline.items() if step.batch is not None}
    if jobs != set(JOB_STAGES.values()):
        raise AssertionError("PIPELINE does not list the stages of a job")
    if batches != set(BATCH_STAGES.values()):
        raise AssertionError("PIPELINE does not list the stages of a batch")


check(PIPELINE)  # no process starts with a stage that nobody would run

WORK = Work(
    jobs={stage: step.job for stage, step in PIPELINE.items() if step.job is not None},
    batches={stage: step.batch for stage, step in PIPELINE.items() if step.batch is not None},
)


@dataclass(frozen=True)
class Window:
    """Stages that the scheduler sends together: same table, same queue, same page size.

    The windows of a queue share its room: a few messages for each worker slot.
    """

    row: type[Job | Batch]
    queue: str
    page: int
    gathers: bool
    stages: frozenset[Stage]


def _windows() -> list[Window]:
    """Return windows in the order of the table. Each stage is in exactly one."""
    found: dict[tuple[type[Job | Batch], str, int, bool], set[Stage]] = {}
    for stage, step in PIPELINE.items():
        row = Job if step.job is not None else Batch
        key = (row, step.queue, step.page, step.gathers)
        found.setdefault(key, set()).add(stage)
    return [Window(*key, frozenset(stages)) for key, stages in found.items()]


WINDOWS = _windows()


def message(name: object, *arguments: Any, queue: str) -> Any:
    """Return the Celery signature of the task `haulier.<name>`.

    It never expires: that would compare the clocks of two machines. The scheduler looks how many
    messages a queue holds instead.
    """
    return signature(f"haulier.{name}", args=arguments, immutable=True, queue=queue)


def link(stage: Stage, *arguments: Any) -> Any:
    """Return the signature of a stage's task, for the stage's queue."""
    return message(stage, *arguments, queue=PIPELINE[stage].queue)


def messages(due: Iterable[Due]) -> Iterator[tuple[Any, list[UUID]]]:
    """Yield a message for each row or page of rows that is due, with the ids it carries.

    A message is a chain if the stage chains to another one.
    """
    rows = sorted(due, key=lambda row: (row.stage, row.account))
    for (stage, _), group in groupby(rows, key=lambda row: (row.stage, row.account)):
        ids = [row.id for row in group]
        size = PIPELINE[stage].page
        for start in range(0, len(ids), size):
            page = ids[start : start + size]
            yield _chain(stage, page), page


def _chain(stage: Stage, page: list[UUID]) -> Any:
    names = [str(row_id) for row_id in page]
    # The task of a stage with pages takes one list of ids; other tasks take one id.
    argument: list[str] | str = names if PIPELINE[stage].page > 1 else names[0]
    links = []
    following: Stage | None = stage
    while following is not None:
        links.append(link(following, argument))
        following = PIPELINE[following].chains_to
    return chain(*links) if len(links) > 1 else links[0]
