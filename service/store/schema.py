"""The schema of the database: bringing it to the newest revision, and looking whether it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.engine import Connection

from service.store.engine import Database, create
from service.store.models import SCHEMA

_MIGRATION_LOCK = 0x6861756C696572  # "haulier"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


@contextmanager
def _migrating(url: str) -> Iterator[Connection]:
    engine = create(url, statement_timeout=timedelta(0))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def migrate(url: str) -> None:
    """Bring the database to the newest schema. Safe to run at once from several places."""
    with _migrating(url) as connection:
        connection.execute(text("SET lock_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATION_LOCK})
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        connection.commit()
        try:
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _MIGRATION_LOCK})
            connection.commit()


def is_migrated(db: Database) -> bool:
    """Whether the database has the schema that this code knows, or a newer one.

    A newer one serves this code as well: in a rolling deploy, migrations come first.
    """
    with db() as session:
        context = MigrationContext.configure(
            session.connection(), opts={"version_table_schema": SCHEMA}
        )
        current = set(context.get_current_heads())
        known = ScriptDirectory.from_config(_config())
        newer = current - {script.revision for script in known.walk_revisions()}
        return bool(newer) or current == set(known.get_heads())
