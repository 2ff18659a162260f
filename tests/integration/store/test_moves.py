"""Claim and apply on real Postgres: leases fence, outcomes do what they say, counters hold."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from uuid import UUID, uuid4

import pytest
from sqlalchemy.exc import IntegrityError

from service.rules.errors import Conflict, StaleLease
from service.rules.outcomes import (
    Advance,
    Assembled,
    Changes,
    Fail,
    Outcome,
    Park,
    Pause,
    Retry,
    Settle,
    Split,
    Usage,
    Wait,
)
from service.rules.retry import MOST_FAULTS
from service.rules.states import BatchState, IllegalMove, JobState, Stage
from service.rules.work import BatchClaim, FinalLines, Segment
from service.store import engine
from service.store.cancel import cancel
from service.store.claim import claim_batches, extend
from service.store.jobs import events
from service.store.parked import unpark
from service.store.wait import wait
from tests.factories import LEASE, Harness, claim_job, mingled, settlement, shard
from tests.servers import Databases

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def _harness(databases: Databases) -> Iterator[Harness]:
    url = databases.create()
    made = engine.create(url, pool_size=12)
    yield Harness(engine.database(made))
    made.dispose()
    databases.drop(url)


@pytest.fixture
def harness(_harness: Harness) -> Harness:
    """An empty harness: one database for all of these tests, swept before each."""
    _harness.sweep()
    return _harness


def _due_in(harness: Harness, batch_id: UUID) -> float:
    """Seconds until a batch is due, on the database's clock."""
    statement = "SELECT extract(epoch FROM not_before - now())::float FROM haulier.batches"
    return float(harness.rows(f"{statement} WHERE id = :id", id=batch_id)[0])


def _snapshot(harness: Harness) -> list[list[str]]:
    tables = ["jobs", "batches", "events", "dead_letters", "segments", "accounts"]
    return [list(harness.rows(f"SELECT t::text FROM haulier.{t} t ORDER BY 1")) for t in tables]


# --- leases -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outcome",
    [
        Wait(SECOND, Changes(progress=50.0)),
        Retry("no"),
        Pause("no"),
        Park("no"),
        Advance(BatchState.UPLOADED, Changes(input_file_id="file-late")),
        Settle(BatchState.FAILED, (settlement(0, dead=range(3)),)),
    ],
    ids=lambda outcome: type(outcome).__name__,
)
def test_a_worker_that_lost_its_lease_changes_nothing(harness: Harness, outcome: Outcome) -> None:
    batch_id = harness.queued()
    late = harness.claim(batch_id, Stage.UPLOAD)
    harness.expire_lease(batch_id)
    harness.claim(batch_id, Stage.UPLOAD)
    before = _snapshot(harness)
    with pytest.raises(StaleLease):
        harness.apply(late, outcome)
    with pytest.raises(StaleLease):
        extend(harness.db, late, LEASE)
    assert _snapshot(harness) == before


def test_a_page_of_creates_commits_the_intents_that_are_new(harness: Harness) -> None:
    new, sent, cancelled, taken = (harness.uploaded() for _ in range(4))
    harness.claim(sent, Stage.CREATE)
    earlier = harness.batch(sent).create_deadline
    harness.expire_lease(sent)
    cancel(harness.db, harness.part(cancelled).job_id)
    harness.claim(taken, Stage.CREATE)
    ids = [new, sent, cancelled, taken]
    claims = {c.id: c for c in claim_batches(harness.db, ids, Stage.CREATE, LEASE)}
    assert set(claims) == {new, sent, cancelled}
    assert [claims[i].create_deadline for i in (new, sent, cancelled)] == [None, earlier, None]
    assert [claims[i].tries for i in (new, sent, cancelled)] == [0, 1, 0]
    for batch_id, claim in claims.items():
        batch = harness.batch(batch_id)
        assert (batch.lease, batch.leased_until) == (claim.lease, claim.leased_until)
        assert (batch.tries, batch.dispatched_at) == (claim.tries, None)
    deadlines = [harness.batch(i).create_deadline for i in (new, sent, cancelled)]
    assert deadlines == [claims[new].leased_until, earlier, None]


@pytest.mark.parametrize(
    "outcome",
    [Wait(SECOND), Retry("no"), Fail("no"), Split((shard(3, name="s"),)), Assembled(())],
    ids=repr,
)
def test_a_worker_that_lost_its_job_changes_nothing(harness: Harness, outcome: Outcome) -> None:
    job_id = harness.unread()
    late = harness.claim_job(job_id, Stage.SPLIT)
    harness.run("UPDATE haulier.jobs SET leased_until = now() - interval '1 ms'")
    harness.claim_job(job_id, Stage.SPLIT)
    before = _snapshot(harness)
    with pytest.raises(StaleLease):
        harness.apply(late, outcome)
    assert _snapshot(harness) == before


