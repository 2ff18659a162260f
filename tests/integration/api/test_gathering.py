"""Group commit: what is submitted at once is stored at once, and each still gets its own answer."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from config.settings import Settings
from service.api.gathering import Accepted, Gathering
from service.api.turns import Turns
from service.payloads.blobs import Blobs
from service.payloads.bundles import BUNDLE_SPECS
from service.rules.errors import BadInput, Conflict
from service.store import engine
from service.store.submit import Submission
from tests.api import Api, chat, problem
from tests.factories import Harness, spec


@pytest.fixture
def harness(database_url: str) -> Iterator[Harness]:
    made = engine.create(database_url, pool_size=2)
    yield Harness(engine.database(made))
    made.dispose()


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs((tmp_path / "blobs").as_uri())


def submission(*custom_ids: str, producer: str = "default", key: str | None = None) -> Submission:
    asked = spec(*custom_ids, idempotency_key=key)
    return Submission(id=uuid4(), producer=producer, spec=asked)


def at_once(
    harness: Harness, blobs: Blobs, submissions: list[Submission]
) -> list[Accepted | BaseException]:
    """The answers to submissions that all arrive before the first of them is stored."""

    async def submit_all() -> list[Accepted | BaseException]:
        gathering = Gathering(harness.db, blobs, Settings(), Turns())
        asked = [gathering.submit(one) for one in submissions]
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(submit_all())


def test_fifty_at_once_with_a_bad_one_are_one_page_and_one_transaction(
    harness: Harness, blobs: Blobs
) -> None:
    submissions = [submission(f"r{n}") for n in range(50)]
    submissions[7] = submission("twice", "twice")

    answers = at_once(harness, blobs, submissions)

    assert isinstance(answers.pop(7), BadInput)
    jobs = [answer.job for answer in answers if isinstance(answer, Accepted) and answer.new]
    assert [job.id for job in jobs] == [s.id for n, s in enumerate(submissions) if n != 7]
    assert len({job.bundle_blob for job in jobs}) == 1
    assert len(harness.rows("SELECT DISTINCT xmin::text FROM haulier.jobs")) == 1
    assert len(harness.rows("SELECT id FROM haulier.events")) == 49


def test_more_than_a_page_is_stored_in_several(harness: Harness, blobs: Blobs) -> None:
    answers = at_once(harness, blobs, [submission("a") for _ in range(BUNDLE_SPECS + 1)])

    assert all(isinstance(answer, Accepted) and answer.new for answer in answers)
    assert len(harness.rows("SELECT DISTINCT page_blob FROM haulier.jobs")) == 2


def test_one_key_within_a_page_makes_one_job(harness: Harness, blobs: Blobs) -> None:
    same = [submission("a", key="k") for _ in range(50)]

    answers = at_once(harness, blobs, [submission("x"), *same, submission("y")])

    accepted = [answer for answer in answers if isinstance(answer, Accepted)]
    assert len(accepted) == 52
    assert len({one.job.id for one in accepted[1:-1]}) == 1
    assert [one.new for one in accepted].count(True) == 3


def test_one_key_with_other_content_within_a_page_is_refused_alone(
    harness: Harness, blobs: Blobs
) -> None:
    page = [submission("a", key="k"), submission("x"), submission("b", key="k"), submission("y")]

    first, x, second, y = at_once(harness, blobs, page)

    assert isinstance(x, Accepted)
    assert isinstance(y, Accepted)
    winner, loser = (first, second) if isinstance(first, Accepted) else (second, first)
    assert isinstance(winner, Accepted)
    assert isinstance(loser, Conflict)
    assert f"was used for job {winner.job.id} with other content" in str(loser)
    assert len(harness.rows("SELECT id FROM haulier.jobs")) == 3


def test_one_that_postgres_refuses_does_not_take_the_others_with_it(
    harness: Harness, blobs: Blobs
) -> None:
    page = [submission("a"), submission("b", producer="no\x00thing"), submission("c")]

    answers = at_once(harness, blobs, page)

    assert [isinstance(answer, Accepted) for answer in answers] == [True, False, True]
    assert isinstance(answers[1], Exception)
    assert len(harness.rows("SELECT id FROM haulier.jobs")) == 2


def test_whoever_gives_up_takes_nobody_along(harness: Harness, blobs: Blobs) -> None:
    page = [submission("a"), submission("b"), submission("c")]

    async def with_one_given_up() -> list[Accepted | BaseException]:
        gathering = Gathering(harness.db, blobs, Settings(), Turns())
        tasks = [asyncio.create_task(gathering.submit(one)) for one in page]
        await asyncio.sleep(0)
        tasks[1].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        late = await gathering.submit(submission("d"))
        return [*answers, late]

    first, given_up, third, late = asyncio.run(with_one_given_up())

    assert isinstance(given_up, asyncio.CancelledError)
    assert isinstance(first, Accepted)
    assert isinstance(third, Accepted)
    assert isinstance(late, Accepted)
    # It may have been promised to its producer, so it is there.
    assert len(harness.rows("SELECT id FROM haulier.jobs")) == 4


def test_storage_that_fails_is_answered_to_everybody_and_stores_nothing(
    api: Api, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "blobs" / "pages"
    in_the_way.write_bytes(b"")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.http.post("/v1/jobs", json=chat("a")), range(24)))

    for answer in answers:
        assert problem(answer, 503)["type"] == "urn:haulier:problem:storage-unavailable"
    assert api.http.get("/v1/jobs").json()["data"] == []
    in_the_way.unlink()
    assert api.http.post("/v1/jobs", json=chat("a")).status_code == 201
