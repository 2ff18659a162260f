"""Polling a page of batches, with a real database and the simulator behind it."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from pydantic import SecretStr
from sqlalchemy import event

from config.settings import Account, Settings
from service.stages.listing import MOST_GETS
from service.states import BatchState, Stage
from service.store import engine
from service.store.cancel import cancel
from service.store.claim import claim_batches
from service.store.postpone import postpone
from service.together import Together, open_pool
from service.work import Advance, Changes, Retry, Wait
from tests.eventually import eventually
from tests.factories import CHAT, LEASE, MODEL, House, chat_line
from tests.servers import Databases
from tests.simulator import KEY, Simulator
from workers.runner import Runner

SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def _house(databases: Databases) -> Iterator[tuple[House, str]]:
    url = databases.create()
    made = engine.create(url)
    yield House(engine.database(made)), url
    made.dispose()
    databases.drop(url)


@pytest.fixture
def house(_house: tuple[House, str]) -> House:
    _house[0].sweep()
    return _house[0]


class Fleet:
    """Batches at Together and their rows here, and a worker's runner."""

    def __init__(self, house: House, url: str, simulator: Simulator, scratch: Path) -> None:
        self.house = house
        self.simulator = simulator
        self.scratch = scratch
        self.url = url
        self.runners: list[Runner] = []
        self.pool = open_pool(timedelta(seconds=10))
        self.together = Together(self.pool, simulator.url, KEY)

    def settings(self, **more: Any) -> Settings:
        known = {
            "DATABASE_URL": self.url,
            "accounts": {"default": Account(api_key=SecretStr(KEY), base_url=self.simulator.url)},
            "blob_url": self.scratch.as_uri(),
            "poll_seconds": SECOND * 30,
        }
        return Settings(**{**known, **more})

    def runner(self, **more: Any) -> Runner:
        self.runners.append(Runner(self.settings(**more)))
        return self.runners[-1]

    def sail(self, number: int) -> list[UUID]:
        """So many batches that Together holds and that are due for a look."""
        content = chat_line("a") + b"\n"
        file = self.together.upload("input.jsonl", len(content), lambda: iter([content]))
        jobs = [self.together.create(CHAT, file.id, within=LEASE) for _ in range(number)]
        ids = self.house.split(*[1] * number)
        self.house.run(
            "UPDATE haulier.batches SET state = 'created', provider_batch_id = t.there,"
            " submitted_at = now(), input_file_id = 'file', not_before = now()"
            " FROM unnest(CAST(:ids AS uuid[]), CAST(:there AS text[])) t(id, there)"
            " WHERE batches.id = t.id",
            ids=ids,
            there=[job.id for job in jobs if job is not None],
        )
        return ids

    def calls(self) -> dict[str, int]:
        """How often a list and a single batch were asked for."""
        counts = self.simulator.counts()
        return {name: counts.get(name, 0) for name in ("list", "retrieve")}

    def close(self) -> None:
        self.pool.close()
        for runner in self.runners:
            runner.db.kw["bind"].dispose()
            runner._pool.close()
            if runner._rate is not None:
                runner._rate.close()


@pytest.fixture
def fleet(
    house: House, _house: tuple[House, str], simulator: Simulator, tmp_path: Path
) -> Iterator[Fleet]:
    made = Fleet(house, _house[1], simulator, tmp_path)
    yield made
    made.close()


def _waiting(house: House) -> list[Any]:
    """The rows that were looked at and wait for their next look."""
    return list(
        house.rows(
            "SELECT provider_status FROM haulier.batches WHERE lease IS NULL AND tries = 0"
            " AND not_before >= now() + interval '25 s' AND provider_status IS NOT NULL"
        )
    )


def test_a_page_of_many_batches_takes_one_list(fleet: Fleet) -> None:
    fleet.simulator.batch_rule(hang=True)
    ids = fleet.sail(100)
    assert list(fleet.runner().batches(Stage.POLL, ids)) == []
    assert fleet.calls() == {"list": 1, "retrieve": 0}
    assert len(_waiting(fleet.house)) == 100


def test_a_few_batches_are_asked_for_singly(fleet: Fleet) -> None:
    fleet.simulator.batch_rule(hang=True)
    ids = fleet.sail(3)
    assert list(fleet.runner().batches(Stage.POLL, ids)) == []
    assert fleet.calls() == {"list": 0, "retrieve": 3}
    assert len(_waiting(fleet.house)) == 3


def test_what_a_late_list_lacks_is_asked_for_singly_up_to_a_bound(fleet: Fleet) -> None:
    fleet.simulator.switch(list_lag_seconds=3600)
    fleet.simulator.batch_rule(hang=True)
    ids = fleet.sail(MOST_GETS + 5)
    assert list(fleet.runner().batches(Stage.POLL, ids)) == []
    assert fleet.calls() == {"list": 1, "retrieve": MOST_GETS}
    assert len(_waiting(fleet.house)) == MOST_GETS
    unseen = "SELECT id FROM haulier.batches WHERE lease IS NULL AND provider_status IS NULL"
    unseen += " AND last_error LIKE '%does not show it'"
    assert len(fleet.house.rows(f"{unseen} AND not_before > now()")) == 5


