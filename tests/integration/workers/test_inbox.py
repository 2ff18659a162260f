"""The inbox: a page of messages becomes jobs, whatever stands on it."""

import base64
import gzip
import json
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4, uuid5

import psycopg
import pytest
import redis
from celery import Celery
from kombu import Consumer, Queue
from pydantic import SecretStr

from config.settings import Account, Settings
from service.payloads.bundles import BUNDLE_BYTES, take_in_together
from service.rules.admission import Capacity
from service.rules.packing import Limits
from service.rules.spec import SPEC_BYTES, Spec
from service.rules.states import JobState
from service.store import engine, jobs
from service.store.admit import Admission
from service.store.engine import Database
from service.store.gauges import gauges
from service.store.models import Job
from service.store.producers import add_producer, disable, producer
from service.store.waiting import why
from tests.eventually import eventually
from tests.pipeline import chat
from workers.envelopes import UNPACKED_BYTES
from workers.inbox import Inbox
from workers.messages import job_id_of, open_message
from workers.submit_queue import DEAD, HELD, INBOXES, SubmitQueue


class WatchedInbox(Inbox):
    """Keeps the sizes of its pages, and ends after so many messages."""

    def __init__(self, settings: Settings, messages: int) -> None:
        super().__init__(settings)
        self.sizes: list[list[int]] = []
        self._left = messages

    def store(self, page: Sequence[bytes]) -> int:
        held = super().store(page)
        self.sizes.append([len(message) for message in page])
        self._left -= len(page) - held
        if self._left <= 0:
            self._stop.set()
        return held

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
    assert (stored[large].state, stored[large].bundle_blob) == (JobState.RUNNING, None)
    first, second = (stored[job_id] for job_id in keyed[:2])
    assert {first.state, second.state} == {JobState.RUNNING, JobState.REJECTED}
    assert "with other content" in f"{first.error} {second.error}"
    assert len([job_id for job_id in keyed[2:] if job_id in stored]) == 1
    with redis.Redis.from_url(redis_url) as broker:
        assert broker.keys("haulier.*") == []


def test_messages_of_a_disabled_producer_become_rejected_jobs(
    settings: Settings, redis_url: str, db: Database
) -> None:
    add_producer(db, "billing")
    disable(db, "billing")
    with Celery("producer", broker=redis_url) as sender:
        sent = sender.send_task(
            "haulier.submit",
            kwargs={"spec": chat("a", idempotency_key="k")},
            queue="haulier.submit",
            headers={"haulier-producer": "billing"},
        )
    (other,) = send(redis_url, chat("b"))

    WatchedInbox(settings, 2).read_all()

    job = found(db, UUID(sent.id))
    assert (job.state, job.producer, job.idempotency_key) == (JobState.REJECTED, "billing", None)
    assert "'billing' is disabled" in (job.error or "")
    assert found(db, other).state is JobState.RUNNING


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
    assert {found(db, job_id).state for job_id in ids} == {JobState.RUNNING}


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

    assert found(db, other).state is JobState.RUNNING
    assert found(db, UUID(spoilt.id)).state is JobState.REJECTED


def test_a_message_that_unpacks_to_gigabytes_is_rejected_unread(
    settings: Settings, redis_url: str, db: Database
) -> None:
    with Celery("producer", broker=redis_url) as producer:
        bomb = {**chat("a"), "metadata": {"padding": " " * 2 * UNPACKED_BYTES}}
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
    assert states == [JobState.REJECTED, JobState.RUNNING, JobState.RUNNING]


NONSENSE = [
    b"",
    b"{",
    b"\xff\xfe",
    b"null",
    b"7",
    b'"text"',
    b"[]",
    b"{}",
    b"[" * 100_000,
    b'{"body": "e30="}',
    b'{"headers": null, "properties": null, "body": null}',
    b'{"headers": [], "properties": "x", "body": 5}',
    b'{"headers": {"id": []}, "properties": {"correlation_id": {}}}',
    b'{"headers": {"id": ""}, "body": "", "content-type": "application/json"}',
    b'{"headers": {"id": false}}',
    b"1" * 5_000,
    pickle.dumps({"task": "haulier.submit"}),
]
"""Whatever else may stand in a list of Redis: without an id, nobody can be told."""


