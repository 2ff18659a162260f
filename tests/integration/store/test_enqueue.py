"""haulier.enqueue as producers call it: from a role of their own, in their own transactions."""

import re
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from alembic import command
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb

from config.settings import Settings
from service import stages
from service.payloads.blobs import Blobs
from service.rules.admission import Capacity
from service.rules.outcomes import Fail, Split
from service.rules.states import JobState, Stage
from service.rules.work import JobClaim
from service.store import engine, jobs, schema
from service.store.permissions import permissions_for
from service.store.producers import add_credential, add_producer, disable, enable
from tests.api import Api, jsonl, problem
from tests.eventually import eventually
from tests.factories import CHAT, FakeLease, Harness, admit, chat_line, chat_request
from tests.pipeline import Pipeline, chat
from tests.servers import Databases


@dataclass
class Role:
    """A role of the database, as a producing service has one."""

    name: str
    url: str
    admin_url: str

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(make_conninfo(self.url), **options)

    def as_owner(self, statement: str) -> None:
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(self.name)))


def _role(admin_url: str) -> Role:
    name, password = f"billing_{secrets.token_hex(4)}", secrets.token_hex(8)
    role = Role(name, make_conninfo(admin_url, user=name, password=password), admin_url)
    role.as_owner(f"CREATE ROLE {{}} LOGIN PASSWORD '{password}'")
    return role


def _drop(role: Role) -> None:
    role.as_owner("DROP OWNED BY {}")
    role.as_owner("DROP ROLE {}")


@pytest.fixture
def stranger(database_url: str) -> Iterator[Role]:
    """A role that nobody has granted anything."""
    role = _role(database_url)
    yield role
    _drop(role)


@pytest.fixture
def billing(stranger: Role, harness: Harness) -> Role:
    """A role with the grants of the docs, and its producer."""
    stranger.as_owner("GRANT USAGE ON SCHEMA haulier TO {}")
    stranger.as_owner("GRANT EXECUTE ON FUNCTION haulier.enqueue(jsonb) TO {}")
    add_producer(harness.db, stranger.name)
    return stranger


@pytest.fixture
def harness(database_url: str) -> Iterator[Harness]:
    made = engine.create(database_url, pool_size=4)
    yield Harness(engine.database(made))
    made.dispose()


def enqueue(connection: psycopg.Connection[Any], content: object) -> UUID:
    row = connection.execute("SELECT haulier.enqueue(%s)", [Jsonb(content)]).fetchone()
    assert row is not None
    job_id: UUID = row[0]
    return job_id


def enqueued(harness: Harness) -> int:
    return int(harness.rows("SELECT count(*) FROM haulier.enqueued")[0])


# --- commit and rollback ------------------------------------------------------------------------


def test_a_commit_makes_an_accepted_job_that_the_api_shows(
    api: Api, harness: Harness, billing: Role
) -> None:
    with billing.connect() as connection:
        job_id = enqueue(connection, chat("a", "b", metadata={"order": 7}, priority=5))
        assert api.http.get(f"/v1/jobs/{job_id}").status_code == 404
    shown = api.job(job_id)
    assert (shown["state"], shown["producer"], shown["endpoint"]) == (
        "accepted",
        billing.name,
        CHAT,
    )
    assert (shown["metadata"], harness.job(job_id).priority) == ({"order": 7}, 5)
    events = api.http.get(f"/v1/jobs/{job_id}/events").json()["data"]
    assert [event["target"] for event in events] == ["accepted"]


def test_a_notice_may_name_its_events_and_steps(harness: Harness, billing: Role) -> None:
    wanted = [{"webhook": "https://example.com", "events": ["job.completed"], "progress": 10}]
    with billing.connect() as connection:
        job_id = enqueue(connection, chat("a", notify=wanted))
    assert harness.job(job_id).notify == wanted


