"""Create the batch at Together, and never blindly twice.

The claim commits the intent to create before this stage runs. If the answer to an earlier create
is unknown, the stage looks for its batch by the input file, which no other batch uses.
"""

from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import timedelta

import structlog

from service.rules.crashpoints import CrashPoint, reached
from service.rules.errors import Missing, Refused, Transient
from service.rules.outcomes import Advance, Changes, Outcome, Retry, Wait
from service.rules.states import BatchState
from service.rules.work import BatchClaim
from service.stages.clients import AccountClients
from service.stages.dead_letters import refuse
from service.stages.poll import until_next_poll
from service.together.client import Together
from service.together.wire import ProviderBatch

log = structlog.get_logger()

MOST_UNNAMED = 20
"""How many batches a search asks for singly because the list does not show their input file."""
MOST_UPLOADS = 3
"""How many input files Together may lose before the batch fails for it."""


def create(batch: BatchClaim, clients: AccountClients) -> Outcome:
    """Create the batch, or adopt the one that an earlier create made."""
    if batch.create_deadline is not None:
        return _find(batch, clients)
    if batch.input_file_id is None:
        raise AssertionError("an uploaded batch has an input file")
    # Waiting for a turn may take a while, so check the lease afterwards.
    clients.together.take_turn()
    deadline = clients.settings.lease_seconds / 2
    if clients.lease.remaining() < deadline:
        # The call might outlast the lease.
        return Retry("the lease was too short to send the create", timedelta(0), not_sent=True)
    try:
        job = clients.together.create(batch.endpoint, batch.input_file_id, within=deadline)
        reached(CrashPoint.CREATE_SENT)
    except Refused as error:
        about_file = isinstance(error, Missing) or "file" in str(error).lower()
        if about_file and len(batch.spent_file_ids) < MOST_UPLOADS:
            # Together lost the file, as it may after a long pause. Its requests are still good.
            log.warning("input_file_lost", reason=str(error))
            return Advance(BatchState.QUEUED)
        return refuse(batch, clients, "create_refused", str(error))
    except Transient as error:
        # If the create may have been sent, the next try begins with a search.
        pause = None if not error.sent else timedelta(0)
        return Retry(str(error), pause, not_sent=not error.sent, create_failed=True)
    if job is None:
        return Retry("Together accepted the create but did not return the batch", timedelta(0))
    return _adopted(batch, job, clients)


def _find(batch: BatchClaim, clients: AccountClients) -> Outcome:
    """Look for the batch that an earlier create may have made."""
    if batch.create_deadline is None or batch.input_file_id is None:
        raise AssertionError("only a batch with an intent to create is searched for")
    found = _with_input(clients.together, batch.input_file_id)
    if found:
        oldest, *duplicates = sorted(found, key=lambda job: job.created_at or 0.0)
        _cancel(clients.together, duplicates)
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


def _with_input(together: Together, file_id: str) -> list[ProviderBatch]:
    """Return the batches of an input file. Asks singly for those whose entry names no file."""
    listed = together.batches()
    unnamed = [job for job in listed if job.input_file_id is None]
    unnamed.sort(key=lambda job: job.created_at or 0.0, reverse=True)
    for job in unnamed[:MOST_UNNAMED]:
        with suppress(Refused):
            listed.append(together.batch(job.id))
    return [job for job in listed if job.input_file_id == file_id]


def _adopted(batch: BatchClaim, job: ProviderBatch, clients: AccountClients) -> Advance:
    return Advance(
        BatchState.CREATED,
        Changes(provider_batch_id=job.id),
        delay=until_next_poll(batch, job, clients),
    )


def cancel_duplicates(together: Together, spent_file_ids: Collection[str]) -> int:
    """Cancel batches that appeared after Haulier had given up their create.

    `spent_file_ids` are the input files of those creates. Returns how many batches were cancelled.
    Safe to run twice.
    """
    duplicates = [
        job
        for job in together.batches()
        if job.input_file_id in spent_file_ids and not job.ended and job.status != "CANCELLING"
    ]
    _cancel(together, duplicates)
    return len(duplicates)


def _cancel(together: Together, duplicates: Iterable[ProviderBatch]) -> None:
    for duplicate in duplicates:
        log.error("twin_batch_cancelled", provider_batch_id=duplicate.id)
        together.cancel(duplicate.id)
