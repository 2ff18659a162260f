"""Create the batch at Together, and never blindly twice.

The claim has committed the intent before this runs. If nothing is known of an earlier intent's
outcome, the batch is looked for by its input file, which no other batch has.
"""

from datetime import timedelta

import structlog

from service.rules.crashpoints import CrashPoint, reached
from service.rules.errors import Missing, Refused, Transient
from service.rules.states import BatchState
from service.rules.work import Advance, BatchClaim, Changes, Outcome, Retry, Wait
from service.stages.clients import AccountClients
from service.stages.poll import until_next_poll
from service.stages.unserved import settle_unserved
from service.together.client import ProviderBatch

log = structlog.get_logger()

MOST_UPLOADS = 3
"""How often a file may be refused as missing before that is what is wrong with the batch."""


def create(batch: BatchClaim, clients: AccountClients) -> Outcome:
    if batch.create_deadline is not None:
        return _find(batch, clients)
    if batch.cancel_requested:
        return settle_unserved(
            batch, clients, BatchState.CANCELLED, "cancelled", "the job was cancelled"
        )
    if batch.input_file_id is None:
        raise AssertionError("an uploaded batch has an input file")
    # This may take a while, so the lease is looked at after it.
    clients.together.take_turn()
    deadline = clients.settings.lease_seconds / 2
    if clients.lease.remaining() < deadline:
        # Too late to be sure that the call ends while the lease is ours.
        return Retry("the lease was too short to send the create", timedelta(0), not_sent=True)
    try:
        job = clients.together.create(batch.endpoint, batch.input_file_id, within=deadline)
        reached(CrashPoint.CREATE_SENT)
    except Refused as error:
        about_file = isinstance(error, Missing) or "file" in str(error).lower()
        if about_file and len(batch.spent_file_ids) < MOST_UPLOADS:
            # The file is gone over there, as after a long pause; its requests are as good as ever.
            log.warning("input_file_lost", reason=str(error))
            return Advance(BatchState.QUEUED)
        return settle_unserved(batch, clients, BatchState.FAILED, "create_refused", str(error))
    except Transient as error:
        # Where it may have been sent, the next try begins with a search.
        return Retry(str(error), None if not error.sent else timedelta(0), not_sent=not error.sent)
    if job is None:
        return Retry("Together took the create without showing the batch", timedelta(0))
    return _adopted(batch, job, clients)


def _find(batch: BatchClaim, clients: AccountClients) -> Outcome:
    """Look for the batch that an earlier create may have made."""
    if batch.create_deadline is None or batch.input_file_id is None:
        raise AssertionError("only an intent is searched for")
    found = [job for job in clients.together.batches() if job.input_file_id == batch.input_file_id]
    if found:
        oldest, *others = sorted(found, key=lambda job: job.created_at or "")
        for twin in others:
            log.error("twin_batch_cancelled", provider_batch_id=twin.id)
            clients.together.cancel(twin.id)
        reached(CrashPoint.CREATE_FOUND)
        log.warning("batch_adopted", provider_batch_id=oldest.id)
        return _adopted(batch, oldest, clients)
    certain_at = batch.create_deadline + clients.settings.create_grace_seconds
    if batch.now < certain_at:
        # The POST may still be in flight, or the list may lag behind.
        pause = min(certain_at - batch.now, clients.settings.poll_seconds)
        return Wait(pause, reason="looking for the batch of an unanswered create")
    log.warning("create_given_up", input_file_id=batch.input_file_id)
    return Advance(BatchState.QUEUED)


def _adopted(batch: BatchClaim, job: ProviderBatch, clients: AccountClients) -> Advance:
    return Advance(
        BatchState.CREATED,
        Changes(provider_batch_id=job.id),
        delay=until_next_poll(batch, job, clients),
    )