def client_of(api: Api, role: Role) -> httpx.Client:
    """The API as the producer of a role has it."""
    token = add_credential(api.db, role.name).text
    return httpx.Client(
        base_url=api.url,
        headers={"Authorization": f"Bearer {token}"},
        timeout=60,
        trust_env=False,
    )


def test_a_key_that_is_held_open_holds_up_nobody_else(api: Api, billing: Role) -> None:
    own = client_of(api, billing)
    with billing.connect() as connection, own, ThreadPoolExecutor(4) as threads:
        enqueue(connection, chat("a", idempotency_key="nightly"))
        waiting = threads.submit(own.post, "/v1/jobs", json=chat("a", idempotency_key="nightly"))
        others = [threads.submit(api.http.post, "/v1/jobs", json=chat("b")) for _ in range(3)]

        assert [other.result().status_code for other in others] == [201] * 3
        refused = waiting.result()
        assert problem(refused, 503)["type"].endswith(":contended")
        assert refused.headers["Retry-After"]
        connection.rollback()
        assert own.post("/v1/jobs", json=chat("a", idempotency_key="nightly")).status_code == 201


def test_submissions_of_a_held_key_wait_beside_all_others(
    api: Api, billing: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.gathering.PATIENCE", 300.0)
    own = client_of(api, billing)
    key = {"Idempotency-Key": "nightly"}
    lines = jsonl(*[f"r{number}" for number in range(2_000)])
    by_line = {**key, "Content-Type": "application/x-ndjson"}

    def large() -> httpx.Response:
        return own.post("/v1/jobs", params={"endpoint": CHAT}, content=lines, headers=by_line)

    with billing.connect() as connection, own, ThreadPoolExecutor(32) as threads:
        enqueue(connection, chat("a", idempotency_key="nightly"))
        small = [
            threads.submit(own.post, "/v1/jobs", json=chat("a"), headers=key) for _ in range(8)
        ]
        big = [threads.submit(large) for _ in range(12)]
        for number in range(20):
            answer = api.http.post("/v1/jobs", json=chat("b", idempotency_key=f"k{number}"))
            assert answer.status_code == 201
        assert not any(held.done() for held in (*small, *big))
        connection.rollback()
        answers = [held.result() for held in (*small, *big)]
    # Of two contents under one key, one wins.
    assert {answer.status_code for answer in answers} == {200, 201, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code != 409}) == 1


def test_no_lock_that_a_role_may_take_holds_up_admission_or_migrations(
    harness: Harness, billing: Role
) -> None:
    (part_id,) = harness.waiting(1)
    with billing.connect() as connection:
        # All numbers that Haulier ever used, and its name.
        for number in (0x6861756C696572, *range(100)):
            connection.execute("SELECT pg_advisory_lock(%s)", [number])
        admitted = admit(harness.db, limit=9, capacity=Capacity(batches=None, tokens=10**9))
        assert [harness.part(due.id).id for due in admitted] == [part_id]
        schema.migrate(billing.admin_url)
        for table in ("alembic_version", "chores"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
                connection.execute(f"LOCK TABLE haulier.{table} IN ACCESS SHARE MODE")


def test_a_rollback_leaves_nothing(harness: Harness, billing: Role) -> None:
    with billing.connect() as connection:
        enqueue(connection, chat("a", idempotency_key="nightly"))
        connection.rollback()
    for table in ("jobs", "events", "enqueued"):
        assert harness.rows(f"SELECT count(*) FROM haulier.{table}") == [0]


def test_an_enqueued_job_runs_to_its_results(pipeline: Pipeline, database_url: str) -> None:
    pipeline.worker()
    pipeline.scheduler()
    with psycopg.connect(database_url) as connection:
        good = enqueue(connection, chat("a", "ü", metadata={"order": 7}, check={"regex": "echo"}))
        twice = enqueue(connection, chat("a", "a"))
    job = pipeline.ended(good)
    assert (job.state, job.producer, job.succeeded) == (JobState.COMPLETED, "default", 2)
    assert [line["custom_id"] for line in pipeline.results(good)] == ["a", "ü"]
    assert jobs.check_of(pipeline.db, good) == {"regex": "echo"}
    rejected = pipeline.ended(twice)
    assert rejected.state is JobState.REJECTED
    assert rejected.problems == [{"line": 2, "message": "custom_id 'a' was used before"}]
    assert enqueued(Harness(pipeline.db)) == 0


# --- who ----------------------------------------------------------------------------------------


def test_a_role_without_grants_is_refused(stranger: Role) -> None:
    with (
        stranger.connect() as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="schema haulier"),
    ):
        enqueue(connection, chat("a"))