def test_an_outcome_is_applied_once(harness: Harness) -> None:
    batch_id = harness.queued()
    claim = harness.claim(batch_id, Stage.UPLOAD)
    advance = Advance(BatchState.UPLOADED, Changes(input_file_id="f"))
    harness.apply(claim, advance)
    with pytest.raises(StaleLease):
        harness.apply(claim, advance)


def test_a_lease_that_ran_out_but_was_not_taken_still_counts(harness: Harness) -> None:
    batch_id = harness.queued()
    claim = harness.claim(batch_id, Stage.UPLOAD)
    harness.expire_lease(batch_id)
    harness.apply(claim, Advance(BatchState.UPLOADED, Changes(input_file_id="f")))
    assert harness.batch(batch_id).state is BatchState.UPLOADED


def test_a_leased_batch_is_not_claimed_again(harness: Harness) -> None:
    batch_id = harness.queued()
    harness.claim(batch_id, Stage.UPLOAD)
    assert claim_batches(harness.db, [batch_id], Stage.UPLOAD, LEASE) == []


def test_two_claimers_at_once_get_every_batch_once(harness: Harness) -> None:
    ids = harness.split(*[1] * 40)
    start = Barrier(4)

    def claim(_: int) -> list[UUID]:
        start.wait(10)
        return [c.id for c in claim_batches(harness.db, ids, Stage.UPLOAD, LEASE)]

    with ThreadPoolExecutor(4) as threads:
        claimed = [batch_id for found in threads.map(claim, range(4)) for batch_id in found]
    left = [c.id for c in claim_batches(harness.db, ids, Stage.UPLOAD, LEASE)]
    assert sorted([*claimed, *left]) == sorted(ids)


@pytest.mark.parametrize(
    ("stage", "state"),
    [
        (Stage.UPLOAD, BatchState.UPLOADED),
        (Stage.CREATE, BatchState.QUEUED),
        (Stage.POLL, BatchState.UPLOADED),
        (Stage.FETCH, BatchState.CREATED),
    ],
)
def test_a_late_message_for_another_stage_claims_nothing(
    harness: Harness, stage: Stage, state: BatchState
) -> None:
    batch_id = harness.queued()
    if state is not BatchState.QUEUED:
        harness.advance(batch_id, state)
    harness.due_now(batch_id)
    assert claim_batches(harness.db, [batch_id], stage, LEASE) == []


def test_a_batch_that_is_not_due_is_not_claimed(harness: Harness) -> None:
    batch_id = harness.queued()
    harness.apply(harness.claim(batch_id, Stage.UPLOAD), Wait(MINUTE))
    assert claim_batches(harness.db, [batch_id], Stage.UPLOAD, LEASE) == []


def test_only_a_lease_that_ran_out_spends_a_try(harness: Harness) -> None:
    batch_id = harness.queued()
    assert harness.claim(batch_id, Stage.UPLOAD).tries == 0
    harness.expire_lease(batch_id)
    assert harness.claim(batch_id, Stage.UPLOAD).tries == 1
    harness.expire_lease(batch_id)
    claim = harness.claim(batch_id, Stage.UPLOAD)
    assert claim.tries == 2
    harness.apply(claim, Retry("transient"))
    harness.due_now(batch_id)
    claim = harness.claim(batch_id, Stage.UPLOAD)
    assert (claim.tries, claim.failures) == (0, 1)


def test_an_extended_lease_lasts(harness: Harness) -> None:
    batch_id = harness.queued()
    claim = harness.claim(batch_id, Stage.UPLOAD)
    harness.expire_lease(batch_id)
    extend(harness.db, claim, LEASE)
    assert claim_batches(harness.db, [batch_id], Stage.UPLOAD, LEASE) == []


# --- outcomes -----------------------------------------------------------------------------------


def test_wait_keeps_what_was_learned_and_clears_failures(harness: Harness) -> None:
    batch_id = harness.created()
    harness.due_now(batch_id)
    harness.apply(harness.claim(batch_id, Stage.POLL), Retry("503"))
    harness.due_now(batch_id)
    changes = Changes(provider_status="IN_PROGRESS", progress=12.5)
    harness.apply(harness.claim(batch_id, Stage.POLL), Wait(MINUTE, changes))
    batch = harness.batch(batch_id)
    assert (batch.state, batch.provider_status, batch.progress) == (
        BatchState.CREATED,
        "IN_PROGRESS",
        12.5,
    )
    assert (batch.failures, batch.last_error, batch.lease) == (0, None, None)
    assert 55 < _due_in(harness, batch_id) < 66


