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
from service import stages
from service.rules.outcomes import Advance, Changes, Retry, Wait
from service.rules.states import BatchState, Stage
from service.runner.runner import Runner, Work, _handed_back
from service.stages.lookup import MOST_GETS
from service.store import engine
from service.store.cancel import cancel
from service.store.claim import claim_batches
from service.store.wait import wait as write_waits
from service.together.client import Together
from service.together.transport import open_pool
from tests.eventually import eventually
from tests.factories import CHAT, LEASE, MODEL, Harness, chat_line
from tests.servers import Databases
from tests.simulator import KEY, Simulator
from workers.ratelimit import RateLimit

SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def _harness(databases: Databases) -> Iterator[tuple[Harness, str]]:
    url = databases.create()
    made = engine.create(url)
    yield Harness(engine.database(made)), url
    made.dispose()
    databases.drop(url)


@pytest.fixture
def harness(_harness: tuple[Harness, str]) -> Harness:
    _harness[0].sweep()
    return _harness[0]


class CreatedBatches:
    """Batches at Together and their rows here, and a worker's runner."""

    def __init__(self, harness: Harness, url: str, simulator: Simulator, scratch: Path) -> None:
        self.harness = harness
        self.simulator = simulator
        self.scratch = scratch
        self.url = url
        self.runners: list[Runner] = []
        self.rates: list[RateLimit] = []
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
        settings = self.settings(**more)
        per_second = settings.control_requests_per_second
        gate = None
        if per_second is not None:
            self.rates.append(RateLimit(settings.redis_url or "", per_second))
            gate = self.rates[-1].gate
        work = Work(batches={Stage.POLL: stages.poll}, jobs={})
        self.runners.append(Runner(settings, work, gate=gate))
        return self.runners[-1]

    def create(self, number: int) -> list[UUID]:
        """So many batches that Together holds and that are due for a look."""
        content = chat_line("a") + b"\n"
        file = self.together.upload("input.jsonl", len(content), lambda: iter([content]))
        jobs = [self.together.create(CHAT, file.id, within=LEASE) for _ in range(number)]
        ids = self.harness.split(*[1] * number)
        self.harness.run(
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
        for rate in self.rates:
            rate.close()


@pytest.fixture
def created(
    harness: Harness, _harness: tuple[Harness, str], simulator: Simulator, tmp_path: Path
) -> Iterator[CreatedBatches]:
    made = CreatedBatches(harness, _harness[1], simulator, tmp_path)
    yield made
    made.close()


def _waiting(harness: Harness) -> list[Any]:
    """The rows that were looked at and wait for their next look."""
    return list(
        harness.rows(
            "SELECT provider_status FROM haulier.batches WHERE lease IS NULL AND tries = 0"
            " AND not_before >= now() + interval '25 s' AND provider_status IS NOT NULL"
        )
    )


def test_a_page_of_many_batches_takes_one_list(created: CreatedBatches) -> None:
    created.simulator.batch_rule(hang=True)
    ids = created.create(100)
    assert list(created.runner().batches(Stage.POLL, ids)) == []
    assert created.calls() == {"list": 1, "retrieve": 0}
    assert len(_waiting(created.harness)) == 100


def test_one_list_serves_all_that_are_claimed_one_page_after_the_other(
    created: CreatedBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.runner.runner.CLAIMED_AT_ONCE", 10)
    created.simulator.batch_rule(hang=True)
    ids = created.create(35)
    assert list(created.runner().batches(Stage.POLL, ids)) == []
    assert created.calls() == {"list": 1, "retrieve": 0}
    assert len(_waiting(created.harness)) == 35


def test_what_stops_a_page_stops_those_behind_it(
    created: CreatedBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.runner.runner.CLAIMED_AT_ONCE", 2)
    ids = created.create(6)
    created.simulator.fault("*", "status", status=429, times=None, reset_seconds=60)
    assert list(created.runner().batches(Stage.POLL, ids)) == []
    assert sum(created.calls().values()) <= 2
    free = "SELECT id FROM haulier.batches WHERE lease IS NULL"
    assert len(created.harness.rows(free)) == 6


def test_a_few_batches_are_asked_for_singly(created: CreatedBatches) -> None:
    created.simulator.batch_rule(hang=True)
    ids = created.create(3)
    assert list(created.runner().batches(Stage.POLL, ids)) == []
    assert created.calls() == {"list": 0, "retrieve": 3}
    assert len(_waiting(created.harness)) == 3


def test_what_a_late_list_lacks_is_asked_for_singly_up_to_a_bound(created: CreatedBatches) -> None:
    created.simulator.switch(list_lag_seconds=3600)
    created.simulator.batch_rule(hang=True)
    ids = created.create(MOST_GETS + 5)
    assert list(created.runner().batches(Stage.POLL, ids)) == []
    assert created.calls() == {"list": 1, "retrieve": MOST_GETS}
    assert len(_waiting(created.harness)) == MOST_GETS
    unseen = "SELECT id FROM haulier.batches WHERE lease IS NULL AND provider_status IS NULL"
    unseen += " AND last_error LIKE '%does not show it'"
    assert len(created.harness.rows(f"{unseen} AND not_before > now()")) == 5


def test_batches_that_ended_move_on_from_a_list(created: CreatedBatches) -> None:
    ids = created.create(5)
    runner = created.runner(poll_seconds=timedelta(milliseconds=10))
    moved: set[UUID] = set()

    def all_moved() -> bool:
        moved.update(runner.batches(Stage.POLL, ids))
        return len(moved) == len(ids)

    eventually(all_moved)
    assert moved == set(ids)
    assert {created.harness.batch(i).output_file_id is None for i in ids} == {False}
    assert created.harness.rows("SELECT ended FROM haulier.lanes") == [5]


def test_an_end_without_files_in_a_list_is_an_end(created: CreatedBatches) -> None:
    created.simulator.batch_rule(outcome="fail")
    ids = created.create(5)
    eventually(lambda: all(job.ended for job in created.together.batches()))
    before = created.calls()
    assert sorted(created.runner().batches(Stage.POLL, ids)) == sorted(ids)
    assert created.calls()["list"] == before["list"] + 1
    assert created.calls().get("retrieve", 0) == before.get("retrieve", 0)


def test_where_the_list_fails_single_batches_are_asked_for_and_no_list_for_a_while(
    created: CreatedBatches,
) -> None:
    created.simulator.batch_rule(hang=True)
    ids = created.create(5)
    created.simulator.fault("list", "status", status=404)
    runner = created.runner()
    assert list(runner.batches(Stage.POLL, ids)) == []
    assert created.calls() == {"list": 1, "retrieve": 5}
    assert len(_waiting(created.harness)) == 5
    created.harness.run("UPDATE haulier.batches SET not_before = now()")
    assert list(runner.batches(Stage.POLL, ids)) == []
    assert created.calls() == {"list": 1, "retrieve": 10}


def test_where_a_worker_was_lost_over_a_page_no_list_is_asked_for(created: CreatedBatches) -> None:
    created.simulator.batch_rule(hang=True)
    ids = created.create(5)
    created.harness.claim(ids[0], Stage.POLL)
    created.harness.expire_lease(ids[0])
    assert list(created.runner().batches(Stage.POLL, ids)) == []
    assert created.calls() == {"list": 0, "retrieve": 5}


def test_a_cancel_that_came_while_a_batch_was_polled_is_seen_at_once(harness: Harness) -> None:
    waits = [Wait(SECOND * 60), Wait(SECOND * 60)]
    singly, together = [harness.created() for _ in waits]
    claims = []
    for batch_id in (singly, together):
        harness.due_now(batch_id)
        claims.append(harness.claim(batch_id, Stage.POLL))
        cancel(harness.db, harness.part(batch_id).job_id)
    harness.apply(claims[0], waits[0])
    write_waits(harness.db, [(claims[1], waits[1])])
    for batch_id in (singly, together):
        assert harness.claim(batch_id, Stage.POLL).cancel_requested


def test_a_wait_without_a_look_leaves_failures_in_a_row(harness: Harness) -> None:
    batch_id = harness.created()
    harness.due_now(batch_id)
    harness.apply(harness.claim(batch_id, Stage.POLL), Retry("404"))
    for look in (False, True):
        harness.due_now(batch_id)
        claim = harness.claim(batch_id, Stage.POLL)
        assert claim.failures == 1
        write_waits(harness.db, [(claim, Wait(SECOND, looked=look))])
    assert harness.batch(batch_id).failures == 0


def test_a_rate_limit_stops_the_page_and_hands_back_the_rest(created: CreatedBatches) -> None:
    created.simulator.batch_rule(hang=True)
    ids = created.create(3)
    created.simulator.fault("retrieve", "status", status=429, times=3)
    assert list(created.runner().batches(Stage.POLL, ids)) == []
    assert created.calls()["retrieve"] == 1
    left = "SELECT id FROM haulier.batches WHERE lease IS NULL AND dispatched_at IS NULL"
    assert (
        len(created.harness.rows(f"{left} AND last_error LIKE '429%' AND not_before <= now()")) == 3
    )
    account = created.harness.account()
    assert account is not None
    assert account.paused_until is not None


def test_a_page_of_slow_singles_is_handed_back_before_its_leases_run_out(
    created: CreatedBatches,
) -> None:
    created.simulator.batch_rule(hang=True)
    ids = created.create(3)
    created.simulator.fault("retrieve", "slow", seconds=0.3, times=3)
    assert list(created.runner(lease_seconds=SECOND).batches(Stage.POLL, ids)) == []
    assert created.calls()["retrieve"] == 1
    assert len(_waiting(created.harness)) == 1
    free = "SELECT id FROM haulier.batches WHERE lease IS NULL AND tries = 0"
    assert len(created.harness.rows(f"{free} AND not_before <= now()")) == 2


def test_two_runners_keep_to_the_rate_of_their_account(
    created: CreatedBatches, redis_url: str
) -> None:
    created.simulator.batch_rule(hang=True)
    ids = created.create(3)
    limit: dict[str, Any] = {"REDIS_URL": redis_url, "control_requests_per_second": 2}
    for page in (ids[:2], ids[2:]):
        assert list(created.runner(**limit).batches(Stage.POLL, page)) == []
    first, _, third = [call.at for call in created.simulator.requests("retrieve")]
    assert third - first > 0.8
    assert len(_waiting(created.harness)) == 3


def test_a_page_of_waits_changes_nothing_where_the_lease_was_lost(harness: Harness) -> None:
    held, lost = harness.created(), harness.created()
    for batch_id in (held, lost):
        harness.due_now(batch_id)
    first, late = harness.claim(held, Stage.POLL), harness.claim(lost, Stage.POLL)
    harness.expire_lease(lost)
    harness.claim(lost, Stage.POLL)
    before = _row(harness, lost)
    wait = Wait(SECOND * 60, Changes(provider_status="IN_PROGRESS", progress=7.5), "so it is")
    assert write_waits(harness.db, [(first, wait), (late, wait)]) == {lost}
    assert _row(harness, lost) == before
    assert write_waits(harness.db, [(first, wait)]) == {held}


def test_a_page_of_waits_writes_what_single_waits_write(harness: Harness) -> None:
    waits = [
        Wait(SECOND * 60, Changes(provider_status="IN_PROGRESS", progress=7.5), "so it is"),
        Wait(SECOND * 60, Changes(provider_error="x\ny", output_file_id="o", error_file_id="e")),
        Wait(SECOND * 60, Changes(cancel_sent=True), "long " * 2000),
        Wait(SECOND * 60),
    ]
    singly, together = [[harness.created() for _ in waits] for _ in range(2)]
    for batch_id in (*singly, *together):
        harness.due_now(batch_id)
        harness.run("UPDATE haulier.batches SET failures = 3 WHERE id = :id", id=batch_id)
    for batch_id, wait in zip(singly, waits, strict=True):
        harness.apply(harness.claim(batch_id, Stage.POLL), wait)
    claims = [harness.claim(batch_id, Stage.POLL) for batch_id in together]
    assert write_waits(harness.db, list(zip(claims, waits, strict=True))) == set()
    assert [_row(harness, i) for i in together] == [_row(harness, i) for i in singly]
    due_in = "SELECT extract(epoch FROM not_before - now())::float FROM haulier.batches"
    assert all(55 < seconds < 66 for seconds in harness.rows(due_in))


def _row(harness: Harness, batch_id: UUID) -> dict[str, Any]:
    """A row but for what differs between any two."""
    own = "'{id,job_id,input_blob,manifest_blob,input_file_id,provider_batch_id,not_before"
    own += ",created_at,ready_at,admitted_at,submitted_at}'::text[]"
    found = harness.rows(
        f"SELECT (to_jsonb(b) - {own})::text FROM haulier.batches b WHERE id = :id", id=batch_id
    )
    return msgspec.json.decode(found[0], type=dict[str, Any])


def test_the_pace_of_a_model_is_learned_from_its_finished_batches(harness: Harness) -> None:
    for minutes in (10, 20, 60):
        batch_id = harness.created()
        harness.run(
            "UPDATE haulier.batches SET submitted_at = now() - :taken WHERE id = :id",
            id=batch_id,
            taken=timedelta(minutes=minutes),
        )
        harness.advance(batch_id, BatchState.ENDED)
    batch_id = harness.created()
    harness.due_now(batch_id)
    claim = harness.claim(batch_id, Stage.POLL)
    assert claim.expected is not None
    assert claim.expected.total_seconds() == pytest.approx(30 * 60, abs=5)
    # One that failed says nothing of how long such batches take.
    harness.apply(claim, Advance(BatchState.ENDED, Changes(provider_status="FAILED")))
    assert harness.rows("SELECT ended FROM haulier.lanes WHERE model = :model", model=MODEL) == [3]


def test_old_paces_are_forgotten_bit_by_bit(harness: Harness) -> None:
    harness.run(
        "INSERT INTO haulier.lanes (account, endpoint, model, ended, seconds)"
        " VALUES ('default', :endpoint, :model, 500, 1000)",
        endpoint=CHAT,
        model=MODEL,
    )
    harness.ended()
    (seconds,) = harness.rows("SELECT seconds FROM haulier.lanes")
    assert seconds == pytest.approx(900, abs=5)


def test_a_page_is_claimed_in_two_statements(harness: Harness) -> None:
    ids = harness.split(*[1] * 50)
    statements: list[str] = []
    bound = harness.db.kw["bind"]

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        statements.append(statement.split(maxsplit=1)[0])

    event.listen(bound, "before_cursor_execute", note)
    try:
        claims = claim_batches(harness.db, ids, Stage.UPLOAD, LEASE)
    finally:
        event.remove(bound, "before_cursor_execute", note)
    assert {claim.id for claim in claims} == set(ids)
    assert statements == ["SELECT", "UPDATE"]


def test_a_runner_that_is_to_stop_hands_its_page_back_at_once(created: CreatedBatches) -> None:
    ids = created.create(3)
    runner = created.runner()
    runner.stopping = lambda: True
    assert list(runner.batches(Stage.POLL, ids)) == []
    assert created.calls() == {"list": 0, "retrieve": 0}
    free = "lease IS NULL AND dispatched_at IS NULL AND not_before <= now() AND failures = 0"
    assert len(created.harness.rows(f"SELECT id FROM haulier.batches WHERE {free}")) == 3


def test_a_create_that_is_handed_back_need_not_be_searched_for(harness: Harness) -> None:
    batch_id = harness.uploaded()
    claim = harness.claim(batch_id, Stage.CREATE)
    assert harness.batch(batch_id).create_deadline is not None
    harness.apply(claim, _handed_back(claim))
    assert harness.batch(batch_id).create_deadline is None
    harness.claim(batch_id, Stage.CREATE)