def test_a_role_with_the_schema_alone_is_refused(stranger: Role) -> None:
    stranger.as_owner("GRANT USAGE ON SCHEMA haulier TO {}")
    with (
        stranger.connect() as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="function enqueue"),
    ):
        enqueue(connection, chat("a"))


def test_a_role_without_a_producer_is_told_to_add_one(stranger: Role) -> None:
    stranger.as_owner("GRANT USAGE ON SCHEMA haulier TO {}")
    stranger.as_owner("GRANT EXECUTE ON FUNCTION haulier.enqueue(jsonb) TO {}")
    with (
        stranger.connect() as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege) as refused,
    ):
        enqueue(connection, chat("a"))
    assert refused.value.diag.message_hint == f"Add it: haulier producer add {stranger.name}"


def test_a_disabled_producer_can_enqueue_nothing(harness: Harness, billing: Role) -> None:
    with billing.connect(autocommit=True) as connection:
        before = enqueue(connection, chat("a", idempotency_key="k"))
        disable(harness.db, billing.name)
        for content in (chat("a", idempotency_key="k"), chat("b")):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="is disabled") as found:
                enqueue(connection, content)
        hint = f"An operator enables it: haulier producer enable {billing.name}"
        assert found.value.diag.message_hint == hint
        enable(harness.db, billing.name)
        assert enqueue(connection, chat("a", idempotency_key="k")) == before


def test_a_granted_role_touches_nothing_but_the_function(billing: Role) -> None:
    with billing.connect(autocommit=True) as connection:
        for statement in (
            "SELECT * FROM haulier.jobs",
            "DELETE FROM haulier.enqueued",
            "SELECT haulier.enqueue_problem('{}')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_another_role_and_another_search_path_change_neither_producer_nor_tables(
    harness: Harness, billing: Role
) -> None:
    billing.as_owner("GRANT pg_monitor TO {}")
    with billing.connect() as connection:
        connection.execute("CREATE TEMP TABLE producers (name text)")
        connection.execute("SET search_path = pg_temp, public")
        connection.execute("SET ROLE pg_monitor")
        connection.execute("RESET ROLE")
        job_id = enqueue(connection, chat("a"))
    assert harness.job(job_id).producer == billing.name


# --- keys ---------------------------------------------------------------------------------------


def test_the_same_key_and_content_is_the_same_job(harness: Harness, billing: Role) -> None:
    content = chat("a", idempotency_key="nightly")
    with billing.connect(autocommit=True) as connection:
        first = enqueue(connection, content)
        again = enqueue(connection, dict(reversed(content.items())))
        assert first == again
        with pytest.raises(psycopg.errors.UniqueViolation, match="with other content"):
            enqueue(connection, chat("b", idempotency_key="nightly"))
        assert enqueue(connection, chat("b", idempotency_key="weekly")) != first
    with psycopg.connect(billing.admin_url) as owner:
        assert enqueue(owner, content) != first, "another producer's keys are its own"
    assert enqueued(harness) == 3


def test_a_key_that_came_over_http_is_a_conflict(harness: Harness, billing: Role) -> None:
    submitted = harness.submitted(producer=billing.name, idempotency_key="nightly")
    with (
        billing.connect() as connection,
        pytest.raises(psycopg.errors.UniqueViolation, match=str(submitted)),
    ):
        enqueue(connection, chat("a", idempotency_key="nightly"))