def test_what_is_no_message_is_set_aside_and_counted(
    settings: Settings, redis_url: str, db: Database
) -> None:
    with redis.Redis.from_url(redis_url) as broker:
        for raw in NONSENSE:
            (before,) = send(redis_url, chat("a"))
            broker.lpush("haulier.submit", raw)
            (after,) = send(redis_url, chat("b"))
            WatchedInbox(settings, 3).read_all()

            assert {found(db, id_).state for id_ in (before, after)} == {JobState.RUNNING}, raw
            assert broker.lindex("haulier.inbox.unreadable", 0) == raw[: 64 * 1024]
            assert broker.keys("haulier.*") == [b"haulier.inbox.unreadable"], raw
        assert broker.llen("haulier.inbox.unreadable") == len(NONSENSE)
    assert gauges(db).counters["messages_set_aside"] == len(NONSENSE)


def test_little_of_what_is_set_aside_is_kept(
    settings: Settings, redis_url: str, db: Database
) -> None:
    with redis.Redis.from_url(redis_url) as broker:
        for _ in range(3):
            broker.lpush("haulier.submit", *[b"x"] * 500)
        broker.lpush("haulier.submit", b"y" * 1_000_000)
        WatchedInbox(settings, 1_501).read_all()
        assert broker.llen("haulier.inbox.unreadable") == 1_000
        newest = broker.lindex("haulier.inbox.unreadable", 0)
        assert newest == b"y" * 64 * 1024
    assert gauges(db).counters["messages_set_aside"] == 1_501


HARMLESS: list[Callable[[dict[str, Any]], object]] = [
    lambda raw: raw.pop("properties"),
    lambda raw: raw.update(properties=[]),
    lambda raw: raw["properties"].update(delivery_info=None, delivery_tag=[]),
    lambda raw: raw.pop("content-type"),
]
SPOILED: list[Callable[[dict[str, Any]], object]] = [
    lambda raw: raw["properties"].update(body_encoding="rot13"),
    lambda raw: raw["properties"].update(body_encoding=["base64"]),
    lambda raw: raw.update(body="no base64!"),
    lambda raw: raw.update(body="é"),
    lambda raw: raw.update(body=base64.b64encode(b"\xff{").decode()),
    lambda raw: raw.update(body=base64.b64encode(b"[" * 50_000).decode()),
    lambda raw: raw.update(body=base64.b64encode(b"[[], {}]").decode()),
    lambda raw: raw.update(body=base64.b64encode(b'[[], {"spec": 1}, null]').decode()),
    lambda raw: raw.update(body=base64.b64encode(b'[[1], {"spec": {}}, null]').decode()),
    lambda raw: raw.update(body=base64.b64encode(b'{"kwargs": 7}').decode()),
    lambda raw: raw.pop("body"),
    lambda raw: raw.update({"content-type": "application/x-python-serialize"}),
    lambda raw: raw.update({"content-type": {"a": 1}}),
    lambda raw: raw["headers"].update(compression="application/x-gzip"),
    lambda raw: raw["headers"].update(compression=["x"]),
    lambda raw: raw["headers"].update(compression="application/zstd"),
]


def test_a_spoiled_message_with_an_id_is_a_rejected_job(
    settings: Settings, redis_url: str, db: Database
) -> None:
    """Except where what is spoiled does not matter: then it is a job like any other."""
    for spoil in SPOILED + HARMLESS:
        (spoiled,) = send(redis_url, chat("a"))
        with redis.Redis.from_url(redis_url) as broker:
            raw = json.loads(broker.rpop("haulier.submit") or b"")
            spoil(raw)
            broker.lpush("haulier.submit", json.dumps(raw))
            (good,) = send(redis_url, chat("b"))
            WatchedInbox(settings, 2).read_all()
            assert broker.keys("haulier.*") == [], raw
        assert found(db, good).state is JobState.RUNNING, raw
        assert (found(db, spoiled).state is JobState.RUNNING) is (spoil in HARMLESS), raw


