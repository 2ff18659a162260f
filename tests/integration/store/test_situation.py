"""The overview: what needs a person is found, counted and named."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from service.rules.needs import NeedKind, command, words
from service.rules.outcomes import Pause
from service.rules.states import Stage
from service.store import engine, lane_verbs, situation
from service.store.audit import Actor
from service.store.heartbeats import beat
from tests.factories import MODEL, Harness, ill_lane, settlement
from tests.servers import Databases


@pytest.fixture
def harness(databases: Databases) -> Iterator[Harness]:
    url = databases.create()
    connections = engine.create(url, pool_size=4)
    yield Harness(engine.database(connections))
    connections.dispose()
    databases.drop(url)


def needs(harness: Harness) -> dict[NeedKind, situation.Need]:
    return {need.kind: need for need in situation.needs(harness.db)}


def test_every_kind_of_need_is_found_and_named(harness: Harness) -> None:
    for kind in ("worker", "scheduler"):
        beat(harness.db, name=kind, kind=kind, host="h", pid=1, queues=[], slots=1)
    assert list(needs(harness)) == [NeedKind.PROCESS_MISSING]
    assert needs(harness)[NeedKind.PROCESS_MISSING].names == ["notifier"]
    beat(harness.db, name="notifier", kind="notifier", host="h", pid=1, queues=[], slots=0)
    assert needs(harness) == {}

    refused = harness.queued()
    claim = harness.claim(refused, Stage.UPLOAD)
    harness.apply(claim, Pause("the key is refused", blocked=True))
    lane_id = ill_lane(harness.db, MODEL)
    ill_lane(harness.db, "another")
    assert lane_verbs.pause(harness.db, lane_id, by=Actor(name="producer:ops"))
    parked = harness.queued()
    harness.run("UPDATE haulier.batches SET parked_at = now() WHERE id = :id", id=parked)
    job = harness.job_of(harness.queued()).id
    harness.run(
        "UPDATE haulier.jobs SET parked_at = now(), last_error = 'a blob is missing',"
        " held_at = now(), short_reason = 'it would cost 3 USD', deadline_look_at = now(),"
        " deadline_missed_at = now() WHERE id = :id",
        id=job,
    )
    late = harness.job_of(harness.queued()).id
    harness.run(
        "UPDATE haulier.jobs SET deadline_look_at = now(), deadline_at_risk_since = now()"
        " WHERE id = :id",
        id=late,
    )
    harness.run("UPDATE haulier.producers SET short_until = now() + interval '1 h'")
    for endpoint in ("a.example:443", "a.example:443", "b.example:443"):
        harness.run(
            "INSERT INTO haulier.deliveries (id, job_id, event, target, endpoint, parked_at,"
            " last_error) VALUES (gen_random_uuid(), :id, 'job.completed', '{}', :endpoint, now(),"
            " 'status 500')",
            id=job,
            endpoint=endpoint,
        )

    found = needs(harness)
    assert list(found) == [kind for kind in NeedKind if kind is not NeedKind.PROCESS_MISSING]
    assert found[NeedKind.ACCOUNT_BLOCKED].reason == "the key is refused"
    assert found[NeedKind.LANE_PAUSED].names == [lane_id]
    assert found[NeedKind.LANE_PAUSED].reason == f"{MODEL}, paused by producer:ops"
    assert found[NeedKind.BATCH_PARKED].names == [str(harness.job_of(parked).id)]
    assert found[NeedKind.JOB_PARKED].reason == "a blob is missing"
    assert found[NeedKind.DEADLINE_AT_RISK].names == [str(late)]
    assert found[NeedKind.NOTICE_GIVEN_UP].number == 2
    assert "status 500" in str(found[NeedKind.NOTICE_GIVEN_UP].reason)
    for need in found.values():
        assert words(need.kind, need.number).startswith(f"{need.number} ")
        assert need.names[0] in command(need.kind, need.names[0])


def test_what_comes_in_goes_out_and_is_under_way_is_counted(harness: Harness) -> None:
    harness.settle(harness.ended(10), settlement(8, dead=[8, 9]))
    harness.created(5)
    harness.waiting(3)

    seen = situation.overview(harness.db)
    assert (seen.arrived.jobs, seen.arrived.requests) == (3, 18)
    assert (seen.ended.jobs, seen.ended.requests, seen.ended.failed) == (1, 10, 2)
    assert seen.at - seen.ended.since == timedelta(hours=1)
    assert seen.jobs == {"running": situation.UnderWay(rows=2, requests=8)}
    assert seen.batches == {"created": situation.UnderWay(rows=1, requests=5)}
    assert (seen.waiting.rows, seen.waiting.requests) == (1, 3)
    assert seen.oldest_waiting is not None
    assert not seen.at_least


def test_a_figure_that_may_be_higher_says_so(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(situation, "MOST", 2)
    for _ in range(3):
        harness.created(1)
    seen = situation.overview(harness.db)
    assert seen.batches["created"].rows == 2
    assert seen.at_least == {"batches", "jobs"}
    assert seen.arrived.jobs == 2
    assert seen.at - seen.arrived.since < timedelta(hours=1)
    assert words(NeedKind.JOB_PARKED, 2, at_least=True) == "2 or more jobs are parked"
