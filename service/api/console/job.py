"""One job: how far it is and why it waits, its attempts over time, its failures, and its verbs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from service.api.acting import operator_of
from service.api.console.looking import Look, Shown
from service.api.console.pages import Page, Verb
from service.api.console.visitor import Power
from service.api.problems import INVALID, NOT_FOUND, HttpProblem
from service.api.v1 import jobs as api
from service.api.v1 import retrying
from service.api.v1.deliveries import redeliver_notice
from service.api.v1.retrying import Release, Retry
from service.api.v1.usage import show_job_usage
from service.store import jobs as store
from service.store.causes import causes_of_job
from service.store.engine import clock
from service.store.models import Batch, Job, Part
from service.store.notices import deliveries

MOST_PARTS = 60
"""The attempts that the chart shows; the batches page lists all."""
MOST_CAUSES = 20
MOST_EVENTS = 100
CANARY = 5
"""The requests of a cause that are tried before all of it."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A part as a line of the chart; places are in percent of the time that is shown."""

    part: Part
    batch: Batch | None
    begins: float
    sent: float
    ends: float
    tone: str


def read(look: Look) -> Shown:
    services, db = look.services, look.services.db
    job = _job(look)
    found = store.parts(db, job.id, after=None, limit=MOST_PARTS + 1)
    causes = causes_of_job(db, job.id, limit=MOST_CAUSES) if job.failed else None
    return {
        "job": api.show_job(job, services),
        "attempts": _chart(job, found[:MOST_PARTS], clock(db)),
        "has_more_parts": len(found) > MOST_PARTS,
        "causes": causes.causes if causes else (),
        "are_all_causes": causes is None or causes.is_complete,
        "canary": CANARY,
        "notices": deliveries(db, job.id, after=None, limit=50),
        "events": store.events(db, job.id, after=0, limit=MOST_EVENTS),
        "most_events": MOST_EVENTS,
        "used": show_job_usage(job, services),
    }


def _job(look: Look) -> Job:
    return api.visible_job(look.path["job_id"], look.services, look.visitor.caller)


def _chart(job: Job, found: list[tuple[Part, Batch | None]], now: datetime) -> list[Attempt]:
    first, last = job.created_at, job.finished_at or now
    whole = max((last - first).total_seconds(), 1.0)

    def place(at: datetime | None) -> float:
        seconds = ((at or last) - first).total_seconds()
        return round(min(max(100 * seconds / whole, 0.0), 100.0), 2)

    def tone(part: Part) -> str:
        if part.finished_at is None:
            return "run"
        return "good" if part.succeeded == part.requests else "bad"

    return [
        Attempt(
            part=part,
            batch=batch,
            begins=place(part.created_at),
            sent=place(batch.submitted_at) if batch and batch.submitted_at else place(None),
            ends=place(part.finished_at),
            tone=tone(part),
        )
        for part, batch in found
    ]


def _on(look: Look, job: Job) -> dict[str, Any]:
    """Return the arguments of a verb on a job."""
    visitor = look.visitor
    return {
        "job": job,
        "services": look.services,
        "caller": visitor.caller,
        "operator": operator_of(job, visitor.caller, visitor.actor),
        "acting": visitor.actor,
    }


def _cancel(look: Look, _sent: Mapping[str, str]) -> str:
    api.cancel_job(**_on(look, _job(look)))
    return "The job is being cancelled. What Together has done already is kept."


def _retry(look: Look, sent: Mapping[str, str]) -> str:
    asked, told = None, "The failed requests go again."
    if cause := sent.get("cause"):
        limit = CANARY if sent.get("canary") else None
        asked, told = Retry(cause=cause, limit=limit), "The requests of this cause go again."
        if limit:
            told = f"At most {CANARY} requests of this cause go again, to see whether it is mended."
    elif custom_id := sent.get("custom_id"):
        asked, told = Retry(custom_ids=[custom_id]), "The request goes again."
    retrying.retry_job(**_on(look, _job(look)), asked=asked)
    return told


def _release(look: Look, sent: Mapping[str, str]) -> str:
    most = sent.get("max_cost", "").strip()
    try:
        asked = Release.model_validate({"max_cost": most or None})
    except ValueError:
        raise HttpProblem(INVALID, f"{most!r} is no amount of USD above 0") from None
    retrying.release_job(**_on(look, _job(look)), asked=asked)
    return "What was held of the job goes now."


def _redeliver(look: Look, _sent: Mapping[str, str]) -> str:
    job, visitor = _job(look), look.visitor
    try:
        UUID(look.path["delivery_id"])
    except ValueError:
        raise HttpProblem(NOT_FOUND, "the job has no such notice") from None
    operator = operator_of(job, visitor.caller, visitor.actor)
    redeliver_notice(
        job=job,
        delivery_id=look.path["delivery_id"],
        services=look.services,
        operator=operator,
        acting=visitor.actor,
    )
    return "The notice is sent again."


PAGE = Page(
    path="/jobs/{job_id}",
    title="Job",
    template="job.html",
    read=read,
    verbs=(
        Verb(path="/jobs/{job_id}/cancel", needs=Power.CANCEL, do=_cancel),
        Verb(path="/jobs/{job_id}/retry", needs=Power.SUBMIT, do=_retry),
        Verb(path="/jobs/{job_id}/release", needs=Power.SUBMIT, do=_release),
        Verb(
            path="/jobs/{job_id}/notices/{delivery_id}/again",
            needs=Power.SUBMIT,
            do=_redeliver,
        ),
    ),
)
