"""Batches that end without another word from Together, and lanes and rows that were refused."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from service.rules.admission import Capacity
from service.rules.errors import Conflict
from service.rules.outcomes import (
    Advance,
    Changes,
    Hold,
    Park,
    Pause,
    Retry,
    RetryPart,
    Settle,
    Split,
)
from service.rules.retry import MANY_FAILURES
from service.rules.states import BatchState, JobState, Stage
from service.rules.work import Ending
from service.store import engine
from service.store.accounts import accounts
from service.store.cancel import cancel
from service.store.claim import claim_batches
from service.store.gauges import gauges
from service.store.models import Batch
from service.store.parked import abandon, unpark
from service.store.waiting import Reason, why
from tests.factories import AT_ONCE, LEASE, Harness, settlement
from tests.servers import Databases

MINUTE = timedelta(minutes=1)
WIDE = Capacity(batches=None, tokens=10**12)


@pytest.fixture(scope="module")
def _harness(databases: Databases) -> Iterator[Harness]:
    url = databases.create()
    made = engine.create(url)
    yield Harness(engine.database(made))
    made.dispose()
    databases.drop(url)


@pytest.fixture
def harness(_harness: Harness) -> Harness:
    _harness.sweep()
    return _harness


def reason(harness: Harness, batch: Batch) -> Reason:
    found = why(harness.db, harness.job_of(batch.id), WIDE, AT_ONCE)
    assert found is not None
    return found


# --- lanes whose queue is full ------------------------------------------------------------------


def test_a_full_queue_holds_creates_and_uploads_of_its_lane(harness: Harness) -> None:
    full, uploaded, queued = harness.uploaded(), harness.uploaded(), harness.queued()
    elsewhere, bought = harness.queued(), harness.created()
    harness.run("UPDATE haulier.batches SET model = 'another' WHERE id = :id", id=elsewhere)
    harness.apply(harness.claim(full, Stage.CREATE), Hold("429 queue full", MINUTE))

    assert claim_batches(harness.db, [full, uploaded], Stage.CREATE, LEASE) == []
    assert claim_batches(harness.db, [queued], Stage.UPLOAD, LEASE) == []
    harness.claim(elsewhere, Stage.UPLOAD)
    harness.due_now(bought)
    harness.claim(bought, Stage.POLL)
    assert accounts(harness.db) == []
    assert gauges(harness.db).held_lanes == 1
    found = reason(harness, harness.batch(uploaded))
    assert (found.code, "429 queue full" in found.detail) == ("lane_held", True)
    assert found.until is not None


def test_the_first_create_that_passes_opens_the_lane(harness: Harness) -> None:
    first, second = harness.uploaded(), harness.uploaded()
    harness.apply(harness.claim(first, Stage.CREATE), Hold("full", MINUTE))
    harness.run("UPDATE haulier.lanes SET held_until = now()")
    claim = harness.claim(second, Stage.CREATE)
    assert claim.lane_held
    harness.apply(claim, Advance(BatchState.CREATED, Changes(provider_batch_id="p")))
    assert harness.rows("SELECT held_until FROM haulier.lanes WHERE refusals > 0") == []


def test_what_was_under_way_when_the_lane_was_held_counts_as_one_refusal(harness: Harness) -> None:
    ids = [harness.uploaded() for _ in range(4)]
    for claim in claim_batches(harness.db, ids, Stage.CREATE, LEASE):
        harness.apply(claim, Hold("full"))
    assert harness.rows("SELECT refusals FROM haulier.lanes") == [1]
    assert [harness.batch(batch_id).held for batch_id in ids] == [1, 1, 1, 1]


def test_refusals_are_counted_apart_and_forgotten_once_it_goes_on(harness: Harness) -> None:
    batch_id = harness.uploaded()
    for _ in range(3):
        harness.due_now(batch_id)
        harness.apply(harness.claim(batch_id, Stage.CREATE), Retry("403", refused=True))
    harness.due_now(batch_id)
    harness.apply(harness.claim(batch_id, Stage.CREATE), Retry("503"))
    harness.due_now(batch_id)
    claim = harness.claim(batch_id, Stage.CREATE)
    assert (claim.refusals, claim.failures) == (3, 4)
    harness.apply(claim, Advance(BatchState.CREATED, Changes(provider_batch_id="p")))
    assert harness.batch(batch_id).refusals == 0


def test_a_batch_that_costs_too_much_lets_others_probe_and_asks_less_and_less(
    harness: Harness,
) -> None:
    dear, cheap = harness.uploaded(priority=9), harness.uploaded()
    spent = Pause("402", blocked=True, spending=True)
    began = "SELECT extract(epoch FROM clock_timestamp())"
    shortest, longest = [], []
    for _ in range(4):
        harness.due_now(dear)
        claim = harness.claim(dear, Stage.CREATE)
        before = harness.rows(began)[0]
        harness.apply(claim, spent)
        due, after = (
            harness.rows(f"{words} FROM haulier.batches WHERE id = :i", i=dear)[0]
            for words in ("SELECT extract(epoch FROM not_before)", began)
        )
        shortest.append(due - after)
        longest.append(due - before)
        harness.run("UPDATE haulier.accounts SET paused_until = now()")
        # Its turn comes after that of the others, which show that there is credit.
        (probe,) = claim_batches(harness.db, [dear, cheap], Stage.CREATE, LEASE)
        assert (probe.id, probe.account_blocked) == (cheap, True)
        harness.apply(probe, Advance(BatchState.CREATED, Changes(provider_batch_id=f"{cheap}")))
        (account,) = accounts(harness.db)
        assert account.blocked_since is None
        cheap = harness.uploaded()
    # The pauses themselves lie between what was read before and after them.
    assert all(shortest[i] < longest[i + 1] for i in range(3))
    assert longest[-1] > 2 * shortest[0]


# --- cancelled ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outcome", [Park("gone"), Pause("401", blocked=True), Hold("full", MINUTE)]
)
@pytest.mark.parametrize("sent", [False, True])
def test_a_cancel_reaches_what_waits_for_anything_else(
    harness: Harness, outcome: Park | Pause | Hold, *, sent: bool
) -> None:
    batch_id = harness.created() if sent else harness.uploaded()
    harness.due_now(batch_id)
    stage = Stage.POLL if sent else Stage.CREATE
    harness.apply(harness.claim(batch_id, stage), outcome)
    cancel(harness.db, harness.part(batch_id).job_id)
    if sent and isinstance(outcome, Pause):
        # It is looked at as soon as the key may be tried again.
        harness.run("UPDATE haulier.accounts SET paused_until = now()")
    claim = harness.claim(batch_id, stage)
    assert (claim.cancel_requested, claim.ending) == (True, Ending.CANCELLED)


def test_a_cancelled_job_of_which_nothing_could_be_read_ends(harness: Harness) -> None:
    job_id = harness.unread()
    harness.apply(harness.claim_job(job_id, Stage.SPLIT), Park("unreadable"))
    cancel(harness.db, job_id)
    harness.apply(harness.claim_job(job_id, Stage.SPLIT), Split(()))
    harness.end(job_id)
    assert harness.job(job_id).state is JobState.CANCELLED


# --- given up by an operator --------------------------------------------------------------------


@pytest.mark.parametrize("again", [True, False])
def test_only_parked_batches_are_given_up(harness: Harness, *, again: bool) -> None:
    parked = harness.created()
    harness.due_now(parked)
    job_id = harness.part(parked).job_id
    with pytest.raises(Conflict, match="no batch of the job waits for an operator"):
        abandon(harness.db, job_id, again=again)
    harness.apply(harness.claim(parked, Stage.POLL), Park("not there"))
    assert abandon(harness.db, job_id, again=again) == 1

    claim = harness.claim(parked, Stage.POLL)
    assert claim.ending is (Ending.AGAIN if again else Ending.DEAD)
    with pytest.raises(Conflict):
        abandon(harness.db, job_id, again=again)
    assert unpark(harness.db, job_id) == 0
    if again:
        retry = RetryPart(manifest="m", requests=3, bytes=300, delay=timedelta(0))
        done = settlement(0, retries=(retry,))
    else:
        done = settlement(0, dead=[0, 1, 2])
    harness.apply(claim, Settle(BatchState.SETTLED, (done,), given_up=True))
    # The sweep cancels what Together may still run of it, by its input file.
    row = harness.batch(parked)
    assert (row.state, row.spent_file_ids) == (BatchState.SETTLED, [row.input_file_id])
    assert len(harness.open_parts(job_id)) == (1 if again else 0)
    events = "SELECT detail FROM haulier.events WHERE target = 'abandoned'"
    assert harness.rows(events) == [{"batches": 1, "requests": "again" if again else "dead"}]


def test_a_batch_that_is_given_up_does_not_wait_for_its_key(harness: Harness) -> None:
    parked = harness.created()
    harness.due_now(parked)
    harness.apply(harness.claim(parked, Stage.POLL), Park("not there"))
    other = harness.queued()
    harness.apply(harness.claim(other, Stage.UPLOAD), Pause("401", blocked=True))
    abandon(harness.db, harness.part(parked).job_id, again=False)
    harness.claim(parked, Stage.POLL)


# --- what fails for ever is seen ----------------------------------------------------------------


def test_a_row_that_fails_for_ever_is_counted_and_says_why(harness: Harness) -> None:
    batch_id, fine = harness.split(1, 1)
    harness.advance(fine, BatchState.CREATED)
    for _ in range(MANY_FAILURES):
        harness.due_now(batch_id)
        harness.apply(harness.claim(batch_id, Stage.UPLOAD), Retry("503 no luck"))
    assert gauges(harness.db).failing == {"job": 0, "batch": 1}
    found = reason(harness, harness.batch(batch_id))
    assert (found.code, found.error) == ("failing", "503 no luck")
    harness.due_now(batch_id)
    harness.apply(harness.claim(batch_id, Stage.UPLOAD), Park("no use"))
    assert reason(harness, harness.batch(batch_id)).code == "parked"


def test_a_job_that_cannot_be_cut_says_why(harness: Harness) -> None:
    job_id = harness.unread()
    for _ in range(MANY_FAILURES):
        harness.run("UPDATE haulier.jobs SET not_before = now()")
        harness.apply(harness.claim_job(job_id, Stage.SPLIT), Retry("storage is away"))
    assert gauges(harness.db).failing == {"job": 1, "batch": 0}
    found = why(harness.db, harness.job(job_id), WIDE, AT_ONCE)
    assert found is not None
    assert (found.code, found.error) == ("failing", "storage is away")
