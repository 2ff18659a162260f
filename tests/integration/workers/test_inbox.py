"""The inbox: a page of messages becomes jobs, whatever stands on it."""

import json
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID, uuid4, uuid5

import pytest
import redis
from celery import Celery
from pydantic import SecretStr

from config.settings import Account, Settings
from service.payloads.bundles import BUNDLE_BYTES, take_in_together
from service.rules.spec import SPEC_BYTES, Spec
from service.rules.states import JobState
from service.store import engine, jobs
from service.store.engine import Database
from service.store.models import Job
from service.store.producers import add_producer, producer
from tests.pipeline import chat
from workers import messages
from workers.inbox import Inbox
from workers.messages import body_of, job_id_of


class WatchedInbox(Inbox):
    """Keeps the sizes of its pages, and ends after so many messages."""

    def __init__(self, settings: Settings, messages: int) -> None:
        super().__init__(settings)
        self.sizes: list[list[int]] = []
        self._left = messages

    def store(self, page: list[Any]) -> None:
        super().store(page)
        self.sizes.append([len(body_of(message)) for message in page])
        self._left -= len(page)
        if self._left <= 0:
            self._stop.set()

    def read_all(self) -> None:
        """As `run` does, but in a test's thread."""
        try:
            while not self._stop.is_set():
                self._consume()
        finally:
            self._db.kw["bind"].dispose()


@pytest.fixture
def settings(database_url: str, redis_url: str, blob_url: str) -> Settings:
    return Settings.model_validate(
        {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "blob_url": blob_url}
    )


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    made = engine.create(database_url)
    yield engine.database(made)
    made.dispose()


def send(redis_url: str, *specs: dict[str, Any]) -> list[UUID]:
    """Submit specs in this order, before anybody reads."""
    with Celery("producer", broker=redis_url) as producer:
        return [
            UUID(
                producer.send_task(
                    "haulier.submit", kwargs={"spec": spec}, queue="haulier.submit"
                ).id
            )
            for spec in specs
        ]


def found(db: Database, job_id: UUID) -> Job:
    job = jobs.job(db, job_id, None)
    assert job is not None
    return job


def test_a_page_of_messages_holds_good_bad_big_and_conflicting_ones(
    settings: Settings, redis_url: str, db: Database
) -> None:
    small = [chat(f"r{number}") for number in range(10)]
    big = chat("big", metadata={})
    big["requests"][0]["body"]["messages"][0]["content"] = "x" * 100_000
    page = [
        *small,
        chat("twice", "twice"),
        big,
        chat("a", idempotency_key="k"),
        chat("b", idempotency_key="k"),
        chat("a", idempotency_key="l"),
        chat("a", idempotency_key="l"),
    ]
    ids = send(redis_url, *page)

    inbox = WatchedInbox(settings, len(page))
    inbox.read_all()

    stored = {job.id: job for job in jobs.jobs(db, producer=None, limit=100)}
    shared = {stored[job_id].bundle_blob for job_id in ids[:10]}
    assert None not in shared
    assert len(shared) <= len(inbox.sizes)
    bad, large, *keyed = ids[10:]
    assert stored[bad].state is JobState.REJECTED
    assert stored[bad].problems == [{"line": 2, "message": "custom_id 'twice' was used before"}]
    assert (stored[large].state, stored[large].bundle_blob) == (JobState.ACCEPTED, None)
    first, second = (stored[job_id] for job_id in keyed[:2])
    assert {first.state, second.state} == {JobState.ACCEPTED, JobState.REJECTED}
    assert "with other content" in f"{first.error} {second.error}"
    assert len([job_id for job_id in keyed[2:] if job_id in stored]) == 1
    with redis.Redis.from_url(redis_url) as broker:
        assert (broker.llen("haulier.submit"), broker.hlen("unacked")) == (0, 0)


def test_a_page_of_big_messages_is_bounded_by_their_bytes(
    settings: Settings, redis_url: str, db: Database
) -> None:
    spec = chat("a")
    spec["requests"][0]["body"]["messages"][0]["content"] = "x" * 3_000_000
    ids = send(redis_url, *[spec] * 8)

    inbox = WatchedInbox(settings, len(ids))
    inbox.read_all()

    assert sum(map(len, inbox.sizes)) == 8
    assert max(map(sum, inbox.sizes)) < BUNDLE_BYTES + 3_100_000
    assert BUNDLE_BYTES < SPEC_BYTES
    assert {found(db, job_id).state for job_id in ids} == {JobState.ACCEPTED}


