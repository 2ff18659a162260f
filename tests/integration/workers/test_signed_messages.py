"""Signed messages, sent by a real Celery application as docs/producers.md shows it."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from celery import Celery
from standardwebhooks import Webhook

from config.settings import Settings
from service.rules.signatures import is_signed, new_secret
from service.rules.states import JobState
from service.store import engine, jobs
from service.store.engine import Database
from service.store.producers import add_producer, add_secret, producer
from tests.integration.workers.test_inbox import WatchedInbox, found
from tests.pipeline import chat

DOCUMENT = Path(__file__).parents[3] / "docs" / "producers.md"


@pytest.fixture
def settings(database_url: str, redis_url: str, blob_url: str) -> Settings:
    return Settings.model_validate(
        {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "blob_url": blob_url,
            "queue_signed": True,
        }
    )


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    made = engine.create(database_url)
    yield engine.database(made)
    made.dispose()


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    with Celery("producer", broker=redis_url) as made:
        yield made


def signed(task_id: str, spec: Any, secret: str, at: datetime | None = None) -> dict[str, str]:
    instant = at or datetime.now(UTC)
    return {
        "haulier-timestamp": str(int(instant.timestamp())),
        "haulier-signature": Webhook(secret).sign(task_id, instant, json.dumps(spec)),
    }


def send(app: Celery, spec: Any, task_id: str, **headers: str) -> UUID:
    app.send_task(
        "haulier.submit",
        task_id=task_id,
        kwargs={"spec": spec},
        queue="haulier.submit",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
    return UUID(task_id)


def strays(db: Database) -> list[Any]:
    return [job for job in jobs.jobs(db, producer="default", limit=100) if job.error]


def test_what_a_producer_signed_is_its_own(settings: Settings, app: Celery, db: Database) -> None:
    add_producer(db, "billing")
    old, new = (str(add_secret(db, "billing")) for _ in range(2))
    spec = chat("ä", metadata={"text": 'späte "Worte" 😀 \u2028', "number": 1.5e300})
    long_ago = datetime.now(UTC) - timedelta(days=400)
    ids = [str(uuid4()) for _ in range(3)]
    send(app, spec, ids[0], haulier_producer="billing", **signed(ids[0], spec, new))
    send(app, spec, ids[1], haulier_producer="billing", **signed(ids[1], spec, old, long_ago))
    both = signed(ids[2], spec, new)
    both["haulier-signature"] = f"v1,bm90aGluZw== {both['haulier-signature']} v2,x"
    send(app, spec, ids[2], haulier_producer="billing", **both)
    for _ in range(2):  # a replay
        send(app, spec, ids[0], haulier_producer="billing", **signed(ids[0], spec, new))

    WatchedInbox(settings, 5).read_all()

    stored = jobs.jobs(db, producer="billing", limit=10)
    assert {str(job.id) for job in stored} == set(ids)
    assert {job.state for job in stored} == {JobState.RUNNING}
    assert strays(db) == []


def test_what_it_did_not_sign_is_not(settings: Settings, app: Celery, db: Database) -> None:
    add_producer(db, "billing")
    add_producer(db, "other")
    add_producer(db, "bare")
    secret = str(add_secret(db, "billing"))
    others = str(add_secret(db, "other"))
    spec = chat("a")
    ids = [str(uuid4()) for _ in range(8)]
    forged = [
        {},
        signed(ids[1], chat("b"), secret),
        signed(ids[0], spec, secret),
        signed(ids[3], spec, others),
        {**signed(ids[4], spec, secret), "haulier-timestamp": "1"},
        {**signed(ids[5], spec, secret), "haulier-timestamp": "9" * 40},
        {**signed(ids[6], spec, secret), "haulier-signature": "v1,\ud800 v1, ,"},
    ]
    for task_id, headers in zip(ids, forged, strict=False):
        send(app, spec, task_id, haulier_producer="billing", **headers)
    send(app, spec, ids[7], haulier_producer="bare", **signed(ids[7], spec, secret))
    # The true message comes after the forged one with its id.
    send(app, spec, ids[1], haulier_producer="billing", **signed(ids[1], spec, secret))
    send(app, spec, str(uuid4()), haulier_producer="unheard-of")

    WatchedInbox(settings, 10).read_all()

    assert found(db, UUID(ids[1])).state is JobState.RUNNING
    assert [str(job.id) for job in jobs.jobs(db, producer="billing", limit=10)] == [ids[1]]
    refused = strays(db)
    assert len(refused) == 9
    assert {job.state for job in refused} == {JobState.REJECTED}
    assert all(any(task_id in job.error for job in refused) for task_id in ids)
    assert "HAULIER_QUEUE_SIGNED" in next(job.error for job in refused if ids[0] in job.error)
    assert secret not in str([job.error for job in refused])
    assert jobs.jobs(db, producer="unheard-of", limit=1) == []


def test_where_signing_is_no_must_a_wrong_signature_is_still_refused(
    settings: Settings, app: Celery, db: Database
) -> None:
    add_producer(db, "billing")
    add_secret(db, "billing")
    unsigned, wrong = str(uuid4()), str(uuid4())
    send(app, chat("a"), unsigned, haulier_producer="billing")
    headers = signed(wrong, chat("a"), new_secret())
    send(app, chat("a"), wrong, haulier_producer="billing", **headers)

    WatchedInbox(settings.model_copy(update={"queue_signed": False}), 2).read_all()

    assert found(db, UUID(unsigned)).producer == "billing"
    (refused,) = strays(db)
    assert refused.state is JobState.REJECTED


def test_the_documented_acl_lets_a_producer_send_and_nothing_else(redis_url: str) -> None:
    documented = re.search(r"^ACL SETUSER billing .*$", DOCUMENT.read_text(), re.MULTILINE)
    assert documented is not None
    words = documented[0].replace(">PASSWORD", ">secret")
    with redis.Redis.from_url(redis_url) as broker:
        broker.execute_command(*words.split())
        try:
            options = broker.connection_pool.connection_kwargs
            place = f"{options['host']}:{options['port']}/{options.get('db', 0)}"
            with Celery("billing", broker=f"redis://billing:secret@{place}") as app:
                for _ in range(2):
                    send(app, chat("a"), str(uuid4()))
                app.send_task("haulier.submit", queue="haulier.submit", priority=9)
            assert broker.llen("haulier.submit") == 2
            assert allowed(broker, "billing") == {
                *((command, key) for command in ("lpush", "llen") for key in QUEUE_KEYS),
                *((command, key) for command in ("sadd", "smembers") for key in BINDING_KEYS),
                *((command, None) for command in HARMLESS),
            }
            with redis.Redis.from_url(f"redis://billing:secret@{place}") as billing:
                for command in (
                    ("RPOP", "haulier.submit"),
                    ("LPUSH", "haulier.control", "x"),
                    ("SADD", "haulier.submit", "x"),
                    ("EVAL", "return 1", "0"),
                ):
                    with pytest.raises(redis.exceptions.NoPermissionError):
                        billing.execute_command(*command)
        finally:
            broker.execute_command("ACL", "DELUSER", "billing")


QUEUE_KEYS = ("haulier.submit", "haulier.submit\x06\x163")
BINDING_KEYS = ("_kombu.binding.haulier.submit", "_kombu.binding_permanent.haulier.submit")
OTHER_KEYS = (
    *("haulier.transfer", "haulier.control", "haulier.transfer\x06\x163"),
    *("haulier.inbox.held", "haulier.inbox.unreadable", "haulier.inbox.alive"),
    *("haulier.inbox.page.0", "haulier.submitter", "haulier.submit.x", "haulier."),
    *("_kombu.binding.haulier.control", "_kombu.binding.x", "_kombu.binding.x.haulier.submit"),
    *("_kombu.binding_deadlines", "unacked", "unacked_index", "unacked_mutex", "celery", "x"),
)
HARMLESS = {
    *("auth", "hello", "ping", "quit", "reset", "select", "multi", "exec"),
    *("client|setinfo", "client|setname"),
}


def allowed(broker: Any, user: str) -> set[tuple[str, str | None]]:
    """All (command, key) that a user may do, by the server's list; None where no key matters."""
    found: set[tuple[str, str | None]] = set()
    commands = list(_commands(broker.connection_pool))
    assert len(commands) > 300
    for name, arity in commands:
        words = name.split("|")
        keys = (*QUEUE_KEYS, *BINDING_KEYS, *OTHER_KEYS)
        with broker.pipeline(transaction=False) as asked:
            for key in keys:
                # The key stands for every argument, whichever of them is a key.
                arguments = [*words, *[key] * max(abs(arity) - len(words), 0)]
                asked.execute_command("ACL", "DRYRUN", user, *arguments)
            answers = asked.execute(raise_on_error=False)
        mine = {key for key, answer in zip(keys, answers, strict=True) if answer == b"OK"}
        found |= {(name, None)} if mine == set(keys) else {(name, key) for key in mine}
    return found