def test_a_key_that_came_in_a_transaction_is_a_conflict_over_http(
    api: Api, database_url: str
) -> None:
    content = chat("a", idempotency_key="nightly")
    with psycopg.connect(database_url) as connection:
        enqueue(connection, content)
    answer = api.http.post("/v1/jobs", json=content)
    assert answer.status_code == 409, answer.text


@pytest.mark.parametrize("commits", [True, False])
def test_of_two_transactions_with_one_key_the_second_waits_for_the_first(
    harness: Harness, billing: Role, commits: bool
) -> None:
    content = chat("a", idempotency_key="nightly")

    def second() -> UUID:
        with billing.connect() as connection:
            return enqueue(connection, content)

    waits = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock' AND query LIKE '%%haulier.enqueue%%'"
    )
    with ThreadPoolExecutor(1) as threads, billing.connect() as connection:
        first = enqueue(connection, content)
        asked = threads.submit(second)
        eventually(lambda: harness.rows(waits) == [1])
        connection.commit() if commits else connection.rollback()
        assert (asked.result(30) == first) is commits
    assert enqueued(harness) == 1


def test_a_rejected_job_gives_its_key_back(harness: Harness, billing: Role) -> None:
    content = chat("a", idempotency_key="nightly")
    with billing.connect(autocommit=True) as connection:
        first = enqueue(connection, content)
        harness.apply(harness.claim_job(first, Stage.SPLIT), Fail("no", rejected=True))
        assert enqueue(connection, content) != first
    assert enqueued(harness) == 1


def test_null_means_that_a_field_was_left_out(harness: Harness, billing: Role) -> None:
    optional = ("input", "account", "max_attempts", "priority", "metadata", "notify")
    with billing.connect(autocommit=True) as connection:
        first = enqueue(connection, chat("a", idempotency_key="k"))
        nulls = dict.fromkeys(optional)
        assert enqueue(connection, chat("a", idempotency_key="k", **nulls)) == first
        without_key = enqueue(connection, chat("a", idempotency_key=None, **nulls))
    assert without_key != first
    job = harness.job(without_key)
    assert (job.account, job.max_attempts, job.priority) == ("default", 3, 0)
    assert (job.labels, job.notify, job.input, job.idempotency_key) == ({}, [], None, None)


# --- what is refused at once --------------------------------------------------------------------


def _deep(levels: int) -> dict[str, Any]:
    return {"a": _deep(levels - 1)} if levels else {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "must be a JSON object"),
        ([], "must be a JSON object"),
        ({}, "`endpoint` must be given"),
        (chat("a", endpoint=7), "`endpoint` must be given"),
        (chat("a", modle="m"), "there is no such field: 'modle'"),
        ({"endpoint": CHAT}, "give `requests` or `input`"),
        (chat("a", input="s3://b/k"), "give `requests` or `input`"),
        ({"endpoint": CHAT, "requests": "a"}, "`requests` must be an array"),
        ({"endpoint": CHAT, "input": 7}, "`input` must be a URL"),
        ({"endpoint": CHAT, "input": "in.jsonl"}, "`input` must be an s3:// or file:// URL"),
        ({"endpoint": CHAT, "input": "haulier-file:x"}, "`input` must be an s3:// or file:// URL"),
        (chat("a", idempotency_key=""), "`idempotency_key` must be a string"),
        (chat("a", idempotency_key="k" * 256), "`idempotency_key` must be a string"),
        (chat("a", idempotency_key=7), "`idempotency_key` must be a string"),
        (chat("a", account=7), "`account` must be"),
        (chat("a", endpoint=None), "`endpoint` must be given"),
        (chat("a", modle=None), "there is no such field: 'modle'"),
        (chat("a", requests=None, input=None), "give `requests` or `input`"),
        (chat("a", max_attempts=101), "`max_attempts` must be"),
        (chat("a", max_attempts=1.5), "`max_attempts` must be"),
        (chat("a", max_attempts="3"), "`max_attempts` must be"),
        (chat("a", priority=-1001), "`priority` must be"),
        (chat("a", metadata=[]), "`metadata` must be an object"),
        (chat("a", metadata={"a": "x" * 20_000}), "`metadata` may have 16,384 bytes"),
        (chat("a", metadata=_deep(200)), "`metadata` nests too deep"),
        (chat("a", metadata={"a": [10**400]}), "`metadata` holds a number"),
        (chat("a", notify={}), "`notify` must be"),
        (chat("a", notify=["a"]), "`notify` must be"),
        (chat("a", notify=[{"webhook": [[[[[7]]]]]}]), "nests too deep"),
    ],
)
def test_a_bad_envelope_is_refused_at_once(
    connection: psycopg.Connection[Any], content: object, words: str
) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=words) as refused:
        connection.execute("SELECT haulier.enqueue(%s)", [Jsonb(content)])
    assert refused.value.diag.message_hint