def test_messages_as_other_clients_write_them_are_read(
    settings: Settings, redis_url: str, db: Database
) -> None:
    """Protocol 1, priorities in ten steps, gzip's own frame, a charset."""
    spec = chat("a")
    sent: dict[str, Any] = {
        "name": "haulier.submit",
        "kwargs": {"spec": spec},
        "queue": "haulier.submit",
    }
    options = {"priority_steps": list(range(10)), "queue_order_strategy": "priority"}
    with Celery("old", broker=redis_url, task_protocol=1) as producer:
        ids = [producer.send_task(**sent).id]
    with Celery("steps", broker=redis_url, broker_transport_options=options) as producer:
        ids += [producer.send_task(**sent, priority=priority).id for priority in range(10)]
    body = gzip.compress(json.dumps([[], {"spec": spec}, {}]).encode())
    by_hand = {
        "body": base64.b64encode(body).decode(),
        "content-type": "application/json; charset=utf-8",
        "headers": {"id": "by-hand", "compression": "application/x-gzip"},
        "properties": {"body_encoding": "base64"},
    }
    with redis.Redis.from_url(redis_url) as broker:
        broker.lpush("haulier.submit", json.dumps(by_hand))
        WatchedInbox(settings, 12).read_all()
        assert broker.keys("haulier.submit*") == []
    states = {found(db, job_id_of(task_id)).state for task_id in (*ids, "by-hand")}
    assert states == {JobState.RUNNING}


def test_what_a_dead_inbox_held_is_read_by_the_next_in_its_order(
    settings: Settings, redis_url: str, db: Database
) -> None:
    ids = send(redis_url, *[chat(f"r{number}") for number in range(3)])
    dead = SubmitQueue(redis_url)
    taken = dead.take(2, 10**6, wait=0)
    assert [open_message(raw).job_id for raw in taken] == ids[:2]
    assert SubmitQueue(redis_url).give_back() == 0
    with redis.Redis.from_url(redis_url) as broker:
        for name in broker.zrange(INBOXES, 0, -1):
            broker.zincrby(INBOXES, -DEAD - 1, name)
        successor = SubmitQueue(redis_url)
        assert successor.give_back() == 2
        assert [open_message(raw).job_id for raw in successor.take(9, 10**6, wait=0)] == ids
        successor.leave()
        # It was only frozen: what it has is stored by now, and it deletes nothing else.
        dead.done()
        assert broker.llen("haulier.submit") == 3
    WatchedInbox(settings, 3).read_all()
    assert {found(db, job_id).state for job_id in ids} == {JobState.RUNNING}


def test_a_held_key_makes_its_own_message_wait_and_no_other(
    settings: Settings, redis_url: str, db: Database, database_url: str
) -> None:
    with psycopg.connect(database_url) as connection:
        spec = json.dumps(chat("a", idempotency_key="held"))
        connection.execute("SELECT haulier.enqueue(%s::jsonb)", [spec])
        held = send(redis_url, *[chat("a", idempotency_key="held")] * 8)
        others = send_as(redis_url, "lab", *[chat("b", idempotency_key=f"k{n}") for n in range(5)])
        free = send(redis_url, chat("c", idempotency_key="free"), chat("d"))

        inbox = WatchedInbox(settings, 15)
        reading = threading.Thread(target=inbox.read_all)
        reading.start()
        eventually(lambda: all(jobs.job(db, job_id, None) for job_id in (*others, *free)))
        with redis.Redis.from_url(redis_url) as broker:
            eventually(lambda: broker.llen(HELD) == 8)
        assert not any(jobs.job(db, job_id, None) for job_id in held)
        connection.rollback()
        reading.join(timeout=60)
    assert not reading.is_alive()
    stored = [job_id for job_id in held if jobs.job(db, job_id, None)]
    assert len(stored) == 1