def _commands(pool: Any) -> Iterator[tuple[str, int]]:
    """The name and arity of every command of the server, subcommands apart."""
    connection = pool.get_connection()
    try:
        connection.send_command("COMMAND")
        waiting = connection.read_response()
    finally:
        pool.release(connection)
    while waiting:
        name, arity, *_, inner = waiting.pop()
        if inner:
            waiting.extend(inner)
        else:
            yield name.decode(), arity


def test_a_signature_is_over_id_time_and_content() -> None:
    secret = new_secret()
    at = datetime(2026, 11, 22, tzinfo=UTC)
    signature = Webhook(secret).sign("id", at, "{}")
    true = {"message_id": "id", "timestamp": str(int(at.timestamp())), "signatures": signature}
    assert is_signed("{}", **true, by=[new_secret(), secret])
    assert not is_signed("{}", **true, by=[new_secret()])
    assert not is_signed("{}", **true, by=[])
    assert not is_signed("{ }", **true, by=[secret])
    for part, value in (("message_id", "other"), ("timestamp", "0"), ("signatures", "")):
        assert not is_signed("{}", **{**true, part: value}, by=[secret])


@pytest.mark.parametrize("name", ["a/b", "a/disable", "/", ".", ".."])
def test_a_producer_that_no_operator_could_disable_is_not_made(
    settings: Settings, app: Celery, db: Database, name: str
) -> None:
    task_id = str(uuid4())
    send(app, chat("a"), task_id, haulier_producer=name)

    WatchedInbox(settings.model_copy(update={"queue_signed": False}), 1).read_all()

    job = found(db, UUID(task_id))
    assert (job.state, job.producer) == (JobState.REJECTED, "default")
    assert f"{name!r} holds a slash" in (job.error or "")
    assert producer(db, name) is None


