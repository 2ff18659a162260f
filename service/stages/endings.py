"""Batches that end without another word from Together."""

from dataclasses import replace
from datetime import timedelta

from service.rules.outcomes import Outcome, RetryPart, Settle
from service.rules.states import BatchState
from service.rules.work import BatchClaim, Ending
from service.stages.clients import Clients
from service.stages.dead_letters import open_parts, settle_unserved, unserved

CANCELLED = ("cancelled", "the job was cancelled")


def ended_here(batch: BatchClaim, clients: Clients) -> Outcome | None:
    """Return the end of a batch that needs no account at Together; None if it has no such end.

    A batch of cancelled jobs has one until its create is sent, one that an operator gave up
    always.
    """
    match batch.ending:
        case Ending.DEAD:
            words = "an operator gave up the batch that it was in"
            return _given_up(settle_unserved(batch, clients, _end(batch), "abandoned", words))
        case Ending.AGAIN:
            return _given_up(_again(batch, clients))
    if batch.cancel_requested and not batch.sent:
        return settle_unserved(batch, clients, BatchState.CANCELLED, *CANCELLED)
    return None


def give_up(batch: BatchClaim, clients: Clients) -> Outcome:
    """Return the end of a batch of cancelled jobs that cannot be cancelled at Together."""
    to = _end(batch) if batch.provider_batch_id is not None else BatchState.CANCELLED
    return _given_up(settle_unserved(batch, clients, to, *CANCELLED))


def _end(batch: BatchClaim) -> BatchState:
    return BatchState.SETTLED if batch.provider_batch_id is not None else BatchState.FAILED


def _again(batch: BatchClaim, clients: Clients) -> Settle:
    """Let all requests go into new parts, which costs them no attempt."""
    settlements = tuple(
        unserved(
            part,
            RetryPart(
                manifest=part.manifest,
                requests=part.requests,
                bytes=part.bytes,
                delay=timedelta(0),
            ),
        )
        for part in open_parts(clients)
    )
    return Settle(_end(batch), settlements, reason="an operator let its requests go again")


def _given_up(settle: Settle) -> Settle:
    return replace(settle, given_up=True)
