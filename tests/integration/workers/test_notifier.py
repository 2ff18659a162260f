"""Notices on their way: a real notifier, real endpoints, a real queue."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from kombu import Connection
from sqlalchemy import Engine

from config.settings import Settings
from service.rules.addresses import EVERYWHERE
from service.rules.outcomes import Fail
from service.rules.permissions import Permissions
from service.rules.spec import read_spec
from service.rules.states import Stage
from service.store import engine, notices
from service.store.models import Delivery, Producer
from service.store.producers import add_producer
from service.store.submit import Submission
from tests.eventually import eventually
from tests.factories import (
    Harness,
    chat_request,
    submit,
)
from tests.processes import Processes, Running
from tests.receiver import Receiver, receiving
from workers.notifier import SHARE, SLOTS, Notifier

ALL = Permissions(notice_tasks=None, notice_queues=None, private_webhooks=EVERYWHERE)


@pytest.fixture
def connections(database_url: str) -> Iterator[Engine]:
    made = engine.create(database_url, pool_size=2)
    yield made
    made.dispose()


@pytest.fixture
def harness(connections: Engine) -> Harness:
    return Harness(engine.database(connections))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def failed_job(harness: Harness, *entries: dict[str, Any], producer: str = "default") -> UUID:
    """A job that has ended at once: the shortest way to a notice."""
    content = {"endpoint": "/v1/chat/completions", "requests": [chat_request("a")]}
    spec = read_spec(msgspec.json.encode({**content, "notify": list(entries)}), ALL)
    job_id = uuid4()
    submit(harness.db, [Submission(id=job_id, producer=producer, spec=spec)])
    harness.apply(harness.claim_job(job_id, Stage.SPLIT), Fail("no more"))
    return job_id


@contextmanager
def notifying(settings: Settings) -> Iterator[None]:
    """A notifier in a thread of this process."""
    made = Notifier(settings)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(made.deliver(stop),))
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=30)
        loop.close()
        made.close()


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    return Settings.model_validate(
        {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "webhook_allow_private": True,
            "tick_seconds": timedelta(seconds=0.1),
        }
    )


@pytest.fixture
def notifier(settings: Settings) -> Iterator[None]:
    with notifying(settings):
        yield


def started(processes: Processes, **more: str) -> Running:
    return processes.haulier("notifier", HAULIER_WEBHOOK_ALLOW_PRIVATE="true", **more)


def delivery(harness: Harness, job_id: UUID) -> Delivery:
    (found,) = notices.deliveries(harness.db, job_id, after=None, limit=10)
    return found


def delivered(harness: Harness, job_id: UUID) -> Delivery:
    eventually(lambda: delivery(harness, job_id).delivered_at)
    return delivery(harness, job_id)


def troubled(harness: Harness, job_id: UUID) -> tuple[Delivery, str]:
    """A job's notice and what is wrong with it, once something is."""
    reason = eventually(lambda: delivery(harness, job_id).last_error)
    assert reason is not None
    return delivery(harness, job_id), reason


def secret(harness: Harness) -> str:
    with harness.db.begin() as session:
        return str(session.get_one(Producer, "default").signing_secrets[0])


def test_a_webhook_arrives_signed_with_the_job_as_the_api_shows_it(
    harness: Harness, receiver: Receiver, notifier: None
) -> None:
    job_id = failed_job(harness, {"webhook": receiver.url})
    delivered(harness, job_id)

    (received,) = receiver.received
    content = received.verified(secret(harness))
    assert received.id == content["delivery"] == str(delivery(harness, job_id).id)
    assert content["event"] == "job.failed"
    assert content["job"]["id"] == str(job_id)
    assert (content["job"]["state"], content["job"]["error"]) == ("failed", "no more")
    assert received.path == "/hook"
    assert received.headers["content-type"] == "application/json"


