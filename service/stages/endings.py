"""Batches that end without another word from Together."""

from datetime import timedelta

from service.rules.states import BatchState
from service.rules.work import (
    BatchClaim,
    Ending,
    Outcome,
    RetryBatch,
    Settle,
    Settlement,
)
from service.stages.clients import Clients
from service.stages.dead_letters import settle_unserved

CANCELLED = ("cancelled", "the job was cancelled")


def ended_here(batch: BatchClaim, clients: Clients) -> Outcome | None:
    """Return the end of a batch that needs no account at Together; None if it has no such end.

    A batch of a cancelled job has one until its create is sent, one that an operator gave up
    always.
    """
    match batch.ending:
        case Ending.DEAD:
            words = "an operator gave up the batch that it was in"
            return _given_up(settle_unserved(batch, clients, _end(batch), "abandoned", words))
        case Ending.AGAIN:
            return _given_up(_again(batch))
    if batch.cancel_requested and not batch.sent:
        return settle_unserved(batch, clients, BatchState.CANCELLED, *CANCELLED)
    return None


def give_up(batch: BatchClaim, clients: Clients) -> Outcome:
    """Return the end of a batch of a cancelled job that cannot be cancelled at Together."""
    to = _end(batch) if batch.provider_batch_id is not None else BatchState.CANCELLED
    return _given_up(settle_unserved(batch, clients, to, *CANCELLED))


def _end(batch: BatchClaim) -> BatchState:
    return BatchState.SETTLED if batch.provider_batch_id is not None else BatchState.FAILED


def _again(batch: BatchClaim) -> Settle:
    """Let all requests go into a new batch, which costs them no attempt."""
    retry = RetryBatch(
        manifest_blob=batch.manifest_blob,
        requests=batch.requests,
        bytes=batch.upload_bytes,
        delay=timedelta(0),
    )
    settlement = Settlement(succeeded=0, dead=(), retries=(retry,))
    return Settle(_end(batch), settlement, reason="an operator let its requests go again")


def _given_up(settle: Settle) -> Settle:
    return Settle(settle.to, settle.settlement, reason=settle.reason, given_up=True)