def test_retry_backs_off_further_each_time(harness: Harness) -> None:
    batch_id = harness.queued()
    for failures, (low, high) in enumerate([(0.3, 1), (0.8, 2), (1.8, 4), (3.8, 8)], 1):
        harness.apply(harness.claim(batch_id, Stage.UPLOAD), Retry("503 sorry"))
        batch = harness.batch(batch_id)
        assert (batch.state, batch.failures) == (BatchState.QUEUED, failures)
        assert batch.last_error == "503 sorry"
        assert low < _due_in(harness, batch_id) <= high
        harness.due_now(batch_id)


def test_equal_faults_of_ours_park_a_row_and_others_do_not(harness: Harness) -> None:
    batch_id = harness.queued()

    def fail(reason: str, *, fault: bool) -> bool:
        harness.due_now(batch_id)
        harness.apply(harness.claim(batch_id, Stage.UPLOAD), Retry(reason, fault=fault))
        return harness.batch(batch_id).parked_at is not None

    for number in range(MOST_FAULTS):
        assert not fail(f"FileNotFoundError: blob {number}", fault=True)
        assert not fail("503 sorry", fault=False)
    parked = [
        fail(f"FileNotFoundError: blob {number}", fault=True) for number in range(MOST_FAULTS)
    ]
    assert parked == [False] * (MOST_FAULTS - 1) + [True]


def test_retry_waits_for_a_named_time(harness: Harness) -> None:
    batch_id = harness.queued()
    harness.apply(harness.claim(batch_id, Stage.UPLOAD), Retry("soon", timedelta(0)))
    assert harness.claim(batch_id, Stage.UPLOAD).failures == 1


def test_a_move_clears_what_was_wrong(harness: Harness) -> None:
    batch_id = harness.queued()
    harness.apply(harness.claim(batch_id, Stage.UPLOAD), Retry("503"))
    harness.advance(batch_id, BatchState.UPLOADED)
    batch = harness.batch(batch_id)
    assert (batch.failures, batch.last_error, batch.lease) == (0, None, None)


def test_an_unlisted_move_is_refused_and_changes_nothing(harness: Harness) -> None:
    batch_id = harness.queued()
    claim = harness.claim(batch_id, Stage.UPLOAD)
    before = _snapshot(harness)
    with pytest.raises(IllegalMove):
        harness.apply(claim, Advance(BatchState.ENDED, Changes(provider_batch_id="p")))
    assert _snapshot(harness) == before


@pytest.mark.parametrize("outcome", [Fail("no"), Split(()), Assembled(())], ids=repr)
def test_an_outcome_for_a_job_is_none_for_a_batch(harness: Harness, outcome: Outcome) -> None:
    claim = harness.claim(harness.queued(), Stage.UPLOAD)
    before = _snapshot(harness)
    with pytest.raises(TypeError):
        harness.apply(claim, outcome)
    assert _snapshot(harness) == before


def test_a_parked_batch_is_left_alone_and_says_why(harness: Harness) -> None:
    batch_id = harness.created()
    harness.due_now(batch_id)
    harness.apply(harness.claim(batch_id, Stage.POLL), Park("25 workers died"))
    harness.due_now(batch_id)
    batch = harness.batch(batch_id)
    assert (batch.state, batch.last_error) == (BatchState.CREATED, "25 workers died")
    assert batch.parked_at is not None
    assert claim_batches(harness.db, [batch_id], Stage.POLL, LEASE) == []


def test_every_move_is_in_the_event_log_and_nothing_else_is(harness: Harness) -> None:
    batch_id = harness.created()
    harness.due_now(batch_id)
    harness.apply(harness.claim(batch_id, Stage.POLL), Wait(SECOND))
    harness.settle(batch_id, settlement(3))
    job = harness.job_of(batch_id)
    harness.end(job.id)
    log = events(harness.db, job.id, after=0, limit=99)
    assert [f"{event.source or ''}>{event.target}" for event in log] == [
        ">running",
        ">queued",
        "queued>uploaded",
        "uploaded>created",
        "created>ended",
        "ended>settled",
        "running>completed",
    ]


def test_what_is_parked_is_tried_again_when_an_operator_says_so(harness: Harness) -> None:
    batch_id = harness.created()
    harness.apply(harness.claim(batch_id, Stage.POLL), Park("not known there"))
    assert claim_batches(harness.db, [batch_id], Stage.POLL, LEASE) == []

    assert unpark(harness.db, harness.part(batch_id).job_id) == 1

    assert harness.batch(batch_id).parked_at is None
    assert len(claim_batches(harness.db, [batch_id], Stage.POLL, LEASE)) == 1
    assert unpark(harness.db, harness.part(batch_id).job_id) == 0


# --- paused accounts ----------------------------------------------------------------------------


def test_a_refused_key_pauses_the_account_and_not_the_batch(harness: Harness) -> None:
    first, second = harness.split(1, 1)
    harness.apply(harness.claim(first, Stage.UPLOAD), Pause("401 bad key", blocked=True))
    account = harness.account()
    assert account is not None
    assert (account.reason, account.refusals) == ("401 bad key", 1)
    assert account.blocked_since is not None
    assert harness.batch(first).state is BatchState.QUEUED
    assert claim_batches(harness.db, [first, second], Stage.UPLOAD, LEASE) == []