def test_every_secret_of_the_producer_signs(
    harness: Harness, receiver: Receiver, settings: Settings
) -> None:
    old, new = "whsec_b2xkb2xkb2xkb2xkb2xkb2xk", "whsec_bmV3bmV3bmV3bmV3bmV3bmV3"
    harness.run(
        "UPDATE haulier.producers SET signing_secrets = :secrets", secrets=f'["{new}", "{old}"]'
    )
    job_id = failed_job(harness, {"webhook": receiver.url})
    with notifying(settings):
        delivered(harness, job_id)
    (received,) = receiver.received
    assert received.verified(old) == received.verified(new)


def test_a_task_arrives_on_the_producers_own_queue(
    harness: Harness, notifier: None, redis_url: str
) -> None:
    job_id = failed_job(harness, {"task": "app.job_done", "queue": "app-notices"})
    with Connection(redis_url) as connection, connection.SimpleQueue("app-notices") as queue:
        message = queue.get(timeout=30)
        message.ack()
    found = delivered(harness, job_id)
    assert message.headers["task"] == "app.job_done"
    assert message.headers["id"] == str(found.id)
    _, named, _ = message.decode()
    assert set(named) == {"event", "delivery", "job"}
    assert (named["event"], named["job"]["id"]) == ("job.failed", str(job_id))


def test_a_notifier_killed_between_send_and_commit_sends_again_with_the_same_id(
    harness: Harness, receiver: Receiver, processes: Processes
) -> None:
    job_id = failed_job(harness, {"webhook": receiver.url})
    killed = started(processes, HAULIER_CRASH_AT="notice.sent")
    assert killed.wait() < 0
    assert delivery(harness, job_id).delivered_at is None

    harness.run("UPDATE haulier.deliveries SET not_before = now(), leased_until = now()")
    started(processes)
    eventually(lambda: delivery(harness, job_id).delivered_at)
    assert receiver.ids == [str(delivery(harness, job_id).id)] * 2


def test_an_endpoint_that_never_answers_delays_no_other_ones_notices(
    harness: Harness, receiver: Receiver, settings: Settings
) -> None:
    with receiving(silent=True) as dead, notifying(settings):
        first = failed_job(harness, {"webhook": dead.url})
        harness.run(
            "INSERT INTO haulier.deliveries (id, job_id, event, target, endpoint)"
            " SELECT gen_random_uuid(), job_id, event, target, endpoint"
            " FROM haulier.deliveries, generate_series(1, 200) WHERE job_id = :id",
            id=first,
        )  # more than a notifier has slots
        eventually(lambda: len(dead.received) == notices.AT_ONCE)
        delivered(harness, failed_job(harness, {"webhook": receiver.url}))
        assert dead.at_once == dead.most_at_once == notices.AT_ONCE
        dead.release()


def repeated(harness: Harness, job_id: UUID, *, endpoints: int, each: int) -> None:
    """As if a job had told so many endpoints so many things."""
    harness.run(
        "INSERT INTO haulier.deliveries (id, job_id, event, target, endpoint)"
        " SELECT gen_random_uuid(), job_id, event, target, 'webhook 127.0.0.1:' || host"
        " FROM haulier.deliveries, generate_series(1, :endpoints) host, generate_series(1, :each)"
        " WHERE job_id = :id",
        id=job_id,
        endpoints=endpoints,
        each=each,
    )


def test_many_endpoints_that_never_answer_delay_no_other_producers_notices(
    harness: Harness, receiver: Receiver, settings: Settings
) -> None:
    with receiving(silent=True) as dead:
        repeated(harness, failed_job(harness, {"webhook": dead.url}), endpoints=20, each=50)
        assert notices.AT_ONCE * 20 > SLOTS
        with notifying(settings):
            eventually(lambda: len(dead.received) == SHARE)
            delivered(harness, failed_job(harness, {"webhook": receiver.url}, producer="other"))
            assert dead.at_once == dead.most_at_once == SHARE
            dead.release()
            delivered(harness, failed_job(harness, {"webhook": receiver.url}))


