"""Forecasts on real rows: made, renewed, told apart from what has no end in sight, and counted."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import pytest

from service.rules.forecast import LEAST, Forecast, NoForecast
from service.rules.states import BatchState
from service.store import engine
from service.store.engine import clock
from service.store.forecasts import of_jobs, of_lanes
from service.store.foresee import KEPT, look
from service.store.models import Coverage
from service.store.prune import prune_jobs
from tests.factories import MODEL, Harness, settlement
from tests.servers import Databases

LANE = ("default", "/v1/chat/completions", MODEL)


@pytest.fixture
def harness(databases: Databases) -> Iterator[Harness]:
    url = databases.create()
    connections = engine.create(url, pool_size=4)
    yield Harness(engine.database(connections))
    connections.dispose()
    databases.drop(url)


def said(harness: Harness, *jobs: UUID) -> dict[UUID, Forecast | NoForecast]:
    with harness.db.begin() as session:
        return of_jobs(session, jobs)


def code(harness: Harness, job: UUID) -> str | None:
    found = said(harness, job).get(job)
    return found.code if isinstance(found, NoForecast) else None


def history(harness: Harness, jobs: int, minutes: float = 10) -> None:
    """Jobs of three requests that have ended, each of which took up to so many minutes."""
    harness.run(f"""
        INSERT INTO haulier.forecasts (account, endpoint, model, requests, ahead, since, look_at,
          ended_at)
        SELECT '{LANE[0]}', '{LANE[1]}', '{LANE[2]}', 3, 0, at, at,
          at + n * interval '{minutes * 60 / jobs} s'
        FROM generate_series(1, {jobs}) n, LATERAL (SELECT now() - interval '1 day' AS at) begun
    """)


def age(harness: Harness, minutes: float) -> None:
    """As if so much time had passed since everything was forecast."""
    past = f"interval '{minutes * 60} s'"
    harness.run(f"""
        UPDATE haulier.forecasts SET since = since - {past}, p50 = p50 - {past}, p90 = p90 - {past},
          look_at = look_at - {past}, said_p90 = said_p90 - {past}, half_at = half_at - {past},
          half_p90 = half_p90 - {past}
        WHERE job_id IS NOT NULL
    """)


def finish(harness: Harness, job: UUID, most: int | None = None) -> None:
    """Settle the parts of a job, of three requests each, or so many of them."""
    harness.let_in()
    for batch in harness.open_batches(job)[:most]:
        for state in (BatchState.UPLOADED, BatchState.CREATED, BatchState.ENDED):
            harness.advance(batch, state)
        harness.settle(batch, settlement(3))
    if most is None:
        harness.end(job)


def test_a_job_is_forecast_once_its_lane_has_a_history(harness: Harness) -> None:
    job = harness.submitted(3)
    assert code(harness, job) == "not_yet"
    look(harness.db)
    assert code(harness, job) == "history"

    history(harness, 4 * LEAST)
    age(harness, 0.1)
    look(harness.db)

    found, now = said(harness, job)[job], clock(harness.db)
    assert isinstance(found, Forecast)
    assert timedelta(minutes=3) < found.p50 - now < timedelta(minutes=7)
    assert timedelta(minutes=7) < found.p90 - now <= timedelta(minutes=10)
    with harness.db.begin() as session:
        assert of_lanes(session) == {LANE: found}


def test_a_job_that_is_not_to_begin_yet_takes_its_time_from_then_on(harness: Harness) -> None:
    history(harness, 4 * LEAST)
    job = harness.submitted(3)
    harness.run("UPDATE haulier.parts SET ready_at = now() + interval '1 h'")
    look(harness.db)
    found = said(harness, job)[job]
    assert isinstance(found, Forecast)
    assert timedelta(minutes=62) < found.p50 - clock(harness.db) < timedelta(minutes=67)


def test_what_has_passed_moves_on_and_what_lasts_too_long_says_so(harness: Harness) -> None:
    history(harness, 4 * LEAST)
    job = harness.submitted(3)
    look(harness.db)

    age(harness, 6)
    now, stale = clock(harness.db), said(harness, job)[job]
    look(harness.db)
    fresh = said(harness, job)[job]
    assert isinstance(stale, Forecast)
    assert isinstance(fresh, Forecast)
    for found in (stale, fresh):
        assert now < found.p50 <= found.p90
    assert fresh.p50 - now > timedelta(minutes=1)

    age(harness, 6)
    look(harness.db)
    assert code(harness, job) == "overdue"


def test_what_came_true_is_counted_at_submission_and_at_half_time(harness: Harness) -> None:
    history(harness, 4 * LEAST)
    early, late, gone = (harness.submitted(3) for _ in range(3))
    look(harness.db)
    finish(harness, early)
    look(harness.db)
    age(harness, 4)
    look(harness.db)  # half time
    age(harness, 20)
    finish(harness, late)
    harness.run(f"DELETE FROM haulier.jobs WHERE id = '{gone}'")
    look(harness.db)

    with harness.db.begin() as session:
        counted = session.get_one(Coverage, LANE)
    assert (counted.ended, counted.in_time) == (2, 1)
    assert (counted.half_ended, counted.half_in_time) == (1, 0)
    assert counted.stretch > 1 < counted.half_stretch
    assert said(harness, early, late, gone) == {}

    # What a lane has learned stays when its jobs are forgotten, up to a bound.
    kept = "SELECT count(*) FROM haulier.forecasts WHERE ended_at IS NOT NULL"
    assert harness.rows(kept)[0] == 4 * LEAST + 2
    assert prune_jobs(harness.db, older_than=timedelta(0), limit=10) == 2
    assert harness.rows(kept)[0] == 4 * LEAST + 2
    history(harness, KEPT)
    finish(harness, job := harness.submitted(3))
    look(harness.db)
    assert harness.rows(kept)[0] <= KEPT + 4 * LEAST + 2
    assert said(harness, job) == {}


def test_what_has_no_end_in_sight_has_no_forecast_and_says_why(harness: Harness) -> None:
    history(harness, 4 * LEAST)
    travels = harness.submitted(3)
    harness.let_in()
    waits = harness.submitted(3)
    look(harness.db)
    lane = "INSERT INTO haulier.lanes (account, endpoint, model) VALUES ('{}', '{}', '{}')"
    harness.run(lane.format(*LANE))
    account = (
        "UPDATE haulier.accounts SET blocked_since = {}, paused_until = now() + interval '1 min'"
    )
    for on, off, stopped, both in (
        ("lanes SET paused_at = now()", "lanes SET paused_at = NULL", "lane_paused", False),
        ("lanes SET state = 'resting'", "lanes SET state = 'healthy'", "lane_resting", False),
        (
            "producers SET short_until = now() + interval '1 min'",
            "producers SET short_until = NULL",
            "budget",
            False,
        ),
        ("jobs SET short_reason = 'x'", "jobs SET short_reason = NULL", "max_cost", False),
        ("jobs SET held_at = now()", "jobs SET held_at = NULL", "held", True),
        ("jobs SET parked_at = now()", "jobs SET parked_at = NULL", "parked", True),
    ):
        harness.run(f"UPDATE haulier.{on}")
        assert (code(harness, waits), code(harness, travels)) == (
            stopped,
            stopped if both else None,
        )
        harness.run(f"UPDATE haulier.{off}")
    harness.run("INSERT INTO haulier.accounts (name) VALUES ('default') ON CONFLICT DO NOTHING")
    harness.run(account.format("now()"))
    assert code(harness, waits) == code(harness, travels) == "account_paused"
    harness.run(account.format("NULL"))
    harness.run("UPDATE haulier.batches SET parked_at = now()")
    assert (code(harness, waits), code(harness, travels)) == (None, "parked")


def test_a_job_over_several_lanes_ends_with_the_last(harness: Harness) -> None:
    history(harness, 4 * LEAST)
    job = harness.submitted(3)
    look(harness.db)
    harness.run("""
        INSERT INTO haulier.forecasts (job_id, account, endpoint, model, requests, ahead, since,
          p50, p90, basis, look_at)
        SELECT job_id, account, endpoint, 'slow', 3, 0, since, p90 + interval '1 h',
          p90 + interval '2 h', 20, look_at FROM haulier.forecasts WHERE job_id IS NOT NULL
    """)
    found = said(harness, job)[job]
    assert isinstance(found, Forecast)
    assert found.p50 - clock(harness.db) > timedelta(hours=1)
    assert found.basis == 20
