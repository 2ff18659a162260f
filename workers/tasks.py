"""The stages and chores as Celery tasks. They are thin: the rules live in `service`.

A task raises Ignore to end its chain. The row says when the stage is due again.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any
from uuid import UUID

import structlog
from celery.exceptions import Ignore
from celery.signals import (
    task_postrun,
    task_prerun,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
)
from kombu.exceptions import OperationalError

from config.settings import settings
from service import stages
from service.rules.errors import AccountBlocked, HandedBack, HaulierError
from service.rules.measures import REDIS_ERRORS, STARTS
from service.rules.states import Stage
from service.runner.runner import Runner
from service.store import chores, leftovers
from service.store.engine import is_unavailable
from service.together.transport import trust
from service.upkeep import files, retention
from service.upkeep.measuring import Storing
from service.upkeep.sweep import DAY, sweep
from workers.app import app, stopping
from workers.pipeline import PIPELINE, WORK, link
from workers.process import first_line
from workers.ratelimit import RateLimit

log = structlog.get_logger()


@cache
def runner() -> Runner:
    """Return this process's runner. Each child makes its own: a fork must not share connections."""
    config = settings()
    per_second = config.control_requests_per_second
    gate = None
    if per_second is not None:
        config.required("redis_url")
        gate = RateLimit(config.redis_url or "", per_second).gate
    return Runner(config, WORK, gate=gate, stopping=stopping)


@worker_init.connect
def _prepare(**_: Any) -> None:
    """Load what all children need, before the worker forks them."""
    _worker.add(os.getpid())
    trust()
    # Objects that exist now stay. A frozen object costs no child's collector any time.
    gc.freeze()


_worker: set[int] = set()
"""The pid of the worker, as its children find it."""


@worker_process_init.connect
def _fresh(**_: Any) -> None:
    runner.cache_clear()
    # From here on the kernel ends a child when its worker dies. Perhaps it had died by then.
    if _worker.isdisjoint({os.getpid(), os.getppid()}):
        os._exit(1)
    STARTS.count("worker_child")
    _storing[:] = [Storing(lambda: runner().db)]
    _storing[0].start()


_storing: list[Storing] = []


@worker_process_shutdown.connect
def _store_the_last(**_: Any) -> None:
    for storing in _storing:
        storing.stop()


@task_prerun.connect
def _bind(task_id: str, **_: Any) -> None:
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(task_id=task_id)


@task_postrun.connect
def _unbind(**_: Any) -> None:
    structlog.contextvars.clear_contextvars()


@contextmanager
def _patient() -> Iterator[None]:
    """End the task quietly if Postgres is away. The row is due again when Postgres is back."""
    try:
        yield
    except Exception as error:
        if not is_unavailable(error):
            raise
        log.warning("postgres_unavailable", reason=first_line(error))
        raise Ignore from None


# --- the stages, in the order of the work ------------------------------------------------------
#
# No `self.retry` and no ETA: a message that waits in a worker is lost if the worker dies. To run a
# stage again, its row gets a `not_before`, and the scheduler sends a message when that time comes.


@app.task(name="haulier.split")
def split(job_id: str) -> None:
    _run_jobs(Stage.SPLIT, [job_id])


@app.task(name="haulier.upload")
def upload(batch_id: str) -> None:
    _run_batches(Stage.UPLOAD, [batch_id])


@app.task(name="haulier.create")
def create(batch_id: str) -> None:
    _run_batches(Stage.CREATE, [batch_id])


@app.task(name="haulier.poll")
def poll(batch_ids: list[str]) -> None:
    _run_batches(Stage.POLL, batch_ids)


@app.task(name="haulier.fetch")
def fetch(batch_id: str) -> None:
    _run_batches(Stage.FETCH, [batch_id])


@app.task(name="haulier.assemble")
def assemble(job_ids: list[str]) -> None:
    _run_jobs(Stage.ASSEMBLE, job_ids)