def test_a_message_that_cannot_be_unpacked_is_rejected_and_holds_up_nobody(
    settings: Settings, redis_url: str, db: Database
) -> None:
    with Celery("producer", broker=redis_url) as producer:
        spoilt = producer.send_task(
            "haulier.submit", kwargs={"spec": chat("a")}, queue="haulier.submit", compression="zlib"
        )
    with redis.Redis.from_url(redis_url) as broker:
        message = broker.rpop("haulier.submit")
        assert isinstance(message, bytes)
        broker.lpush("haulier.submit", message.replace(b"application/x-gzip", b"application/odd"))
    (other,) = send(redis_url, chat("b"))

    WatchedInbox(settings, 2).read_all()

    assert found(db, other).state is JobState.ACCEPTED
    assert found(db, UUID(spoilt.id)).state is JobState.REJECTED


def test_a_message_that_unpacks_to_gigabytes_is_rejected_unread(
    settings: Settings, redis_url: str, db: Database
) -> None:
    with Celery("producer", broker=redis_url) as producer:
        bomb = {**chat("a"), "metadata": {"padding": " " * 2 * messages.UNPACKED_BYTES}}
        sent = [
            UUID(
                producer.send_task(
                    "haulier.submit", kwargs={"spec": spec}, queue="haulier.submit", compression=how
                ).id
            )
            for spec, how in ((bomb, "gzip"), (chat("b"), "bzip2"), (chat("c"), "zstd"))
        ]
    WatchedInbox(settings, messages=3).read_all()

    states = [found(db, job_id).state for job_id in sent]
    assert states == [JobState.REJECTED, JobState.ACCEPTED, JobState.REJECTED]


@pytest.mark.parametrize("body", ["\ud800", 5, {"a": 1}, None])
def test_a_body_that_is_none_holds_up_nobody(
    settings: Settings, redis_url: str, db: Database, body: object
) -> None:
    (good,) = send(redis_url, chat("a"))
    with redis.Redis.from_url(redis_url) as client:
        raw = json.loads(client.lindex("haulier.submit", 0))
        raw |= {"body": body, "headers": {**raw["headers"], "id": str(uuid4())}}
        del raw["properties"]["body_encoding"]
        client.lpush("haulier.submit", json.dumps(raw))
    WatchedInbox(settings, messages=2).read_all()

    assert found(db, good).state is JobState.ACCEPTED
    assert found(db, UUID(raw["headers"]["id"])).state is JobState.REJECTED


