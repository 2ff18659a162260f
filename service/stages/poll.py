"""Ask Together how a batch is doing."""

from datetime import timedelta

from service.rules.crashpoints import CrashPoint, reached
from service.rules.errors import Missing
from service.rules.outcomes import Advance, Changes, Outcome, Park, Retry, Wait
from service.rules.pace import next_poll
from service.rules.retry import backoff
from service.rules.states import BatchState
from service.rules.work import BatchClaim
from service.stages.clients import AccountClients
from service.stages.endings import give_up
from service.together.wire import ProviderBatch

MOST_NOT_THERE = 20
"""How many 404s in a row park a batch. Pauses grow to five minutes: this takes over an hour."""
MOST_NOT_THERE_CANCELLED = 3
"""The same for a batch of a cancelled job, which then ends without results."""


def poll(batch: BatchClaim, clients: AccountClients) -> Outcome:
    """Ask Together for the batch, and advance it if it has ended. Send a cancel that is due."""
    try:
        return _poll(batch, clients)
    except Missing as error:
        return when_not_there(batch, error, clients)


def _poll(batch: BatchClaim, clients: AccountClients) -> Outcome:
    if batch.provider_batch_id is None:
        raise AssertionError("a created batch has a provider batch id")
    cancel_sent = batch.cancel_sent
    if batch.cancel_requested and not cancel_sent:
        clients.together.cancel(batch.provider_batch_id)
        reached(CrashPoint.POLL_CANCELLED)
        cancel_sent = True
    job = clients.show(batch.provider_batch_id)
    if job is None:
        reason = "Together's list of batches does not show it"
        changes = Changes(cancel_sent=cancel_sent)
        return Wait(clients.settings.poll_seconds, changes, reason, looked=False)
    changes = Changes(
        provider_status=job.status,
        provider_error=job.error,
        progress=job.progress,
        output_file_id=job.output_file_id,
        error_file_id=job.error_file_id,
        cancel_sent=cancel_sent,
    )
    if not job.ended:
        fastest = clients.settings.poll_seconds
        pause = fastest if cancel_sent else until_next_poll(batch, job, clients)
        return Wait(pause, changes)
    reached(CrashPoint.POLL_ENDED)
    return Advance(BatchState.ENDED, changes)


def when_not_there(batch: BatchClaim, error: Missing, clients: AccountClients) -> Outcome:
    """Decide what happens if Together answers 404 for a batch or file that it held.

    The key may belong to another project by now. So retry for a long time, then park the batch
    for an operator. Never buy it again. If its job was cancelled, it soon ends instead.
    """
    if batch.cancel_requested and batch.not_there >= MOST_NOT_THERE_CANCELLED:
        return give_up(batch, clients)
    if batch.not_there >= MOST_NOT_THERE:
        return Park(f"Together no longer has the batch or its files: {error}")
    # Transient errors in between make this neither longer nor shorter.
    pause = backoff(batch.not_there + 1, clients.settings.retry_base_seconds, 1.0)
    return Retry(str(error), pause, not_there=True)


def until_next_poll(batch: BatchClaim, job: ProviderBatch, clients: AccountClients) -> timedelta:
    """Return how long to wait before the next poll of a batch that Together shows as `job`."""
    fastest = clients.settings.poll_seconds
    return next_poll(
        status=job.status,
        elapsed=batch.elapsed,
        expected=batch.expected,
        progress=job.progress,
        fastest=fastest,
        slowest=clients.settings.slowest_poll_seconds or fastest * 10,
    )
