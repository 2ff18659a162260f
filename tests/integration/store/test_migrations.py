"""The migrations against the models, and backwards."""

import pytest
from alembic import command
from sqlalchemy import text

from service.store import engine, schema
from service.store.models import SCHEMA, Base
from tests.servers import Databases

WHAT_IS_THERE = (
    "SELECT indexdef FROM pg_indexes WHERE schemaname = :schema"
    " UNION ALL SELECT concat_ws(' ', table_name, column_name, data_type, is_nullable,"
    " column_default) FROM information_schema.columns WHERE table_schema = :schema"
    " UNION ALL SELECT concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid))"
    " FROM pg_constraint WHERE connamespace = CAST(:schema AS regnamespace)"
)


def described(url: str) -> set[str]:
    """Every index, column and constraint of the tables."""
    connections = engine.create(url)
    with connections.begin() as connection:
        found = set(connection.scalars(text(WHAT_IS_THERE), {"schema": SCHEMA}))
    connections.dispose()
    return {line for line in found if "alembic_version" not in line}


def test_the_migrations_make_what_the_models_say(databases: Databases, database_url: str) -> None:
    url = databases.create_empty()
    connections = engine.create(url)
    with connections.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
        Base.metadata.create_all(connection)
    connections.dispose()

    assert described(database_url) == described(url)
    databases.drop(url)


@pytest.mark.parametrize("revision", ["0001", "0003"])
def test_an_upgrade_can_be_taken_back(database_url: str, revision: str) -> None:
    newest = described(database_url)
    with schema._migrating(database_url) as connection:
        config = schema._config()
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
        connection.commit()
    assert described(database_url) != newest
    schema.migrate(database_url)
    assert described(database_url) == newest


@pytest.mark.parametrize(("floor", "fits"), [(None, True), ("0001", True), ("9999", False)])
def test_code_works_on_a_newer_schema_unless_it_is_below_its_floor(
    database_url: str, floor: str | None, fits: bool
) -> None:
    made = engine.create(database_url)
    db = engine.database(made)
    with db.begin() as session:
        session.execute(text("UPDATE haulier.alembic_version SET version_num = '9999'"))
        session.execute(text("DELETE FROM haulier.schema_floor"))
        if floor is not None:
            session.execute(text("INSERT INTO haulier.schema_floor VALUES (:f)"), {"f": floor})
    assert schema.is_migrated(db) is fits
    assert schema.is_too_new(db) is not fits
    made.dispose()