def test_an_endpoint_that_has_failed_is_tried_by_one_notice_at_a_time_after_the_others(
    harness: Harness,
) -> None:
    minute = timedelta(minutes=1)

    def claimed(limit: int = SLOTS) -> list[notices.Sending]:
        return notices.claim(harness.db, limit=limit, share=SHARE, lease_for=minute)

    first = failed_job(harness, {"webhook": "https://dead.example"})
    repeated(harness, first, endpoints=1, each=20)
    harness.run("DELETE FROM haulier.deliveries WHERE endpoint NOT LIKE '%%127.0.0.1%%'")
    tried = claimed()
    assert len(tried) == notices.AT_ONCE
    for one in tried:
        notices.failed(harness.db, one, "no answer", pause=minute, retry_for=minute)

    well = failed_job(harness, {"webhook": "https://well.example"})
    assert [one.job.id for one in claimed(limit=1)] == [well]
    (again,) = claimed()
    assert (again.job.id, claimed()) == (first, [])
    notices.delivered(harness.db, again)
    assert len(claimed()) == 1


@pytest.mark.parametrize(
    ("status", "words", "parked"),
    [(500, "500", False), (302, "redirects are not followed", False), (410, "410", True)],
)
def test_an_answer_that_is_no_success_says_what_becomes_of_the_notice(
    harness: Harness, receiver: Receiver, notifier: None, *, status: int, words: str, parked: bool
) -> None:
    receiver.status, receiver.more = status, {"location": f"{receiver.url}/elsewhere"}
    job_id = failed_job(harness, {"webhook": receiver.url})
    found, reason = troubled(harness, job_id)
    assert words in reason
    assert (found.parked_at is not None) is parked
    assert (found.lease, found.delivered_at, len(receiver.received)) == (None, None, 1)


def test_a_failure_is_tried_again_until_its_time_is_over(
    harness: Harness, receiver: Receiver, settings: Settings
) -> None:
    receiver.status = 503
    job_id = failed_job(harness, {"webhook": receiver.url})
    brief = settings.model_copy(update={"notice_retry_seconds": timedelta(milliseconds=1)})
    with notifying(brief):
        eventually(lambda: delivery(harness, job_id).parked_at)
        first = delivery(harness, job_id)
        receiver.status = 200
        assert notices.redeliver(harness.db, job_id, first.id) is not None
        delivered(harness, job_id)
    assert receiver.ids == [str(first.id)] * 2


def test_redis_away_is_tried_again_like_any_other(harness: Harness, settings: Settings) -> None:
    job_id = failed_job(harness, {"task": "app.done", "queue": "app"})
    with notifying(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})):
        found, reason = troubled(harness, job_id)
    assert "Redis" in reason
    assert found.parked_at is None


def test_a_private_address_is_refused_when_it_is_sent_too(
    harness: Harness, receiver: Receiver, settings: Settings
) -> None:
    url = receiver.url.replace("http://127.0.0.1", "https://localhost.")
    job_id = failed_job(harness, {"webhook": url})
    with notifying(settings.model_copy(update={"webhook_allow_private": False})):
        _, reason = troubled(harness, job_id)
    assert "private address" in reason
    assert receiver.received == []


def test_where_a_webhook_may_go_is_looked_up_for_each_producer_when_it_is_sent(
    harness: Harness, receiver: Receiver, settings: Settings
) -> None:
    add_producer(harness.db, "billing", private_webhooks=["127.0.0.0/8"])
    add_producer(harness.db, "other", private_webhooks=["10.0.0.0/8"])
    own = failed_job(harness, {"webhook": receiver.url}, producer="billing")
    others = failed_job(harness, {"webhook": receiver.url}, producer="other")
    with notifying(settings.model_copy(update={"webhook_allow_private": False})):
        delivered(harness, own)
        _, reason = troubled(harness, others)
    assert "private address" in reason
    assert len(receiver.received) == 1
