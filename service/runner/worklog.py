"""Log lines about the work on a row."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from service.rules.outcomes import (
    Advance,
    Assembled,
    Cut,
    Fail,
    Hold,
    Outcome,
    Park,
    Pause,
    Retry,
    SetApart,
    Settle,
    Split,
    Wait,
)
from service.rules.states import Stage
from service.rules.work import BatchClaim, Claim

log = structlog.get_logger()


@contextmanager
def bound(claim: Claim, stage: Stage) -> Iterator[None]:
    """Add the stage and the row's ids to every log line of this context."""
    context = {"stage": str(stage), "account": claim.account}
    if isinstance(claim, BatchClaim):
        with structlog.contextvars.bound_contextvars(**context, batch=str(claim.id)):
            yield
    else:
        with structlog.contextvars.bound_contextvars(**context, job=str(claim.id)):
            yield


TROUBLE = {
    Retry: (logging.WARNING, "postponed"),
    Hold: (logging.WARNING, "lane_held"),
    Pause: (logging.ERROR, "account_paused"),
    Fail: (logging.ERROR, "job_failed"),
    Park: (logging.CRITICAL, "parked"),
}
"""The level and the event of outcomes that have a reason."""


def report(outcome: Outcome) -> None:
    """Log an outcome under a constant event name. The ids are in the context."""
    match outcome:
        case Advance(to=to):
            log.info("advanced", to=str(to))
        case Settle(to=to, parts=parts, reason=reason, rest=rest):
            log.info(
                "settled",
                to=str(to),
                parts=len(parts),
                succeeded=sum(part.succeeded for part in parts),
                dead=sum(len(part.dead) for part in parts),
                carried=sum(part.carried for part in parts),
                reason=reason,
                waits=None if rest is None else rest.reason,
            )
        case SetApart(parts=parts, reason=reason):
            log.error("set_apart", parts=[str(part) for part in parts], reason=reason)
        case Cut(requests=requests):
            log.info("probe_cut", requests=requests)
        case Split(shards=shards):
            log.info("split", shards=len(shards))
        case Assembled(segments=segments):
            log.info("assembled", segments=len(segments))
        case Wait():
            log.debug("waiting")
        case _:
            level, event = TROUBLE[type(outcome)]
            log.log(level, event, reason=outcome.reason)
