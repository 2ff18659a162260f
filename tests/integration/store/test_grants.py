"""The role that the processes use: it can do its work, and owns nothing."""

import secrets
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from service.rules.errors import BadInput
from service.store import schema
from service.store.models import Base
from tests.processes import Processes

WRITE = {"INSERT", "UPDATE", "DELETE"}
LESS = {
    "alembic_version": set(),
    "schema_floor": set(),
    "audit": set(),  # by column
    "events": {"INSERT", "DELETE"},
}
EVERY = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")


@pytest.fixture
def role(runtime_url: str) -> str:
    return urlsplit(runtime_url).username or ""


@pytest.fixture
def owner(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def rights(owner: psycopg.Connection, role: str, table: str) -> set[str]:
    query = "SELECT p FROM unnest(%s::text[]) p WHERE has_table_privilege(%s, %s, p)"
    found = owner.execute(query, [list(EVERY), role, f"haulier.{table}"]).fetchall()
    return {privilege for (privilege,) in found}


def test_it_has_the_rights_that_it_needs_and_no_others(
    owner: psycopg.Connection, role: str
) -> None:
    tables = {table.name for table in Base.metadata.tables.values()} | {"alembic_version"}
    for table in tables:
        assert rights(owner, role, table) == {"SELECT", *LESS.get(table, WRITE)}, table
    query = "SELECT has_schema_privilege(%s, 'haulier', 'CREATE')"
    assert owner.execute(query, [role]).fetchone() == (False,)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE haulier.audit SET actor = 'nobody'",
        "DELETE FROM haulier.audit",
        "TRUNCATE haulier.audit",
        "ALTER TABLE haulier.audit DISABLE TRIGGER ALL",
        "SET session_replication_role = replica",
        "INSERT INTO haulier.audit (actor, verb, object, at) VALUES ('a', 'v', 'o', 'epoch')",
        "INSERT INTO haulier.schema_floor VALUES ('9999')",
        "UPDATE haulier.alembic_version SET version_num = '9999'",
        "LOCK TABLE haulier.alembic_version IN SHARE UPDATE EXCLUSIVE MODE",
        "UPDATE haulier.events SET target = 'x'",
        "CREATE TABLE haulier.mine (x int)",
        "DROP TABLE haulier.jobs",
        "CREATE OR REPLACE FUNCTION haulier.refuse_change() RETURNS trigger AS 'x' LANGUAGE sql",
        "SELECT haulier.enqueue('{}')",
    ],
)
def test_what_is_not_its_business_is_refused(runtime_url: str, statement: str) -> None:
    with psycopg.connect(runtime_url) as connection, pytest.raises(InsufficientPrivilege):
        connection.execute(statement)


def test_later_migrations_know_their_roles(
    owner: psycopg.Connection, database_url: str, role: str
) -> None:
    owner.execute("CREATE TABLE haulier.later (x int)")
    assert rights(owner, role, "later") == {"SELECT", *WRITE}
    owner.execute(sql.SQL("REVOKE ALL ON haulier.jobs FROM {}").format(sql.Identifier(role)))
    owner.execute(sql.SQL("GRANT UPDATE ON haulier.audit TO {}").format(sql.Identifier(role)))

    schema.migrate(database_url)

    assert rights(owner, role, "jobs") == {"SELECT", *WRITE}
    assert rights(owner, role, "audit") == {"SELECT"}


def test_the_rights_are_given_once_as_the_log_shows(
    owner: psycopg.Connection, database_url: str, role: str
) -> None:
    schema.migrate(database_url, runtime_role=role)
    found = owner.execute("SELECT after FROM haulier.audit WHERE verb = 'grant'").fetchall()
    assert found == [({"role": role},)]


def test_a_role_of_any_name_can_be_the_one(owner: psycopg.Connection, database_url: str) -> None:
    name = f'Runtime "of" {owner.info.dbname}; --'
    owner.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
    try:
        schema.migrate(database_url, runtime_role=name)
        assert rights(owner, name, "jobs") == {"SELECT", *WRITE}
    finally:
        owner.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
        owner.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_the_owner_need_be_no_superuser_and_may_have_any_name(
    empty_database_url: str,
) -> None:
    tag = secrets.token_hex(4)
    names = {"owner": f"Ow-ner {tag}", "runtime": f"runtime-{tag}"}
    quoted = {key: sql.Identifier(name) for key, name in names.items()}
    with psycopg.connect(empty_database_url, autocommit=True) as superuser:

        def run(statement: str) -> None:
            database = sql.Identifier(superuser.info.dbname)
            superuser.execute(sql.SQL(statement).format(**quoted, database=database))

        run("CREATE ROLE {owner} LOGIN PASSWORD 'x'")
        run("CREATE ROLE {runtime}")
        try:
            run("GRANT CREATE ON DATABASE {database} TO {owner}")
            server = urlsplit(empty_database_url)
            login = f"{quote(names['owner'])}:x@{server.hostname}:{server.port}"
            url = server._replace(netloc=login).geturl()
            schema.migrate(url, runtime_role=names["runtime"])
            run("REVOKE ALL ON haulier.jobs FROM {runtime}")
            schema.migrate(url)
            assert rights(superuser, names["runtime"], "jobs") == {"SELECT", *WRITE}
        finally:
            run("DROP OWNED BY {runtime}")
            run("DROP OWNED BY {owner} CASCADE")
            run("DROP ROLE {owner}, {runtime}")


def test_a_role_that_no_rights_would_bind_is_refused(
    owner: psycopg.Connection, database_url: str
) -> None:
    member = f"member_of_{owner.info.dbname}"
    owner.execute(f"CREATE ROLE {member} IN ROLE {owner.info.user}")
    try:
        for name, words in (
            ("nobody-is-called-so", "there is no role 'nobody-is-called-so'"),
            (owner.info.user, "no rights would bind it"),
            (member, "no rights would bind it"),
        ):
            with pytest.raises(BadInput, match=words):
                schema.migrate(database_url, runtime_role=name)
    finally:
        owner.execute(f"DROP ROLE {member}")


def test_the_command_says_what_is_wrong(
    processes: Processes, database_url: str, runtime_url: str
) -> None:
    nowhere = "postgresql://x@127.0.0.1:1/x"
    wrong = [
        processes.haulier("migrate", "--runtime-role", "nobody", DATABASE_URL=database_url),
        processes.haulier("migrate", DATABASE_URL=runtime_url),
        processes.haulier("migrate", DATABASE_URL=nowhere),
    ]
    assert [process.wait() for process in wrong] == [2, 2, 3]
    role, owner, away = (process.output for process in wrong)
    assert 'CREATE ROLE "nobody" LOGIN' in role
    assert "let DATABASE_URL name the owner of the tables" in owner
    assert "start Postgres, or correct DATABASE_URL" in away
    assert "Traceback" not in role + owner + away