def _pause_left(harness: Harness) -> float:
    return float(
        harness.rows(
            "SELECT extract(epoch FROM paused_until - now())::float FROM haulier.accounts"
        )[0]
    )


def test_each_refused_probe_doubles_the_pause(harness: Harness) -> None:
    batch_id = harness.queued()
    for longest in (1, 2, 4, 8):
        harness.apply(harness.claim(batch_id, Stage.UPLOAD), Pause("401", blocked=True))
        assert longest - 0.9 < _pause_left(harness) <= longest
        harness.run("UPDATE haulier.accounts SET paused_until = now()")


def test_a_page_of_refusals_counts_once(harness: Harness) -> None:
    ids = harness.split(1, 1, 1, 1)
    claims = claim_batches(harness.db, ids, Stage.UPLOAD, LEASE)
    for claim in claims:
        harness.apply(claim, Pause("401", blocked=True))
    account = harness.account()
    assert account is not None
    assert account.refusals == 1


def test_an_answer_reopens_a_blocked_account(harness: Harness) -> None:
    batch_id = harness.queued()
    harness.apply(harness.claim(batch_id, Stage.UPLOAD), Pause("401", blocked=True))
    harness.run("UPDATE haulier.accounts SET paused_until = now()")
    claim = harness.claim(batch_id, Stage.UPLOAD)
    assert claim.account_blocked
    blocked = harness.account()
    assert blocked is not None
    assert claim.key_refused_since == blocked.blocked_since
    harness.apply(claim, Advance(BatchState.UPLOADED, Changes(input_file_id="f")))
    account = harness.account()
    assert account is not None
    assert (account.paused_until, account.blocked_since) == (None, None)
    assert (account.reason, account.refusals) == (None, 0)


def test_of_a_blocked_account_one_batch_goes_through_at_a_time(harness: Harness) -> None:
    ids = harness.split(1, 1, 1)
    harness.apply(harness.claim(ids[0], Stage.UPLOAD), Pause("401", blocked=True))
    harness.run("UPDATE haulier.accounts SET paused_until = now()")

    (probe,) = claim_batches(harness.db, ids, Stage.UPLOAD, LEASE)

    assert claim_batches(harness.db, ids, Stage.UPLOAD, LEASE) == []
    harness.apply(probe, Advance(BatchState.UPLOADED, Changes(input_file_id="f")))
    assert len(claim_batches(harness.db, ids, Stage.UPLOAD, LEASE)) == 2


def test_a_probe_that_proves_nothing_lets_the_next_one_try(harness: Harness) -> None:
    ids = harness.split(1, 1)
    harness.apply(harness.claim(ids[0], Stage.UPLOAD), Pause("401", blocked=True))
    harness.run("UPDATE haulier.accounts SET paused_until = now()")

    (probe,) = claim_batches(harness.db, ids, Stage.UPLOAD, LEASE)
    harness.apply(probe, Retry("503"))

    account = harness.account()
    assert account is not None
    assert account.blocked_since is not None
    assert len(claim_batches(harness.db, ids, Stage.UPLOAD, LEASE)) == 1


def test_used_up_credit_stops_what_costs_and_nothing_else(harness: Harness) -> None:
    bought = harness.created()
    waiting = harness.uploaded()
    harness.apply(harness.claim(waiting, Stage.CREATE), Pause("402", blocked=True, spending=True))

    claim = harness.claim(bought, Stage.POLL)
    assert not claim.account_blocked
    assert claim.key_refused_since is None
    harness.apply(claim, Advance(BatchState.ENDED))
    assert claim_batches(harness.db, [waiting], Stage.CREATE, LEASE) == []

    harness.run("UPDATE haulier.accounts SET paused_until = now()")
    learned = Changes(provider_batch_id="b")
    harness.due_now(waiting)
    harness.apply(harness.claim(waiting, Stage.CREATE), Advance(BatchState.CREATED, learned))
    account = harness.account()
    assert account is not None
    assert account.blocked_since is None


def test_slowing_down_is_no_refusal(harness: Harness) -> None:
    batch_id = harness.queued()
    harness.apply(harness.claim(batch_id, Stage.UPLOAD), Pause("429", MINUTE))
    account = harness.account()
    assert account is not None
    assert (account.blocked_since, account.refusals) == (None, 0)
    assert 50 < _pause_left(harness) <= 60
    assert claim_batches(harness.db, [batch_id], Stage.UPLOAD, LEASE) == []


