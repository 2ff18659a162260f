"""Looking at jobs with deadlines, on real rows."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from service.payloads.intake import Taken
from service.rules.errors import BadInput, Conflict
from service.rules.states import BatchState, JobState
from service.store import engine, foresee
from service.store.deadlines import look
from service.store.models import Job
from service.store.revive import Revival, revive
from service.store.submit import Submission, Submitted, submit_each
from tests.factories import Harness, settlement, shard, spec
from tests.integration.store.test_forecasts import history
from tests.servers import Databases

HOUR = timedelta(hours=1)
NOTIFY: list[dict[str, Any]] = [
    {"task": "t", "queue": "q"},
    {"task": "u", "queue": "q", "events": ["job.completed"]},
]


@pytest.fixture
def harness(databases: Databases) -> Iterator[Harness]:
    url = databases.create()
    connections = engine.create(url, pool_size=4)
    yield Harness(engine.database(connections))
    connections.dispose()
    databases.drop(url)


def seen(harness: Harness, job_id: UUID, likely_by: datetime | None = None) -> Job:
    """A job after a look at it, with this forecast."""

    def forecasts(_session: Session, jobs: Sequence[Job]) -> Mapping[UUID, datetime]:
        return {} if likely_by is None else {job.id: likely_by for job in jobs}

    harness.run(
        "UPDATE haulier.jobs SET deadline_look_at = now() WHERE finished_at IS NULL"
        " AND deadline IS NOT NULL"
    )
    look(harness.db, forecasts)
    return harness.job(job_id)


def notify(harness: Harness, targets: list[dict[str, Any]]) -> None:
    with harness.db.begin() as session:
        session.execute(update(Job).values(notify=targets))


def pass_deadline(harness: Harness) -> None:
    harness.run(
        "UPDATE haulier.jobs SET deadline = now() - interval '1 second' WHERE deadline IS NOT NULL"
    )


def told(harness: Harness, job_id: UUID) -> list[str]:
    """The events of its notices."""
    query = "SELECT event FROM haulier.deliveries WHERE job_id = :id ORDER BY created_at"
    return list(harness.rows(query, id=job_id))


def log(harness: Harness, job_id: UUID) -> list[str]:
    """Its events, but for moves."""
    query = "SELECT target FROM haulier.events WHERE job_id = :id ORDER BY id"
    states = set(JobState)
    return [target for target in harness.rows(query, id=job_id) if target not in states]


def test_a_deadline_at_risk_is_told_once_for_each_time_and_a_missed_one_once(
    harness: Harness,
) -> None:
    job_id = harness.submitted(3, deadline="10h")
    notify(harness, NOTIFY)
    other = harness.submitted(3)
    deadline = harness.job(job_id).deadline
    assert deadline is not None
    assert deadline == harness.job(job_id).created_at + 10 * HOUR

    assert seen(harness, job_id).deadline_at_risk_since is None
    first = seen(harness, job_id, deadline + HOUR).deadline_at_risk_since
    assert first is not None
    assert seen(harness, job_id, deadline - HOUR / 60).deadline_at_risk_since == first
    assert seen(harness, job_id, deadline - 5 * HOUR).deadline_at_risk_since is None
    assert seen(harness, job_id, deadline + HOUR).deadline_at_risk_since is not None
    pass_deadline(harness)
    missed = seen(harness, job_id, deadline + HOUR).deadline_missed_at
    assert missed is not None
    assert seen(harness, job_id, deadline + HOUR).deadline_missed_at == missed

    at_risk = "job.deadline_at_risk"
    assert told(harness, job_id) == [at_risk, at_risk, "job.deadline_missed"]
    names = [name.removeprefix("job.") for name in told(harness, job_id)]
    assert log(harness, job_id) == [names[0], "deadline_safe", *names[1:]]
    assert (told(harness, other), log(harness, other)) == ([], [])


def test_the_forecast_of_a_lane_with_a_history_puts_a_deadline_at_risk(harness: Harness) -> None:
    history(harness, 40, minutes=10)
    tight, loose = (harness.submitted(3, deadline=given) for given in ("5m", "1h"))
    foresee.look(harness.db)

    assert look(harness.db) == 2

    assert harness.job(tight).deadline_at_risk_since is not None
    assert harness.job(loose).deadline_at_risk_since is None
    assert log(harness, tight) == ["deadline_at_risk"]


def test_a_look_takes_only_jobs_that_are_due_and_not_finished(harness: Harness) -> None:
    batches = [harness.queued(3, deadline="10h") for _ in range(3)]
    ended, free, held = (harness.part(batch).job_id for batch in batches)
    harness.settle(batches[0], settlement(3))

    with harness.db.begin() as session:
        session.get_one(Job, held, with_for_update=True)
        assert look(harness.db) == 1  # the one that is locked is not waited for
    assert look(harness.db) == 1
    assert look(harness.db) == 0
    assert harness.job(ended).deadline_look_at is None
    assert harness.job(free).deadline_look_at is not None


@pytest.mark.parametrize(("late", "events"), [(True, ["job.deadline_missed"]), (False, [])])
def test_what_is_completed_before_anybody_looked_is_missed_all_the_same(
    harness: Harness, late: bool, events: list[str]
) -> None:
    batch_id = harness.queued(3, deadline="10h")
    notify(harness, NOTIFY[:1])
    job_id = harness.part(batch_id).job_id
    if late:
        pass_deadline(harness)

    harness.settle(batch_id, settlement(2, dead=[2]))

    assert sorted(told(harness, job_id)) == ["job.completed", *events]
    assert (harness.job(job_id).deadline_missed_at is not None) == late
    # A retry is looked at only while its deadline is still ahead.
    part = harness.part(batch_id)
    again = Revival(part_id=part.id, manifest="m", ordinals=frozenset({2}), bytes=1)
    revive(harness.db, job_id, [again])
    assert (harness.job(job_id).deadline_look_at is None) == late


def test_what_waits_of_a_job_gets_the_priority_that_its_deadline_gives_it(
    harness: Harness,
) -> None:
    harness.run("INSERT INTO haulier.producers (name, highest_priority) VALUES ('search', 7)")
    batches = harness.split(3, 3, producer="search", deadline="10h", on_deadline="priority")
    job_id = harness.part(batches[0]).job_id
    harness.advance(batches[0], BatchState.CREATED)
    # The other one comes back and waits again.
    harness.settle(batches[1], settlement(0, carried=3))
    deadline = harness.job(job_id).deadline
    assert deadline is not None

    def priorities() -> set[str]:
        query = "SELECT state || ' ' || priority FROM haulier.parts WHERE state <> 'settled'"
        return set(harness.rows(query))

    assert seen(harness, job_id, deadline - 9 * HOUR).raised_priority is None
    assert seen(harness, job_id, deadline + HOUR).raised_priority == 7
    assert priorities() == {"travelling 0", "waiting 7"}
    assert seen(harness, job_id, deadline - 9 * HOUR).raised_priority is None
    assert priorities() == {"travelling 0", "waiting 0"}
    assert log(harness, job_id).count("priority_changed") == 2


def test_a_past_deadline_is_refused_unless_its_job_is_there(harness: Harness) -> None:
    past = "2026-11-22T12:00:00Z"

    def submission(**fields: Any) -> Submission:
        taken = Taken(3, (shard(3),), "0" * 64)
        return Submission(
            id=uuid4(), producer="default", spec=spec(idempotency_key="k", **fields), taken=taken
        )

    (refused,) = submit_each(harness.db, [submission(deadline=past)])
    assert isinstance(refused, BadInput)
    assert "is past" in str(refused)
    ahead = (datetime.now(UTC) + HOUR).isoformat()
    (first,) = submit_each(harness.db, [submission(deadline=ahead)])
    # As if the hour had passed.
    harness.run("UPDATE haulier.jobs SET fingerprint = :f", f=submission(deadline=past).fingerprint)
    again, other = (
        submit_each(harness.db, [one])[0]
        for one in (submission(deadline=past), submission(deadline=past, priority=1))
    )
    assert isinstance(first, Submitted)
    assert again == Submitted(first.id, new=False)
    assert isinstance(other, Conflict)
