"""Messages that lie where nobody reads them are named."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import redis
from celery import Celery
from structlog.testing import capture_logs

from service.store import engine
from service.store.engine import Database
from service.store.gauges import gauges
from tests.pipeline import chat
from workers.submit_queue import INBOXES
from workers.unread import UnreadLists, lists_nobody_reads


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    made = engine.create(database_url)
    yield engine.database(made)
    made.dispose()


def send(url: str, options: dict[str, object], queue: str = "haulier.submit", **more: int) -> None:
    with Celery("lost", broker=url, broker_transport_options=options) as producer:
        producer.send_task("haulier.submit", kwargs={"spec": chat("a")}, queue=queue, **more)


def elsewhere(url: str) -> str:
    """Another database of the same server."""
    parts = urlsplit(url)
    return parts._replace(path=f"/{int(parts.path[1:] or 0) + 9}").geturl()


@pytest.fixture
def lost(redis_url: str) -> Iterator[dict[str, int]]:
    """The queue, read, and lists that look like it and are not. Gives those by their names."""
    other = elsewhere(redis_url)
    send(redis_url, {})
    send(redis_url, {"priority_steps": list(range(10))}, priority=7)
    send(redis_url, {"global_keyprefix": "team:"})
    send(redis_url, {"sep": ":", "queue_order_strategy": "priority"}, priority=3)
    send(redis_url, {}, queue='"haulier.submit"')
    send(redis_url, {}, queue="Haulier_Submit")
    for _ in range(2):
        send(other, {})
    with redis.Redis.from_url(redis_url) as broker:
        broker.set("haulier.submit.count", 1)
    yield {
        "team:haulier.submit": 1,
        "haulier.submit:3": 1,
        '"haulier.submit"': 1,
        "Haulier_Submit": 1,
        f"haulier.submit in database {urlsplit(other).path[1:]}": 2,
    }
    with redis.Redis.from_url(other) as broker:
        broker.flushdb()


def test_lists_that_nobody_reads_are_named_counted_and_logged(
    redis_url: str, db: Database, lost: dict[str, int]
) -> None:
    assert lists_nobody_reads(redis_url, steps=10) == lost
    unread = UnreadLists(redis_url)
    with capture_logs() as said:
        unread.look(db)
        unread.look(db)  # the same is not said again
    assert [line["lists"] for line in said] == [lost]
    assert gauges(db).counters == {"messages_nobody_reads": 6}

    # In another database there may be another Haulier.
    with redis.Redis.from_url(elsewhere(redis_url)) as other:
        other.zadd(INBOXES, {"alive": other.time()[0]})
    with redis.Redis.from_url(redis_url) as broker:
        broker.delete(*lost)
    unread.look(db)
    unread.close()
    assert gauges(db).counters == {"messages_nobody_reads": 0}
    assert lists_nobody_reads(redis_url, steps=10) == {}


def test_an_inbox_that_may_not_look_goes_on(redis_url: str, db: Database) -> None:
    with redis.Redis.from_url(redis_url) as broker:
        rights = ["on", ">word", "~*", "+@all", "-scan"]
        broker.execute_command("ACL", "SETUSER", "blind", *rights)
    parts = urlsplit(redis_url)
    blind = parts._replace(netloc=f"blind:word@{parts.hostname}:{parts.port}").geturl()
    unread = UnreadLists(blind)
    with capture_logs() as said:
        unread.look(db)
    unread.close()
    assert [line["event"] for line in said] == ["queues_not_looked_for"]