def test_a_shorter_pause_does_not_shorten_a_longer_one(harness: Harness) -> None:
    ids = harness.split(1, 1)
    claims = claim_batches(harness.db, ids, Stage.UPLOAD, LEASE)
    harness.apply(claims[0], Pause("429", MINUTE))
    harness.apply(claims[1], Pause("429", SECOND))
    assert _pause_left(harness) > 50


def test_another_account_goes_on(harness: Harness) -> None:
    paused = harness.queued()
    harness.apply(harness.claim(paused, Stage.UPLOAD), Pause("401", blocked=True))
    other = harness.queued()
    harness.run("UPDATE haulier.batches SET account = 'other' WHERE id = :id", id=other)
    harness.claim(other, Stage.UPLOAD)


def test_a_job_whose_account_has_no_key_is_not_due_at_once(harness: Harness) -> None:
    job_id = harness.unread()
    harness.apply(harness.claim_job(job_id, Stage.SPLIT), Pause("no key", MINUTE))
    assert claim_job(harness.db, job_id, Stage.SPLIT, LEASE) is None
    assert harness.job(job_id).state is JobState.ACCEPTED


# --- the intent to create -----------------------------------------------------------------------


def test_claiming_a_create_commits_the_intent(harness: Harness) -> None:
    batch_id = harness.uploaded()
    claim = harness.claim(batch_id, Stage.CREATE)
    assert claim.create_deadline is None
    assert harness.batch(batch_id).create_deadline == claim.leased_until


def test_a_lost_create_is_known_to_the_next_claim(harness: Harness) -> None:
    batch_id = harness.uploaded()
    lost = harness.claim(batch_id, Stage.CREATE)
    harness.expire_lease(batch_id)
    claim = harness.claim(batch_id, Stage.CREATE)
    assert claim.create_deadline == lost.leased_until
    assert harness.batch(batch_id).create_deadline == lost.leased_until


@pytest.mark.parametrize(
    ("outcome", "cleared"),
    [
        (Retry("refused", not_sent=True), True),
        (Pause("401", blocked=True), True),
        (Pause("429", SECOND), True),
        (Retry("timeout"), False),
        (Wait(SECOND), False),
        (Park("no"), False),
    ],
    ids=lambda value: value if isinstance(value, bool) else type(value).__name__,
)
def test_only_a_definite_refusal_clears_the_intent(
    harness: Harness, outcome: Outcome, *, cleared: bool
) -> None:
    batch_id = harness.uploaded()
    harness.apply(harness.claim(batch_id, Stage.CREATE), outcome)
    assert (harness.batch(batch_id).create_deadline is None) is cleared


@pytest.mark.parametrize(
    "outcome",
    [Retry("refused", not_sent=True), Pause("401", blocked=True), Pause("429", SECOND)],
    ids=lambda value: type(value).__name__,
)
def test_a_refused_search_does_not_clear_an_earlier_intent(
    harness: Harness, outcome: Outcome
) -> None:
    batch_id = harness.uploaded()
    lost = harness.claim(batch_id, Stage.CREATE)
    harness.expire_lease(batch_id)
    harness.apply(harness.claim(batch_id, Stage.CREATE), outcome)
    assert harness.batch(batch_id).create_deadline == lost.leased_until


def test_a_given_up_create_remembers_its_file(harness: Harness) -> None:
    batch_id = harness.uploaded()
    file_id = harness.batch(batch_id).input_file_id
    harness.claim(batch_id, Stage.CREATE)
    harness.expire_lease(batch_id)
    harness.apply(harness.claim(batch_id, Stage.CREATE), Advance(BatchState.QUEUED))
    batch = harness.batch(batch_id)
    assert batch.spent_file_ids == [file_id]
    assert (batch.input_file_id, batch.create_deadline) == (None, None)
    assert harness.claim(batch_id, Stage.UPLOAD).spent_file_ids == (file_id,)


def test_a_created_batch_has_no_open_intent(harness: Harness) -> None:
    batch = harness.batch(harness.created())
    assert batch.create_deadline is None
    assert batch.submitted_at is not None


def test_a_cancelled_job_states_no_intent(harness: Harness) -> None:
    batch_id = harness.uploaded()
    cancel(harness.db, harness.part(batch_id).job_id)
    assert harness.claim(batch_id, Stage.CREATE).cancel_requested
    assert harness.batch(batch_id).create_deadline is None


def test_two_batches_cannot_adopt_one_provider_batch(harness: Harness) -> None:
    first, second = harness.uploaded(), harness.uploaded()
    harness.apply(
        harness.claim(first, Stage.CREATE),
        Advance(BatchState.CREATED, Changes(provider_batch_id="p")),
    )
    claim = harness.claim(second, Stage.CREATE)
    with pytest.raises(IntegrityError, match="provider_batch_id"):
        harness.apply(claim, Advance(BatchState.CREATED, Changes(provider_batch_id="p")))
    assert harness.batch(second).state is BatchState.UPLOADED