def test_no_spec_at_all_is_refused(connection: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="must be a JSON object"):
        connection.execute("SELECT haulier.enqueue(NULL)")


def test_a_spec_that_is_too_large_is_refused(connection: psycopg.Connection[Any]) -> None:
    large = chat("a", metadata={})
    large["requests"][0]["body"]["messages"][0]["content"] = "x" * 32_000_000
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="32,000,000 bytes"):
        connection.execute("SELECT haulier.enqueue(%s)", [Jsonb(large)])


@pytest.fixture(scope="module")
def _server(databases: Databases) -> Iterator[str]:
    url = databases.create()
    yield url
    databases.drop(url)


@pytest.fixture
def connection(_server: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(_server, autocommit=True) as connection:
        yield connection


# --- what split makes of it ---------------------------------------------------------------------


Splits = Callable[[UUID], tuple[JobClaim, object]]


@pytest.fixture
def split(harness: Harness, blob_url: str, tmp_path: Path) -> Splits:
    """Runs split, with the rules of the job's producer; gives its claim and what it says."""
    settings = Settings(input_roots=(tmp_path.as_uri(),))

    def run(job_id: UUID) -> tuple[JobClaim, object]:
        claim = harness.claim_job(job_id, Stage.SPLIT)
        made = stages.Clients(
            blobs=Blobs(blob_url),
            lease=FakeLease(),
            scratch=tmp_path,
            settings=settings,
            permissions=permissions_for(harness.db, claim.producer, settings),
        )
        return claim, stages.split(claim, made)

    return run


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (chat("a", endpoint="/v1/nothing"), "endpoint '/v1/nothing' cannot be batched"),
        (chat("a", account="other"), "account 'other' is not yours"),
        ({"endpoint": CHAT, "requests": []}, "the input holds no requests"),
        ({"endpoint": CHAT, "requests": [7]}, "line 1: "),
        (chat("a", notify=[{"task": "t", "queue": "q"}]), "notify"),
        (chat("a", check="xml"), "`check` 'xml' is unknown"),
        (chat("a", check={"json_schema": {"maximum": 10**400}}), "check"),
    ],
)
def test_what_its_producer_may_not_is_rejected_by_split(
    harness: Harness, billing: Role, split: Splits, content: Any, words: str
) -> None:
    with billing.connect() as connection:
        job_id = enqueue(connection, content)
    claim, outcome = split(job_id)
    assert isinstance(outcome, Fail)
    assert outcome.rejected
    assert words in outcome.reason
    harness.apply(claim, outcome)
    job = harness.job(job_id)
    assert job.state is JobState.REJECTED
    assert job.problems
    assert enqueued(harness) == 0