@pytest.mark.parametrize("default", ["default", "queue", ""])
@pytest.mark.parametrize("nobody", [{}, {"haulier_producer": "\x00"}], ids=["missing", "nul"])
def test_a_message_that_names_nobody_is_of_the_producer_of_the_settings(
    settings: Settings, app: Celery, db: Database, default: str, nobody: dict[str, str]
) -> None:
    secret = str(add_secret(db, "default"))
    add_producer(db, "billing")
    nameless, named, posing, proven, odd = (str(uuid4()) for _ in range(5))
    spec = chat("a")
    send(app, spec, nameless, **nobody)
    send(app, spec, named, haulier_producer="billing")
    send(app, spec, posing, haulier_producer="default")
    send(app, spec, proven, haulier_producer="default", **signed(proven, spec, secret))
    send(app, spec, odd, haulier_producer="bill\u202eing")

    changed = {"queue_signed": False, "queue_default_producer": default}
    WatchedInbox(settings.model_copy(update=changed), 5).read_all()

    jobs_ = {
        task_id: found(db, UUID(task_id)) for task_id in (nameless, named, posing, proven, odd)
    }
    assert jobs_[nameless].producer == (default or "default")
    refused = {task_id for task_id, job in jobs_.items() if job.state is JobState.REJECTED}
    expected = {"default": {odd}, "queue": {posing, odd}, "": {nameless, posing, odd}}[default]
    assert refused == expected
    assert {jobs_[task_id].producer for task_id in refused} == {"default"}
    assert {jobs_[task_id].producer for task_id in (named, proven)} == {"billing", "default"}
    for task_id in refused:
        assert task_id in (jobs_[task_id].error or "")
    if nameless in refused:
        assert "HAULIER_QUEUE_DEFAULT_PRODUCER is empty" in (jobs_[nameless].error or "")
    if posing in refused:
        assert "must be signed" in (jobs_[posing].error or "")
    assert "U+202E" in (jobs_[odd].error or "")
