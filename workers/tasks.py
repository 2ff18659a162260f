"""The stages as Celery tasks. Thin: the rules live below.

A task that raises Ignore ends its chain. The row says when it is due again.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from uuid import UUID

import structlog
from celery.exceptions import Ignore
from celery.signals import task_postrun, task_prerun, worker_init, worker_process_init
from kombu.exceptions import OperationalError

from config.settings import settings
from service.states import Stage
from service.store.engine import is_unavailable
from service.together import trust
from workers.app import app
from workers.pipeline import link
from workers.runner import Runner

log = structlog.get_logger()


@cache
def runner() -> Runner:
    """This process's runner: connections must not be shared over a fork."""
    return Runner(settings())


@worker_init.connect
def _prepare(**_: Any) -> None:
    """What its children need and can share."""
    trust()
    # What was loaded by now stays: the collector of no child need look through it again.
    gc.freeze()


@worker_process_init.connect
def _fresh(**_: Any) -> None:
    runner.cache_clear()


@task_prerun.connect
def _bind(task_id: str, **_: Any) -> None:
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(task_id=task_id)


@task_postrun.connect
def _unbind(**_: Any) -> None:
    structlog.contextvars.clear_contextvars()


@contextmanager
def _patient() -> Iterator[None]:
    """While Postgres is away a task ends quietly: the row is due again when it is back."""
    try:
        yield
    except Exception as error:
        if not is_unavailable(error):
            raise
        log.warning("postgres_unavailable", reason=str(error).splitlines()[0])
        raise Ignore from None


@app.task(name="haulier.split")
def split(job_id: str) -> None:
    with _patient():
        runner().job(Stage.SPLIT, UUID(job_id))


@app.task(name="haulier.assemble")
def assemble(job_id: str) -> None:
    with _patient():
        runner().job(Stage.ASSEMBLE, UUID(job_id))


@app.task(name="haulier.upload")
def upload(batch_id: str) -> None:
    with _patient():
        if not runner().batch(Stage.UPLOAD, UUID(batch_id)):
            raise Ignore


@app.task(name="haulier.create")
def create(batch_id: str) -> None:
    with _patient():
        if not runner().batch(Stage.CREATE, UUID(batch_id)):
            raise Ignore


@app.task(name="haulier.poll")
def poll(batch_ids: list[str]) -> None:
    """Poll a page of batches of one account and start the fetch of each that ended."""
    with _patient():
        for batch_id in runner().batches(Stage.POLL, map(UUID, batch_ids)):
            _start_fetch(batch_id)


def _start_fetch(batch_id: UUID) -> None:
    try:
        link(Stage.FETCH, str(batch_id), expires=settings().lease_seconds).apply_async()
    except OperationalError:
        # Redis is away. The row is stamped; the scheduler sends it again.
        log.warning("nudge_lost", batch=str(batch_id), stage=str(Stage.FETCH))


@app.task(name="haulier.sweep")
def sweep(account: str, spent_file_ids: list[str]) -> None:
    """Cancel what an unanswered create made after all."""
    runner().sweep(account, spent_file_ids)


@app.task(name="haulier.prune")
def prune() -> None:
    """Forget jobs that ended long ago."""
    with _patient():
        runner().prune()


@app.task(name="haulier.discard")
def discard(account: str | None) -> None:
    """Delete what forgotten jobs left at Together; None: in blob storage."""
    with _patient():
        runner().discard(account)


@app.task(name="haulier.sweep_blobs")
def sweep_blobs() -> None:
    """Delete old blobs that no row names."""
    with _patient():
        runner().sweep_blobs()


@app.task(name="haulier.fetch")
def fetch(batch_id: str) -> None:
    with _patient():
        runner().batch(Stage.FETCH, UUID(batch_id))