def test_notices_that_nobody_has_checked_are_dropped_with_the_job(
    harness: Harness, billing: Role
) -> None:
    with billing.connect(autocommit=True) as connection:
        first, second = (
            enqueue(connection, chat("a", notify=[{"task": "t", "queue": "q"}])) for _ in range(2)
        )
    harness.apply(harness.claim_job(first, Stage.SPLIT), Fail("no", rejected=True))
    harness.apply(harness.claim_job(second, Stage.SPLIT), Fail("no", rejected=True, read=True))
    assert harness.job(first).notify == []
    assert harness.job(second).notify == [{"task": "t", "queue": "q"}]


def test_an_input_outside_of_the_producers_roots_is_rejected_by_split(
    harness: Harness, billing: Role, split: Splits, tmp_path: Path
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(map(chat_line, ["a", "b"])))
    content = {"endpoint": CHAT, "input": path.as_uri()}
    with billing.connect() as connection:
        refused = enqueue(connection, content)
    with psycopg.connect(billing.admin_url) as owner:
        read = enqueue(owner, content)
    assert isinstance(split(refused)[1], Fail)
    claim, outcome = split(read)
    assert isinstance(outcome, Split)
    harness.apply(claim, outcome)
    assert harness.job(read).total == 2


def test_a_split_that_is_done_again_reads_the_same_spec(
    harness: Harness, billing: Role, split: Splits
) -> None:
    with billing.connect() as connection:
        job_id = enqueue(connection, {"endpoint": CHAT, "requests": [chat_request("a")]})
    first, outcome = split(job_id)
    assert isinstance(outcome, Split)
    harness.run("UPDATE haulier.jobs SET leased_until = now() - interval '1 ms'")
    second, again = split(job_id)
    assert isinstance(again, Split)
    assert second.enqueued == first.enqueued
    with pytest.raises(Exception, match=str(job_id)):
        harness.apply(first, outcome)
    harness.apply(second, again)
    assert (harness.job(job_id).total, enqueued(harness)) == (1, 0)


# --- the migration ------------------------------------------------------------------------------


def test_the_migration_goes_back_when_everything_enqueued_was_split(
    harness: Harness, database_url: str
) -> None:
    with psycopg.connect(database_url) as connection:
        job_id = enqueue(connection, chat("a"))
    with pytest.raises(Exception, match="no worker has split yet"):
        _downgrade(database_url)
    schema.migrate(database_url)  # the migrations after it have gone back already
    harness.apply(harness.claim_job(job_id, Stage.SPLIT), Fail("no", rejected=True))
    _downgrade(database_url)
    assert harness.rows("SELECT to_regproc('haulier.enqueue')") == [None]
    schema.migrate(database_url)
    with psycopg.connect(database_url) as connection:
        enqueue(connection, chat("a"))


def _downgrade(url: str) -> None:
    with schema._migrating(url) as connection:
        config = schema._config()
        config.attributes["connection"] = connection
        command.downgrade(config, "0003")
        connection.commit()


# --- the document -------------------------------------------------------------------------------

DOCUMENT = Path(__file__).parents[3] / "docs" / "transactional-enqueue.md"


def test_the_examples_of_the_document_work(
    harness: Harness, stranger: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grants, SQL as psql sends it, and Python."""
    found = re.findall(r"```(sql|python)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    submitting, granting = (code for kind, code in found if kind == "sql")
    (python,) = (code for kind, code in found if kind == "python")
    stranger.as_owner(granting.replace("billing", "{0}"))
    add_producer(harness.db, stranger.name)
    harness.run("CREATE TABLE public.orders (id bigint PRIMARY KEY, text text)")
    stranger.as_owner("GRANT INSERT ON public.orders TO {}")

    with stranger.connect(autocommit=True) as connection:
        connection.execute(submitting)
    monkeypatch.setenv("DATABASE_URL", stranger.url)
    exec(compile(python, DOCUMENT, "exec"), {})

    keys = "SELECT producer || ' ' || idempotency_key FROM haulier.jobs ORDER BY 1"
    assert harness.rows(keys) == [f"{stranger.name} order-7", f"{stranger.name} order-8"]
    assert harness.rows("SELECT id FROM public.orders ORDER BY id") == [7, 8]