def test_batches_that_ended_move_on_from_a_list(fleet: Fleet) -> None:
    ids = fleet.sail(5)
    runner = fleet.runner(poll_seconds=timedelta(milliseconds=10))
    moved: set[UUID] = set()

    def all_moved() -> bool:
        moved.update(runner.batches(Stage.POLL, ids))
        return len(moved) == len(ids)

    eventually(all_moved)
    assert moved == set(ids)
    assert {fleet.house.batch(i).output_file_id is None for i in ids} == {False}
    assert fleet.house.rows("SELECT ended FROM haulier.lanes") == [5]


def test_an_end_without_files_in_a_list_is_asked_for_singly(fleet: Fleet) -> None:
    fleet.simulator.batch_rule(outcome="fail")
    ids = fleet.sail(5)
    eventually(lambda: all(job.ended for job in fleet.together.batches()))
    before = fleet.calls()
    assert list(fleet.runner().batches(Stage.POLL, ids)) == []
    assert fleet.calls()["list"] == before["list"] + 1
    assert fleet.calls()["retrieve"] == before["retrieve"] + 5


def test_where_the_list_fails_single_batches_are_asked_for_and_no_list_for_a_while(
    fleet: Fleet,
) -> None:
    fleet.simulator.batch_rule(hang=True)
    ids = fleet.sail(5)
    fleet.simulator.fault("list", "status", status=404)
    runner = fleet.runner()
    assert list(runner.batches(Stage.POLL, ids)) == []
    assert fleet.calls() == {"list": 1, "retrieve": 5}
    assert len(_waiting(fleet.house)) == 5
    fleet.house.run("UPDATE haulier.batches SET not_before = now()")
    assert list(runner.batches(Stage.POLL, ids)) == []
    assert fleet.calls() == {"list": 1, "retrieve": 10}


def test_where_a_worker_was_lost_over_a_page_no_list_is_asked_for(fleet: Fleet) -> None:
    fleet.simulator.batch_rule(hang=True)
    ids = fleet.sail(5)
    fleet.house.claim(ids[0], Stage.POLL)
    fleet.house.expire_lease(ids[0])
    assert list(fleet.runner().batches(Stage.POLL, ids)) == []
    assert fleet.calls() == {"list": 0, "retrieve": 5}


def test_a_cancel_that_came_while_a_batch_was_polled_is_seen_at_once(house: House) -> None:
    waits = [Wait(SECOND * 60), Wait(SECOND * 60)]
    singly, together = [house.created() for _ in waits]
    claims = []
    for batch_id in (singly, together):
        house.due_now(batch_id)
        claims.append(house.claim(batch_id, Stage.POLL))
        cancel(house.db, house.batch(batch_id).job_id)
    house.apply(claims[0], waits[0])
    postpone(house.db, [(claims[1], waits[1])])
    for batch_id in (singly, together):
        assert house.claim(batch_id, Stage.POLL).cancel_requested


def test_a_wait_without_a_look_leaves_failures_in_a_row(house: House) -> None:
    batch_id = house.created()
    house.due_now(batch_id)
    house.apply(house.claim(batch_id, Stage.POLL), Retry("404"))
    for look in (False, True):
        house.due_now(batch_id)
        claim = house.claim(batch_id, Stage.POLL)
        assert claim.failures == 1
        postpone(house.db, [(claim, Wait(SECOND, looked=look))])
    assert house.batch(batch_id).failures == 0


def test_a_rate_limit_stops_the_page_and_hands_back_the_rest(fleet: Fleet) -> None:
    fleet.simulator.batch_rule(hang=True)
    ids = fleet.sail(3)
    fleet.simulator.fault("retrieve", "status", status=429, times=3)
    assert list(fleet.runner().batches(Stage.POLL, ids)) == []
    assert fleet.calls()["retrieve"] == 1
    left = "SELECT id FROM haulier.batches WHERE lease IS NULL AND dispatched_at IS NULL"
    assert len(fleet.house.rows(f"{left} AND last_error LIKE '429%' AND not_before <= now()")) == 3
    account = fleet.house.account()
    assert account is not None
    assert account.paused_until is not None


def test_a_page_of_slow_singles_is_handed_back_before_its_leases_run_out(fleet: Fleet) -> None:
    fleet.simulator.batch_rule(hang=True)
    ids = fleet.sail(3)
    fleet.simulator.fault("retrieve", "slow", seconds=0.3, times=3)
    assert list(fleet.runner(lease_seconds=SECOND).batches(Stage.POLL, ids)) == []
    assert fleet.calls()["retrieve"] == 1
    assert len(_waiting(fleet.house)) == 1
    free = "SELECT id FROM haulier.batches WHERE lease IS NULL AND tries = 0"
    assert len(fleet.house.rows(f"{free} AND not_before <= now()")) == 2