def _run_jobs(stage: Stage, job_ids: list[str]) -> None:
    with _patient():
        runner().jobs(stage, _ids(stage, job_ids))


def _run_batches(stage: Stage, batch_ids: list[str]) -> None:
    """Run a stage of batches. Raise Ignore, which ends a chain, unless a batch advanced."""
    advanced = False
    with _patient():
        for batch_id in runner().batches(stage, _ids(stage, batch_ids)):
            advanced = True
            _start(PIPELINE[stage].starts, batch_id)
    if not advanced and PIPELINE[stage].chains_to is not None:
        raise Ignore


def _ids(stage: Stage, given: object) -> list[UUID]:
    """Return the ids that a message names, at most a page. What is no id names no row.

    Whoever can write to the broker may have sent it.
    """
    found = []
    for name in given[: PIPELINE[stage].page] if isinstance(given, list) else ():
        with suppress(ValueError):
            found.append(UUID(name if isinstance(name, str) else ""))
    return found


def _is_account(name: object) -> bool:
    return isinstance(name, str) and name in settings().account_names


def _start(stage: Stage | None, batch_id: UUID) -> None:
    """Send a message for the stage that follows, if the table names one."""
    if stage is None:
        return
    try:
        link(stage, str(batch_id)).apply_async()
    except OperationalError:
        # Redis is away. The scheduler sends the row again when its stamp expires.
        REDIS_ERRORS.count("worker_child")
        log.warning("nudge_lost", batch=str(batch_id), stage=str(stage))


# --- chores ------------------------------------------------------------------------------------


@app.task(name="haulier.sweep")
def cancel_late_batches(account: str) -> None:
    """Cancel batches that Together created late, after Haulier had given up that create.

    Which files these are says Postgres: whoever can write to the broker could send a message.
    """
    if not _is_account(account):
        return
    with structlog.contextvars.bound_contextvars(account=account), _patient():
        spent = leftovers.spent_files(runner().db, account)
        if not spent:
            return
        try:
            stages.cancel_duplicates(runner().together(account), spent)
        except HaulierError as error:
            # The next message of this kind tries again.
            log.warning("sweep_failed", reason=str(error))


@app.task(name="haulier.prune")
def prune() -> None:
    """Delete jobs that ended long ago, and calls that ended a while ago."""
    days = settings().retention_days
    # No call stays longer than other jobs do.
    call_days = min(settings().call_days, days or settings().call_days)
    with _patient():
        retention.prune(runner().db, timedelta(days=call_days), calls=True, stopping=stopping)
        if days is not None:
            retention.prune(runner().db, timedelta(days=days), stopping=stopping)


@app.task(name="haulier.expire_files")
def expire_files() -> None:
    """Delete uploaded files whose time is over, and the bytes of deleted ones."""
    after = timedelta(days=settings().file_days)
    with _patient():
        files.expire(runner().db, runner().blobs, after, stopping=stopping)


@app.task(name="haulier.discard")
def discard(account: str | None) -> None:
    """Delete files that pruned jobs left at an account; with None, their blobs."""
    if account is not None and not _is_account(account):
        return
    config = settings()
    terms = retention.Terms(config.lease_seconds, config.retry_base_seconds, stopping)
    with structlog.contextvars.bound_contextvars(account=account), _patient():
        if account is None:
            retention.discard_blobs(runner().db, runner().blobs, terms)
            return
        try:
            together = runner().together(account)
        except AccountBlocked as error:
            log.warning("discard_failed", reason=str(error))
        else:
            retention.discard_files(runner().db, account, together, terms)


@app.task(name="haulier.sweep_blobs")
def sweep_blobs() -> None:
    """Delete old blobs that no row names, if it is time for that."""
    with _patient():
        if not chores.was_asked(runner().db, "sweep_blobs"):
            return
        try:
            sweep(runner().db, runner().blobs, stopping=stopping)
        except HandedBack:
            chores.give_back(runner().db, "sweep_blobs", every=DAY)