# --- settling -----------------------------------------------------------------------------------


def _conserved(harness: Harness) -> bool:
    """What the job's counters say is what its batches say."""
    return not harness.rows(
        "SELECT j.id FROM haulier.jobs j JOIN (SELECT job_id, sum(succeeded) s, sum(dead) d,"
        " sum(CASE WHEN finished_at IS NULL THEN requests ELSE 0 END) p,"
        " count(*) FILTER (WHERE finished_at IS NULL) o, count(*) FILTER (WHERE finished_at"
        " IS NOT NULL) f FROM haulier.parts GROUP BY 1) b ON b.job_id = j.id"
        " WHERE (j.succeeded, j.failed, j.pending, j.open_parts, j.settled_parts)"
        " <> (b.s, b.d, b.p, b.o, b.f)"
    )


def test_settling_accounts_for_every_request(harness: Harness) -> None:
    first, second = harness.split(5, 4)
    usage = Usage(10, 20, 30)
    harness.settle(first, settlement(2, dead=[3], carried=2, usage=usage))
    job = harness.job_of(first)
    assert (job.total, job.succeeded, job.failed, job.pending) == (9, 2, 1, 6)
    assert (job.open_parts, job.settled_parts, job.attempts) == (2, 1, 2)
    assert (job.prompt_tokens, job.completion_tokens, job.total_tokens) == (10, 20, 30)
    assert _conserved(harness)

    harness.let_in()
    retry = next(i for i in harness.open_batches(job.id) if i != second)
    part = harness.part(retry)
    assert (part.parent_id, part.attempt, part.shard, part.requests) == (first, 2, 0, 2)
    harness.settle(retry, settlement(2, usage=usage))
    harness.settle(second, settlement(0, dead=[5, 6, 7, 8]))
    job = harness.job_of(first)
    assert (job.succeeded, job.failed, job.pending, job.open_parts) == (4, 5, 0, 0)
    assert job.total_tokens == 60
    assert _conserved(harness)
    orders = harness.rows("SELECT settle_order FROM haulier.parts ORDER BY 1")
    assert list(orders) == [1, 2, 3]


def test_a_settlement_that_loses_a_request_is_refused(harness: Harness) -> None:
    batch_id = harness.ended(3)
    harness.due_now(batch_id)
    claim = harness.claim(batch_id, Stage.FETCH)
    before = _snapshot(harness)
    for wrong in (settlement(2), settlement(4), settlement(2, dead=[0, 1]), settlement(0)):
        with pytest.raises(
            IntegrityError, match=r"(parts|batches)_conservation_check|jobs_counters_check"
        ):
            harness.apply(claim, Settle(BatchState.SETTLED, (wrong,)))
    assert _snapshot(harness) == before


def test_dead_letters_are_stored_and_a_newer_end_replaces_an_older(harness: Harness) -> None:
    first, second = harness.split(2, 1)
    harness.settle(first, settlement(1, dead=[1]))
    harness.settle(second, settlement(0, dead=[1]))
    statement = "SELECT part_id FROM haulier.dead_letters WHERE ordinal = 1"
    assert list(harness.rows(statement)) == [second]


def test_fifty_thousand_dead_letters_are_stored(harness: Harness) -> None:
    batch_id = harness.queued(50_000)
    claim = harness.claim(batch_id, Stage.UPLOAD)
    harness.apply(claim, Settle(BatchState.FAILED, (settlement(0, dead=range(50_000)),)))
    assert list(harness.rows("SELECT count(*) FROM haulier.dead_letters")) == [50_000]
    job = harness.job_of(batch_id)
    assert (job.failed, job.pending, job.open_parts) == (50_000, 0, 0)


def test_the_last_two_batches_settling_at_once_leave_one_assembly(harness: Harness) -> None:
    for _ in range(5):
        ids = harness.split(1, 1, 1, 1)
        for batch_id in ids:
            harness.advance(batch_id, BatchState.ENDED)
            harness.due_now(batch_id)
        claims = [harness.claim(batch_id, Stage.FETCH) for batch_id in ids]
        job_id = harness.part(ids[0]).job_id
        start = Barrier(4)

        def settle(claim: BatchClaim, start: Barrier = start) -> None:
            start.wait(10)
            done = settlement(1, final_lines=mingled())
            harness.apply(claim, Settle(BatchState.SETTLED, (done,)))

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(settle, claims))
        job = harness.job(job_id)
        assert (job.succeeded, job.pending, job.open_parts) == (4, 0, 0)
        first = claim_job(harness.db, job_id, Stage.ASSEMBLE, LEASE)
        assert first is not None
        assert claim_job(harness.db, job_id, Stage.ASSEMBLE, LEASE) is None
        harness.apply(first, Assembled(()))
        assert claim_job(harness.db, job_id, Stage.ASSEMBLE, LEASE) is None
        assert harness.job(job_id).generation == 1