def test_two_runners_keep_to_the_rate_of_their_account(fleet: Fleet, redis_url: str) -> None:
    fleet.simulator.batch_rule(hang=True)
    ids = fleet.sail(3)
    limit: dict[str, Any] = {"REDIS_URL": redis_url, "control_requests_per_second": 2}
    for page in (ids[:2], ids[2:]):
        assert list(fleet.runner(**limit).batches(Stage.POLL, page)) == []
    first, _, third = [call.at for call in fleet.simulator.requests("retrieve")]
    assert third - first > 0.8
    assert len(_waiting(fleet.house)) == 3


def test_a_page_of_waits_changes_nothing_where_the_lease_was_lost(house: House) -> None:
    held, lost = house.created(), house.created()
    for batch_id in (held, lost):
        house.due_now(batch_id)
    first, late = house.claim(held, Stage.POLL), house.claim(lost, Stage.POLL)
    house.expire_lease(lost)
    house.claim(lost, Stage.POLL)
    before = _row(house, lost)
    wait = Wait(SECOND * 60, Changes(provider_status="IN_PROGRESS", progress=7.5), "so it is")
    assert postpone(house.db, [(first, wait), (late, wait)]) == {lost}
    assert _row(house, lost) == before
    assert postpone(house.db, [(first, wait)]) == {held}


def test_a_page_of_waits_writes_what_single_waits_write(house: House) -> None:
    waits = [
        Wait(SECOND * 60, Changes(provider_status="IN_PROGRESS", progress=7.5), "so it is"),
        Wait(SECOND * 60, Changes(provider_error="x\ny", output_file_id="o", error_file_id="e")),
        Wait(SECOND * 60, Changes(cancel_sent=True), "long " * 2000),
        Wait(SECOND * 60),
    ]
    singly, together = [[house.created() for _ in waits] for _ in range(2)]
    for batch_id in (*singly, *together):
        house.due_now(batch_id)
        house.run("UPDATE haulier.batches SET failures = 3 WHERE id = :id", id=batch_id)
    for batch_id, wait in zip(singly, waits, strict=True):
        house.apply(house.claim(batch_id, Stage.POLL), wait)
    claims = [house.claim(batch_id, Stage.POLL) for batch_id in together]
    assert postpone(house.db, list(zip(claims, waits, strict=True))) == set()
    assert [_row(house, i) for i in together] == [_row(house, i) for i in singly]
    due_in = "SELECT extract(epoch FROM not_before - now())::float FROM haulier.batches"
    assert all(55 < seconds < 66 for seconds in house.rows(due_in))


def _row(house: House, batch_id: UUID) -> dict[str, Any]:
    """A row but for what differs between any two."""
    own = "'{id,job_id,input_blob,manifest_blob,input_file_id,provider_batch_id,not_before"
    own += ",created_at,admitted_at,submitted_at}'::text[]"
    found = house.rows(
        f"SELECT (to_jsonb(b) - {own})::text FROM haulier.batches b WHERE id = :id", id=batch_id
    )
    return msgspec.json.decode(found[0], type=dict[str, Any])


def test_the_pace_of_a_model_is_learned_from_its_finished_batches(house: House) -> None:
    for minutes in (10, 20, 60):
        batch_id = house.created()
        house.run(
            "UPDATE haulier.batches SET submitted_at = now() - :taken WHERE id = :id",
            id=batch_id,
            taken=timedelta(minutes=minutes),
        )
        house.advance(batch_id, BatchState.ENDED)
    batch_id = house.created()
    house.due_now(batch_id)
    claim = house.claim(batch_id, Stage.POLL)
    assert claim.expected is not None
    assert claim.expected.total_seconds() == pytest.approx(30 * 60, abs=5)
    # One that failed says nothing of how long such batches take.
    house.apply(claim, Advance(BatchState.ENDED, Changes(provider_status="FAILED")))
    assert house.rows("SELECT ended FROM haulier.lanes WHERE model = :model", model=MODEL) == [3]


def test_old_paces_are_forgotten_bit_by_bit(house: House) -> None:
    house.run(
        "INSERT INTO haulier.lanes (account, model, ended, seconds)"
        " VALUES ('default', :model, 500, 1000)",
        model=MODEL,
    )
    house.ended()
    (seconds,) = house.rows("SELECT seconds FROM haulier.lanes")
    assert seconds == pytest.approx(900, abs=5)


def test_a_page_is_claimed_in_two_statements(house: House) -> None:
    ids = house.split(*[1] * 50)
    statements: list[str] = []
    bound = house.db.kw["bind"]

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        statements.append(statement.split(maxsplit=1)[0])

    event.listen(bound, "before_cursor_execute", note)
    try:
        claims = claim_batches(house.db, ids, Stage.UPLOAD, LEASE)
    finally:
        event.remove(bound, "before_cursor_execute", note)
    assert {claim.id for claim in claims} == set(ids)
    assert statements == ["SELECT", "UPDATE"]
