"""What a refusal concerns: the whole account, the lane, or the batch alone.

Together's status codes do not tell. A call that costs nothing does: if Together answers it, the
account's key works, and the refusal concerns what was asked.
"""

from datetime import timedelta

from service.rules.errors import AccountBlocked, QueueFull, RateLimited, Transient, Unreachable
from service.rules.outcomes import Hold, Outcome, Park, Pause, Retry
from service.rules.retry import MOST_HELD, MOST_REFUSALS, after
from service.rules.states import BatchState
from service.rules.work import BatchClaim
from service.stages.clients import AccountClients
from service.stages.dead_letters import settle_unserved
from service.stages.endings import give_up


def weigh(batch: BatchClaim, error: Unreachable, clients: AccountClients) -> Outcome:
    """Return the outcome for a batch whose stage raised an error of Together.

    Pauses and holds never end by themselves if they concern only this batch. So they are counted,
    and in the end the batch fails with Together's words.
    """
    creates = batch.state is BatchState.UPLOADED and batch.create_deadline is None
    match error:
        case QueueFull(wait=wait) if creates:
            return _hold(batch, error, wait, clients)
        case AccountBlocked(spending=True) if batch.held >= MOST_HELD:
            return _refused(batch, error, clients)
        case AccountBlocked(spending=False):
            return _forbidden(batch, error, clients)
        case QueueFull(wait=wait) | RateLimited(wait=wait):
            return _slow_down(batch, error, wait, clients, creates=creates)
        case _:
            return after(error)


def _slow_down(
    batch: BatchClaim,
    error: Unreachable,
    wait: timedelta | None,
    clients: AccountClients,
    *,
    creates: bool,
) -> Outcome:
    """Decide for a 429. Where it names a time and nothing is created, it is the account's limit."""
    limit = Pause(str(error), wait)
    if wait is not None and not creates:
        return limit
    try:
        works = _key_works(clients)
    except Transient:
        return limit
    if not works:
        return limit
    return _hold(batch, error, wait, clients) if creates else Retry(str(error), not_sent=True)


def _key_works(clients: AccountClients) -> bool:
    """Whether the account's calls are answered. Raises Transient if there is no telling."""
    try:
        clients.together.check_key()
    except Unreachable as error:
        if isinstance(error, Transient):
            raise
        return False
    return True


def _forbidden(batch: BatchClaim, error: AccountBlocked, clients: AccountClients) -> Outcome:
    try:
        works = _key_works(clients)
    except Transient:
        return Retry(str(error), not_sent=True)
    if not works:
        return _without_key(batch, error, clients)
    if batch.refusals + 1 < MOST_REFUSALS:
        return Retry(str(error), not_sent=True, refused=True)
    return _refused(batch, error, clients)


def _without_key(batch: BatchClaim, error: AccountBlocked, clients: AccountClients) -> Outcome:
    """Pause the account. A cancelled batch waits only so long for a key: its results may be paid.

    How long ago it was cancelled does not matter: Together may have taken its time to end it.
    """
    if batch.cancelled_at is None or batch.key_refused_since is None:
        return after(error)
    waited = batch.now - max(batch.cancelled_at, batch.key_refused_since)
    if waited > clients.settings.settle_patience_seconds:
        return give_up(batch, clients)
    return after(error)


def _hold(
    batch: BatchClaim, error: Unreachable, wait: timedelta | None, clients: AccountClients
) -> Outcome:
    if batch.held >= MOST_HELD:
        return _refused(batch, error, clients)
    return Hold(str(error), wait)


def _refused(batch: BatchClaim, error: Unreachable, clients: AccountClients) -> Outcome:
    """End a batch that was refused too often. What Together may hold is parked instead."""
    if batch.sent:
        return Park(f"Together refuses it although the account's key works: {error}")
    code = "upload_refused" if batch.state is BatchState.QUEUED else "create_refused"
    return settle_unserved(batch, clients, BatchState.FAILED, code, str(error))
