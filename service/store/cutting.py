"""Cutting a probe off a part: the part travels with a few requests, the others wait on."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.rules.outcomes import Cut
from service.rules.states import PartState
from service.rules.work import Claim
from service.store.models import Batch, Event, Job, Part
from service.store.parts import rest_of, stored


def lock_divided(session: Session, claim: Claim, outcome: Cut) -> tuple[Job, Part] | None:
    """Lock the job and its part, before their batch; None if the part has left it."""
    job = session.scalar(
        select(Job)
        .join(Part, Part.job_id == Job.id)
        .where(Part.id == outcome.part)
        .with_for_update(of=Job, key_share=True)
    )
    part = session.scalar(
        select(Part)
        .where(Part.id == outcome.part, Part.batch_id == claim.id)
        .where(Part.state == PartState.TRAVELLING)
        .with_for_update()
    )
    return None if job is None or part is None else (job, part)


def cut(session: Session, batch: Batch, job: Job, part: Part, outcome: Cut) -> None:
    """Divide a part whose batch is leased: what stays is a new waiting part of the same job."""
    if outcome.requests >= part.requests:
        return
    rest = rest_of(part, outcome.stays)
    rest.requests = part.requests - outcome.requests
    rest.bytes = part.bytes - outcome.bytes
    session.add(rest)
    batch.tokens = batch.tokens * outcome.requests // batch.requests
    batch.requests -= rest.requests
    batch.bytes -= rest.bytes
    part.requests, part.bytes = outcome.requests, outcome.bytes
    for name, value in stored(outcome.travels).items():
        setattr(part, name, value)
    job.open_parts += 1
    detail = {"part": str(part.id), "requests": part.requests, "waiting": rest.requests}
    session.add(Event(job_id=job.id, target="probe", detail=detail))