def test_the_tasks_of_another_application_are_handed_out_once(
    settings: Settings, redis_url: str, db: Database
) -> None:
    """Its messages wait unacknowledged behind a long task, on the same Redis as the inbox."""
    app = Celery("other", broker=redis_url)
    for number in range(3):
        app.send_task("other.note", [number], queue="other")
    with app.connection_for_read() as connection, connection.channel() as channel:
        consumer = Consumer(channel, [Queue("other")], callbacks=[lambda *_: None], accept=["json"])
        with consumer, redis.Redis.from_url(redis_url) as broker:
            connection.drain_events(timeout=5)
            taken = broker.hlen("unacked")
            assert taken >= 1
            # As if they had been taken hours ago: whoever restores by kombu's books would act.
            for tag in broker.zrange("unacked_index", 0, -1):
                broker.zincrby("unacked_index", -7_000, tag)
            (job_id,) = send(redis_url, chat("a"))
            inbox = WatchedInbox(settings, 1)
            inbox.read_all()
            inbox._queue.give_back()
            assert broker.hlen("unacked") == taken
            assert broker.llen("other") == 3 - taken
    assert found(db, job_id).state is JobState.RUNNING
    app.close()


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

    assert found(db, good).state is JobState.RUNNING
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

    assert {found(db, job_id).state for job_id in (good, other)} == {JobState.RUNNING}
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

    assert found(db, other).state is JobState.RUNNING
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

    assert found(db, lab).state is found(db, operator).state is JobState.RUNNING
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
    assert [job.state for job in jobs_found].count(JobState.RUNNING) == 3
    assert found(db, huge).state is JobState.REJECTED
    assert "2,000 bytes" in str(found(db, huge).error)
    (over,) = [job for job in jobs_found[:2] if job.state is JobState.REJECTED]
    assert "3 requests a day" in str(over.error)
    assert over.producer == "small"
    row = producer(db, "small")
    assert row is not None
    assert row.counted_requests == 3


def test_a_deadline_that_is_past_is_a_rejected_job_with_the_reason(
    settings: Settings, redis_url: str, db: Database
) -> None:
    late, good = send(
        redis_url, chat("a", deadline="2026-11-22T12:00:00Z"), chat("b", deadline="6h")
    )

    WatchedInbox(settings, 2).read_all()

    assert found(db, late).state is JobState.REJECTED
    assert "is past" in str(found(db, late).error)
    job = found(db, good)
    assert job.deadline == job.created_at + timedelta(hours=6)


def test_a_repeated_key_finds_its_job_though_its_producer_is_at_its_limit(
    settings: Settings, redis_url: str, db: Database
) -> None:
    add_producer(db, "small", requests_per_day=1)
    send_as(redis_url, "small", *[chat("a", idempotency_key="k")] * 10)

    WatchedInbox(settings, 10).read_all()

    (job,) = jobs.jobs(db, producer="small", limit=100)
    assert job.state is JobState.RUNNING


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
        "shop": JobState.RUNNING,
        "bank": JobState.RUNNING,
    }
    others = {job.id for job in made.values()} - {job_id}
    assert others <= {uuid5(job_id, name) for name in made}
    ((part, _),) = jobs.parts(db, made["bank"].id, after=None, limit=9)
    assert part.input_blob.startswith(f"jobs/{made['bank'].id}/")
    row = producer(db, "shop")
    assert row is not None
    assert row.counted_requests == 1


def test_what_is_sent_for_later_waits_and_says_so(
    settings: Settings, redis_url: str, db: Database, tmp_path: Path
) -> None:
    (tmp_path / "input.jsonl").write_text("")
    later = {**chat("a"), "requests": None, "input": (tmp_path / "input.jsonl").as_uri()}
    queue = "haulier.submit"
    with Celery("producer", broker=redis_url) as producer:
        ids = [
            UUID(producer.send_task(queue, kwargs={"spec": spec}, queue=queue, **options).id)
            for spec, options in (
                (chat("a"), {"countdown": 3600}),
                (chat("b"), {"countdown": 3600, "expires": 7200, "priority": 9}),
                (later, {"countdown": 3600}),
                (chat("c"), {"countdown": -5}),
                (chat("d"), {"countdown": 400 * 86_400}),
                (chat("e"), {"link": producer.signature("after")}),
            )
        ]
    rooted = settings.model_copy(update={"input_roots": (tmp_path.as_uri(),)})
    WatchedInbox(rooted, len(ids)).read_all()

    def reason(job_id: UUID) -> str | None:
        found_reason = why(db, found(db, job_id), Capacity.of(rooted), Limits.of(rooted))
        return None if found_reason is None else found_reason.code

    *waiting, at_once, too_late, linked = ids
    assert {reason(job_id) for job_id in waiting} == {"not_before"}
    assert reason(at_once) != "not_before"
    assert "more than a year" in str(found(db, too_late).error)
    assert "`link`" in str(found(db, linked).error)
    admitted = Admission().admit(
        db, limit=10, capacity=Capacity.of(rooted), limits=Limits.of(rooted)
    )
    assert len(admitted) == 1