def test_a_message_that_spoils_its_page_is_rejected_by_itself(
    settings: Settings, redis_url: str, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad, other = send(redis_url, chat("a"), chat("bug"), chat("c"))

    def broken(specs: Sequence[tuple[UUID, Spec]], *parts: Any) -> list[Any]:
        if bad in dict(specs):
            raise ZeroDivisionError
        return list(take_in_together(specs, *parts))

    monkeypatch.setattr("workers.inbox.take_in_together", broken)
    WatchedInbox(settings, 3).read_all()

    assert {found(db, job_id).state for job_id in (good, other)} == {JobState.ACCEPTED}
    assert found(db, bad).state is JobState.REJECTED


def test_messages_with_strange_headers_do_not_hold_up_the_others(
    settings: Settings, redis_url: str, db: Database
) -> None:
    values = ["half a \ud800 pair", "a NUL \x00", "x" * 1000, 17]
    with Celery("producer", broker=redis_url) as producer:
        for header in ("haulier-producer", "id"):
            for value in values:
                producer.send_task(
                    "haulier.submit",
                    kwargs={"spec": chat("a")},
                    queue="haulier.submit",
                    headers={header: value},
                )
    (other,) = send(redis_url, chat("b"))

    WatchedInbox(settings, 9).read_all()

    assert found(db, other).state is JobState.ACCEPTED
    assert len(jobs.jobs(db, producer=None, limit=10)) == 9


def send_as(
    redis_url: str,
    producer: str,
    *specs: dict[str, Any],
    task_id: str | None = None,
    **headers: str,
) -> list[UUID]:
    """Submit specs in a producer's name."""
    with Celery("producer", broker=redis_url) as app:
        return [
            job_id_of(
                app.send_task(
                    "haulier.submit",
                    task_id=task_id,
                    kwargs={"spec": spec},
                    queue="haulier.submit",
                    headers={"haulier-producer": producer, **headers},
                ).id
            )
            for spec in specs
        ]


def test_a_producer_may_use_on_the_queue_what_its_row_says(
    settings: Settings, redis_url: str, db: Database
) -> None:
    settings = settings.model_copy(
        update={"accounts": {"research": Account(api_key=SecretStr("k"))}}
    )
    add_producer(db, "lab", accounts=["research"])
    spec = chat("a", account="research")
    (lab,) = send_as(redis_url, "lab", spec)
    (elsewhere,) = send_as(redis_url, "lab", chat("a"))
    (nobody,) = send_as(redis_url, "unheard-of", spec)
    (operator,) = send(redis_url, spec)

    WatchedInbox(settings, 4).read_all()

    assert found(db, lab).state is found(db, operator).state is JobState.ACCEPTED
    for job_id, name in ((elsewhere, "lab"), (nobody, "unheard-of")):
        refused = found(db, job_id)
        assert (refused.state, refused.producer) == (JobState.REJECTED, name)
        assert "is not yours" in str(refused.error)


def test_what_is_over_a_limit_is_rejected_by_itself(
    settings: Settings, redis_url: str, db: Database
) -> None:
    add_producer(db, "small", requests_per_day=3, body_bytes=2_000)
    first, second = send_as(redis_url, "small", chat("a", "b"), chat("a", "b"))
    (huge,) = send_as(redis_url, "small", chat("a", metadata={"x": "y" * 2_000}))
    (last,) = send_as(redis_url, "small", chat("z"))
    (other,) = send(redis_url, chat("a", "b"))

    WatchedInbox(settings, 5).read_all()

    jobs_found = [found(db, job_id) for job_id in (first, second, huge, last, other)]
    assert [job.state for job in jobs_found].count(JobState.ACCEPTED) == 3
    assert found(db, huge).state is JobState.REJECTED
    assert "2,000 bytes" in str(found(db, huge).error)
    (over,) = [job for job in jobs_found[:2] if job.state is JobState.REJECTED]
    assert "3 requests a day" in str(over.error)
    assert over.producer == "small"
    row = producer(db, "small")
    assert row is not None
    assert row.counted_requests == 3


def test_a_repeated_key_finds_its_job_though_its_producer_is_at_its_limit(
    settings: Settings, redis_url: str, db: Database
) -> None:
    add_producer(db, "small", requests_per_day=1)
    send_as(redis_url, "small", *[chat("a", idempotency_key="k")] * 10)

    WatchedInbox(settings, 10).read_all()

    (job,) = jobs.jobs(db, producer="small", limit=100)
    assert job.state is JobState.ACCEPTED


@pytest.mark.parametrize("pages", [1, 2], ids=["on-one-page", "on-two-pages"])
def test_two_producers_with_one_task_id_have_a_job_each_however_often_they_come(
    settings: Settings, redis_url: str, db: Database, pages: int
) -> None:
    big = chat("b")
    big["requests"][0]["body"]["messages"][0]["content"] = "x" * 100_000
    twice = {"lab": chat("a", "a"), "shop": chat("c"), "bank": big}
    add_producer(db, "shop", requests_per_day=1)
    for names in ([*twice], [*reversed(twice)], [*twice]):
        for name in names:
            (job_id,) = send_as(redis_url, name, twice[name], task_id="nightly")
            if pages == 2:
                WatchedInbox(settings, 1).read_all()
        if pages == 1:
            WatchedInbox(settings, 3).read_all()

    made = {job.producer: job for job in jobs.jobs(db, producer=None, limit=100)}
    assert len(jobs.jobs(db, producer=None, limit=100)) == len(made) == 3
    assert {name: job.state for name, job in made.items()} == {
        "lab": JobState.REJECTED,
        "shop": JobState.ACCEPTED,
        "bank": JobState.ACCEPTED,
    }
    others = {job.id for job in made.values()} - {job_id}
    assert others <= {uuid5(job_id, name) for name in made}
    (planned,) = made["bank"].plan or []
    assert planned["input_blob"].startswith(f"jobs/{made['bank'].id}/")
    row = producer(db, "shop")
    assert row is not None
    assert row.counted_requests == 1