def test_a_job_is_not_assembled_while_a_batch_is_open(harness: Harness) -> None:
    first, _ = harness.split(1, 1)
    harness.settle(first, settlement(1))
    job = harness.job_of(first)
    assert claim_job(harness.db, job.id, Stage.ASSEMBLE, LEASE) is None


def test_assembling_sees_the_lines_in_the_order_of_settling(harness: Harness) -> None:
    first, second = harness.split(1, 1)
    for number, batch_id in enumerate((second, first)):
        lines = FinalLines(
            blob=f"b{number}",
            index_blob="i",
            first_ordinal=0,
            last_ordinal=0,
            bytes=1,
            requests=1,
        )
        harness.settle(batch_id, settlement(1, final_lines=lines))
    claim = harness.claim_job(harness.part(first).job_id, Stage.ASSEMBLE)
    assert [lines.blob for lines in claim.final_lines] == ["b0", "b1"]
    segment = Segment(blob="b0", index_blob="i", bytes=1, requests=2)
    harness.apply(claim, Assembled((segment,)))
    job = harness.job(claim.id)
    assert (job.state, job.generation) == (JobState.COMPLETED, 1)
    assert job.finished_at is not None


def test_a_rejected_job_says_why_with_line_numbers(harness: Harness) -> None:
    job_id = harness.unread()
    harness.apply(harness.claim_job(job_id, Stage.SPLIT), Fail("bad lines", rejected=True))
    job = harness.job(job_id)
    assert (job.state, job.error) == (JobState.REJECTED, "bad lines")
    assert job.finished_at is not None


# --- constraints --------------------------------------------------------------------------------

VIOLATIONS = [
    ("jobs", "state = 'lost'", "jobs_(state|finished)_check"),
    ("jobs", "total = total + 1", "jobs_conservation_check"),
    ("jobs", "succeeded = 4, pending = -1", "jobs_counters_check"),
    ("jobs", "open_parts = -1", "jobs_counters_check"),
    ("jobs", "lease = gen_random_uuid()", "jobs_lease_check"),
    ("jobs", "leased_until = now()", "jobs_lease_check"),
    ("jobs", "finished_at = now()", "jobs_finished_check"),
    ("jobs", "state = 'failed', error = 'x'", "jobs_finished_check"),
    ("jobs", "state = 'failed', finished_at = now()", "jobs_reason_check"),
    ("jobs", "state = 'rejected', finished_at = now()", "jobs_reason_check"),
    ("jobs", "state = 'completed', finished_at = now()", "jobs_accounted_check"),
    ("jobs", "state = 'cancelled', finished_at = now()", "jobs_accounted_check"),
    ("jobs", "producer = 'nobody'", "jobs_producer_fkey"),
    ("batches", "state = 'lost'", "batches_(state|finished|conservation)_check"),
    ("batches", "lease = gen_random_uuid()", "batches_lease_check"),
    ("parts", "succeeded = 1", "parts_conservation_check"),
    ("parts", "carried = 1", "parts_conservation_check"),
    ("parts", "state = 'settled'", "parts_(conservation|finished)_check"),
    ("parts", "state = 'waiting'", "parts_waiting_check"),
    ("parts", "batch_id = NULL", "parts_travelling_check"),
    ("parts", "batch_id = gen_random_uuid()", "parts_batch_id_fkey"),
    ("parts", "job_id = gen_random_uuid()", "parts_job_id_fkey"),
    ("parts", "manifest_blob = NULL", "parts_manifest_check"),
    ("parts", "state = 'lost'", "parts_state_check"),
    ("events", "job_id = NULL, batch_id = NULL", "events_subject_check"),
    ("batches", "finished_at = now()", "batches_finished_check"),
    ("batches", "state = 'failed', dead = requests", "batches_finished_check"),
    ("batches", "state = 'failed', finished_at = now()", "batches_conservation_check"),
    ("batches", "state = 'uploaded'", "batches_uploaded_check"),
    ("batches", "state = 'created'", "batches_created_check"),
    ("batches", "state = 'ended'", "batches_created_check"),
]


@pytest.mark.parametrize(("table", "change", "constraint"), VIOLATIONS)
def test_the_database_refuses_a_row_that_cannot_be(
    harness: Harness, table: str, change: str, constraint: str
) -> None:
    harness.queued()
    with pytest.raises(IntegrityError, match=constraint):
        harness.run(f"UPDATE haulier.{table} SET {change}")


# --- cancelling ---------------------------------------------------------------------------------


def test_a_cancel_makes_waiting_batches_due_and_is_seen_by_their_claims(harness: Harness) -> None:
    batch_id = harness.created()
    harness.due_now(batch_id)
    harness.apply(harness.claim(batch_id, Stage.POLL), Wait(MINUTE))
    job_id = harness.part(batch_id).job_id
    cancel(harness.db, job_id)
    assert harness.claim(batch_id, Stage.POLL).cancel_requested


