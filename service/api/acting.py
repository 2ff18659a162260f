"""Who acts on a request, as the audit log names it."""

from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from service.api.auth import CalledBy, Caller
from service.store.audit import ADMIN, Actor
from service.store.models import Job

LONGEST_ID = 200
"""Characters of an `X-Request-ID` that are kept."""


async def actor(request: Request, caller: CalledBy) -> Actor:
    """Return the caller as an actor."""
    sent = request.headers.get("x-request-id", "")
    return Actor(
        name=ADMIN if caller.token_id is None else f"producer:{caller.producer}",
        credential=caller.token_id,
        origin=request.client.host if request.client else None,
        request_id="".join(filter(str.isprintable, sent))[:LONGEST_ID] or None,
    )


ActedBy = Annotated[Actor, Depends(actor)]


def operator_of(job: Job, caller: Caller, acting: Actor) -> Actor | None:
    """Return the actor if it acts on a job as an operator; None if the job is the caller's own.

    The admin token is nobody's own: it always acts as an operator.
    """
    is_own = caller.token_id is not None and job.producer == caller.producer
    return None if is_own else acting
