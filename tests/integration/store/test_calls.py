"""Which call a repeat takes over."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from service.payloads.intake import Taken
from service.rules.work import Shard
from service.store import calls, engine
from service.store.calls import Hold, NewCall
from service.store.submit import Submission
from tests.factories import Harness, shard, spec, submit
from tests.servers import Databases

DIGEST = b"d" * 32
PROCESS = uuid4()


@pytest.fixture(scope="module")
def shared_harness(databases: Databases) -> Iterator[Harness]:
    url = databases.create()
    connections = engine.create(url, pool_size=8)
    yield Harness(engine.database(connections))
    connections.dispose()
    databases.drop(url)


@pytest.fixture
def harness(shared_harness: Harness) -> Harness:
    shared_harness.run("TRUNCATE haulier.producers, haulier.attendants CASCADE")
    return shared_harness


def hold(process: UUID | None = PROCESS) -> Hold:
    return Hold(id=uuid4(), process=process)


def call(harness: Harness, held: Hold, credential: str = "a", digest: Any = DIGEST) -> UUID:
    """A first attempt."""
    job_id = uuid4()
    cut: tuple[Shard, ...] = (shard(1),)
    new = NewCall(credential=credential, digest=digest, hold=held)
    one = Submission(
        id=job_id, producer="default", spec=spec(), taken=Taken(1, cut, None), call=new
    )
    submit(harness.db, [one])
    return job_id


def take(harness: Harness, credential: str = "a", digest: bytes = DIGEST) -> UUID | None:
    return calls.take(harness.db, credential, digest, hold())


def test_repeats_take_what_nobody_waits_for_then_what_is_held_longest_then_what_was_sent(
    harness: Harness,
) -> None:
    sent, older, newer, alone = hold(), hold(), hold(), hold(None)
    ids = {one: call(harness, one) for one in (sent, older, newer, alone)}
    call(harness, hold(), credential="b")
    call(harness, hold(), digest=b"other")
    call(harness, hold(), digest=None)
    calls.let_go(harness.db, delivered=[sent.id])

    order = [take(harness) for _ in range(3)]
    assert order == [ids[alone], ids[older], ids[newer]]
    assert take(harness) == ids[alone]  # held longest by now
    # The first connections are gone from here on: what they say changes nothing.
    calls.let_go(harness.db, released=[older.id], delivered=[newer.id])
    assert take(harness) == ids[older]
    harness.run("DELETE FROM haulier.jobs WHERE id <> :sent", sent=ids[sent])
    assert take(harness) == ids[sent]
    harness.run(
        "UPDATE haulier.calls SET attendant = NULL, delivered_at = now() - CAST(:ago AS interval)",
        ago=calls.LOST_TAIL + timedelta(seconds=1),
    )
    assert take(harness) is None


def test_repeats_that_come_at_once_take_different_calls(harness: Harness) -> None:
    ids = {call(harness, hold()) for _ in range(40)}
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: take(harness), range(40)))
    assert len(set(taken)) == 40
    assert set(taken) == ids


@pytest.mark.parametrize("by", ["another process", "itself"])
def test_calls_of_a_process_that_is_gone_are_held_no_more(harness: Harness, by: str) -> None:
    dead, living = uuid4(), uuid4()
    calls.beat(harness.db, dead)
    calls.beat(harness.db, living)
    lost = call(harness, hold(dead))
    call(harness, hold(living))
    harness.run(
        "UPDATE haulier.attendants SET seen_at = now() - CAST(:ago AS interval) WHERE id = :dead",
        ago=calls.UNSEEN * 2,
        dead=dead,
    )
    if by == "itself":
        calls.leave(harness.db, dead)
    else:
        calls.beat(harness.db, living)
    unattended = harness.rows("SELECT job_id FROM haulier.calls WHERE attendant IS NULL")
    assert unattended == [lost]
    assert harness.rows("SELECT id FROM haulier.attendants") == [living]
