"""Ask Together how a batch is doing."""

from service.crashpoints import CrashPoint, reached
from service.errors import Missing
from service.stages.clients import AccountClients
from service.states import BatchState
from service.work import Advance, BatchClaim, Changes, Outcome, Park, Retry, Wait

MOST_MISSING = 20
"""How often in a row; with pauses of up to five minutes, more than an hour."""


def poll(batch: BatchClaim, clients: AccountClients) -> Outcome:
    try:
        return _poll(batch, clients)
    except Missing as error:
        return not_there(batch, error)


def not_there(batch: BatchClaim, error: Missing) -> Outcome:
    """Together does not know what it held. Perhaps the key is another project's by now: wait long,
    then for an operator, and never buy it again."""
    if batch.failures >= MOST_MISSING:
        return Park(f"Together does not know it any more: {error}")
    return Retry(str(error))


def _poll(batch: BatchClaim, clients: AccountClients) -> Outcome:
    if batch.provider_batch_id is None:
        raise AssertionError("a created batch has a provider batch")
    together = clients.together
    cancel_sent = batch.cancel_sent
    if batch.cancel_requested and not cancel_sent:
        together.cancel(batch.provider_batch_id)
        reached(CrashPoint.POLL_CANCELLED)
        cancel_sent = True
    job = together.batch(batch.provider_batch_id)
    changes = Changes(
        provider_status=job.status,
        provider_error=job.error,
        progress=job.progress,
        output_file_id=job.output_file_id,
        error_file_id=job.error_file_id,
        cancel_sent=cancel_sent,
    )
    if not job.ended:
        return Wait(clients.settings.poll_seconds, changes)
    without_files = job.output_file_id is None and job.error_file_id is None
    if without_files and batch.provider_status != job.status:
        # The files may only appear a moment after the status.
        return Wait(clients.settings.poll_seconds, changes)
    reached(CrashPoint.POLL_ENDED)
    return Advance(BatchState.ENDED, changes)
