"""Plans of forgetting and of sweeping: among many rows, each page of them is found by an index."""

import re
from collections.abc import Iterator
from datetime import timedelta
from hashlib import md5
from uuid import UUID

import pytest

from service.store import engine, leftovers, named
from service.store.models import Job
from service.store.prune import prune_jobs
from tests.factories import Harness
from tests.integration.store.test_queries import BIG, TIMES, Plans, fill
from tests.servers import Databases

FINISHED = 4000
PAGE = 20
MORE = """
UPDATE haulier.jobs SET page_blob = 'pages/' || md5(id::text)::uuid WHERE finished_at IS NOT NULL;
INSERT INTO haulier.leftovers (account, name, not_before)
  SELECT (ARRAY[NULL, 'default', 'other'])[1 + n % 3], 'n' || n, now() + (n % 2) * interval '1 h'
  FROM generate_series(1, 10 * :finished) n;
INSERT INTO haulier.deliveries (id, job_id, event, target, endpoint, delivered_at)
  SELECT md5('delivery' || n)::uuid, md5('job' || n)::uuid, 'job.completed', '{}', 'e', now()
  FROM generate_series(1, :finished) n;
"""


@pytest.fixture(scope="module")
def _filled(databases: Databases) -> Iterator[tuple[Harness, Plans]]:
    url = databases.create()
    fill(url, more=MORE, finished=FINISHED, running=100)
    made = engine.create(url)
    plans = Plans(made)
    yield Harness(engine.database(made)), plans
    made.dispose()
    databases.drop(url)


@pytest.fixture
def harness(_filled: tuple[Harness, Plans]) -> Harness:
    return _filled[0]


@pytest.fixture
def plans(_filled: tuple[Harness, Plans]) -> Plans:
    return _filled[1]


def _assert_on_an_index(found: list[str]) -> None:
    assert found, "nothing was explained"
    for plan in found:
        for table in (*BIG, "deliveries", "leftovers"):
            assert not re.search(rf"Seq Scan on (haulier\.)?{table}\b", plan), plan
        # Only the few that were found are put in order.
        assert not re.search(r"Sort Method: (?!quicksort  Memory: \d\dkB)", plan), plan
        for removed in re.findall(r"Rows Removed by (?:Filter|Index Recheck): (\d+)", plan):
            assert int(removed) <= 10 * PAGE, plan


def _jobs(first: int) -> list[UUID]:
    return [UUID(md5(f"job{n}".encode()).hexdigest()) for n in range(first, first + PAGE)]


@pytest.mark.parametrize(("hours", "expected"), [(1, PAGE), (100, 0)])
def test_forgetting_stays_on_an_index(
    harness: Harness, plans: Plans, hours: int, expected: int
) -> None:
    def work() -> None:
        assert prune_jobs(harness.db, older_than=timedelta(hours=hours), limit=PAGE) == expected

    for _ in range(TIMES):
        _assert_on_an_index(plans.of(work))


def test_what_is_left_is_found_by_an_index(harness: Harness, plans: Plans) -> None:
    def work() -> None:
        assert leftovers.owners(harness.db, ["default", "none"]) == [None, "default"]
        for account in (None, "default"):
            page = leftovers.claim(harness.db, account, limit=PAGE, claim_for=timedelta(hours=1))
            leftovers.postpone(harness.db, page[0], retry_base=timedelta(hours=1))
            leftovers.remove(harness.db, [leftover.id for leftover in page[1:]])

    for _ in range(TIMES):
        _assert_on_an_index(plans.of(work))


def test_what_is_named_is_found_by_an_index(harness: Harness, plans: Plans) -> None:
    names = [f"pages/{job_id}" for job_id in _jobs(1)] * 10

    def work() -> None:
        assert len(named.existing(harness.db, _jobs(100), Job)) == PAGE
        assert named.named(harness.db, _jobs(100), Job, ["i", "m", "b", "x"]) == {"i", "m", "b"}
        named.bundles(harness.db, names)

    for _ in range(TIMES):
        _assert_on_an_index(plans.of(work))