def test_a_cancel_leaves_a_working_batch_and_an_open_intent_alone(harness: Harness) -> None:
    working, unsure = harness.split(1, 1)
    harness.claim(working, Stage.UPLOAD)
    harness.advance(unsure, BatchState.UPLOADED)
    harness.apply(harness.claim(unsure, Stage.CREATE), Retry("timeout", MINUTE))
    cancel(harness.db, harness.part(working).job_id)
    assert harness.batch(working).lease is not None
    assert _due_in(harness, unsure) > 50


def test_cancelling_again_changes_nothing(harness: Harness) -> None:
    job_id = harness.submitted()
    cancel(harness.db, job_id)
    before = _snapshot(harness)
    cancel(harness.db, job_id)
    assert _snapshot(harness) == before


@pytest.mark.parametrize("rejected", [True, False])
def test_a_job_that_ended_cannot_be_cancelled(harness: Harness, *, rejected: bool) -> None:
    job_id = harness.unread()
    harness.apply(harness.claim_job(job_id, Stage.SPLIT), Fail("no", rejected=rejected))
    with pytest.raises(Conflict, match="already"):
        cancel(harness.db, job_id)


@pytest.mark.parametrize("rejected", [True, False])
def test_a_job_that_failed_after_it_was_cancelled_cannot_be_cancelled_again(
    harness: Harness, *, rejected: bool
) -> None:
    job_id = harness.unread()
    cancel(harness.db, job_id)
    harness.apply(harness.claim_job(job_id, Stage.SPLIT), Fail("no", rejected=rejected))
    with pytest.raises(Conflict, match="already"):
        cancel(harness.db, job_id)


@pytest.mark.parametrize("outcome", [Wait(MINUTE), Retry("busy", MINUTE)], ids=["wait", "retry"])
@pytest.mark.parametrize("page", [True, False], ids=["page", "single"])
def test_a_batch_whose_job_was_cancelled_meanwhile_is_due_at_once(
    harness: Harness, outcome: Outcome, *, page: bool
) -> None:
    batch_id = harness.created()
    harness.due_now(batch_id)
    claim = harness.claim(batch_id, Stage.POLL)
    cancel(harness.db, harness.part(batch_id).job_id)
    if page and isinstance(outcome, Wait):
        assert wait(harness.db, [(claim, outcome)]) == set()
    else:
        harness.apply(claim, outcome)
    assert _due_in(harness, batch_id) <= 0


def test_a_batch_whose_claim_saw_the_cancel_waits_as_long_as_it_asked(harness: Harness) -> None:
    batch_id = harness.created()
    harness.due_now(batch_id)
    cancel(harness.db, harness.part(batch_id).job_id)
    claim = harness.claim(batch_id, Stage.POLL)
    harness.apply(claim, Wait(MINUTE, Changes(cancel_sent=True)))
    assert _due_in(harness, batch_id) > 50


def test_a_completed_job_cannot_be_cancelled(harness: Harness) -> None:
    batch_id = harness.ended()
    harness.settle(batch_id, settlement(3))
    job_id = harness.part(batch_id).job_id
    harness.end(job_id)
    with pytest.raises(Conflict, match="completed already"):
        cancel(harness.db, job_id)


def test_a_cancelled_job_ends_as_cancelled(harness: Harness) -> None:
    batch_id = harness.queued()
    job_id = harness.part(batch_id).job_id
    cancel(harness.db, job_id)
    unserved = Settle(BatchState.CANCELLED, (settlement(0, dead=range(3)),))
    harness.apply(harness.claim(batch_id, Stage.UPLOAD), unserved)
    harness.end(job_id)
    job = harness.job(job_id)
    assert (job.state, job.failed) == (JobState.CANCELLED, 3)
    cancel(harness.db, job_id)


def test_cancel_and_work_at_once_do_not_deadlock(harness: Harness) -> None:
    for _ in range(5):
        ids = harness.split(*[1] * 8)
        job_id = harness.part(ids[0]).job_id
        start = Barrier(9)

        def work(batch_id: UUID | None, start: Barrier = start, job_id: UUID = job_id) -> None:
            start.wait(10)
            if batch_id is None:
                cancel(harness.db, job_id)
                return
            for claim in claim_batches(harness.db, [batch_id], Stage.UPLOAD, LEASE):
                file = Changes(input_file_id=str(uuid4()))
                harness.apply(claim, Advance(BatchState.UPLOADED, file))

        with ThreadPoolExecutor(9) as threads:
            list(threads.map(work, [*ids, None]))
        states = {harness.batch(batch_id).state for batch_id in ids}
        assert states <= {BatchState.UPLOADED, BatchState.QUEUED}
        assert harness.job(job_id).cancel_requested_at is not None
