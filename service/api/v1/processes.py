"""The running processes of a deployment, and what an operator does to them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from fastapi import APIRouter

from config import VERSION
from service.api.acting import ActedBy
from service.api.auth import ADMIN
from service.api.problems import NOT_FOUND, HttpProblem
from service.api.services import Uses
from service.api.v1.rehearsing import DryRun, PreviewView, for_verb, preview
from service.api.v1.schemas import ProcessView, StatusView
from service.store import heartbeats, process_verbs
from service.store.engine import clock
from service.store.jobs import open_batches
from service.store.models import Heartbeat

router = APIRouter()


@router.get("/status", dependencies=[ADMIN])
def show_status(services: Uses) -> StatusView:
    """Show the running processes, by their heartbeats, and the number of open batches."""
    alive = heartbeats.heartbeats(services.db)
    now = clock(services.db)
    return StatusView(
        version=VERSION,
        workers=_processes(alive, "worker", now),
        schedulers=_processes(alive, "scheduler", now),
        inboxes=_processes(alive, "inbox", now),
        notifiers=_processes(alive, "notifier", now),
        open_batches=open_batches(services.db),
    )


@router.post("/processes/{process_id}/drain", dependencies=[ADMIN])
def drain_process(
    process_id: str, services: Uses, acting: ActedBy, dry_run: DryRun = False
) -> ProcessView | PreviewView:
    """Let a process finish what it has, and take nothing new, until it is resumed or ended.

    It learns that within 5 seconds. `drained_at` says when it holds nothing any more.
    """
    db = for_verb(services.db, dry_run=dry_run)
    shown = _found(process_verbs.drain(db, process_id, by=acting), services)
    return preview(db) or shown


@router.post("/processes/{process_id}/resume", dependencies=[ADMIN])
def resume_process(
    process_id: str, services: Uses, acting: ActedBy, dry_run: DryRun = False
) -> ProcessView | PreviewView:
    """Let a process that was to be drained take work again."""
    db = for_verb(services.db, dry_run=dry_run)
    shown = _found(process_verbs.resume(db, process_id, by=acting), services)
    return preview(db) or shown


def _found(row: Heartbeat | None, services: Uses) -> ProcessView:
    if row is None:
        raise HttpProblem(NOT_FOUND, "there is no such process; GET /v1/status lists their ids")
    return _process(row, clock(services.db))


def _processes(alive: Sequence[Heartbeat], kind: str, now: datetime) -> list[ProcessView]:
    return [_process(row, now) for row in alive if row.kind == kind]


def _process(row: Heartbeat, now: datetime) -> ProcessView:
    return ProcessView(
        id=row.id,
        state=_state(row),
        host=row.host,
        pid=row.pid,
        version=row.version,
        queues=row.queues,
        slots=row.slots,
        started_at=row.started_at,
        seen_at=row.seen_at,
        age_seconds=max((now - row.seen_at).total_seconds(), 0),
        draining_since=row.draining_since,
        drained_at=row.drained_at,
    )


def _state(row: Heartbeat) -> Literal["running", "draining", "drained"]:
    if row.draining_since is None:
        return "running"
    return "draining" if row.drained_at is None else "drained"
