"""The schema of the database: bringing it to the newest revision, and looking whether it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import select, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from service.store import grants
from service.store.engine import Database, create
from service.store.models import SCHEMA, SchemaFloor

# As Alembic makes it.
_VERSIONS = f"""
CREATE SCHEMA IF NOT EXISTS {SCHEMA};
CREATE TABLE IF NOT EXISTS {SCHEMA}.alembic_version (
  version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))
"""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


@contextmanager
def _migrating(url: str) -> Iterator[Connection]:
    # A migration that waits for a lock makes everybody behind it wait as well.
    engine = create(url, statement_timeout=timedelta(0), lock_timeout=timedelta(seconds=10))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def migrate(url: str, *, runtime_role: str | None = None) -> None:
    """Bring the database to the newest schema. Safe to run at once from several places.

    A `runtime_role` gets the rights that Haulier's processes need, also on what later migrations
    make. Raises BadInput if there is no such role, or one that rights do not bind.
    """
    with _migrating(url) as turn, turn.engine.connect() as connection:
        if runtime_role is not None:
            grants.check(connection, runtime_role)
            connection.rollback()
        _take_turn(turn)
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        grants.grant(connection, runtime_role)
        connection.commit()


def _take_turn(connection: Connection) -> None:
    """Wait until nobody else migrates. The turn ends with the connection's transaction.

    It is a lock on a table that only its owner may lock: anybody may take an advisory lock.
    """
    for attempt in Retrying(
        retry=retry_if_exception_type(DBAPIError), stop=stop_after_attempt(5), reraise=True
    ):
        # Two that create the same at once: one of them is refused.
        with attempt, connection.begin():
            connection.execute(text(_VERSIONS))
    for setting in ("lock_timeout", "idle_in_transaction_session_timeout"):
        connection.execute(text(f"SET LOCAL {setting} = 0"))
    connection.execute(text(f"LOCK TABLE {SCHEMA}.alembic_version IN SHARE UPDATE EXCLUSIVE MODE"))


def is_migrated(db: Database) -> bool:
    """Whether the database has the schema that this code knows, or a newer one that it may use.

    In a rolling deploy, migrations come first. Most only add something, and older code goes on.
    """
    with db() as session:
        current = _revisions(session)
        heads = ScriptDirectory.from_config(_config()).get_heads()
        newer = bool(current - _known())
        return current == set(heads) or (newer and _floors(session) <= _known())


def is_too_new(db: Database) -> bool:
    """Whether the database was brought to a schema that this code must not work on."""
    with db() as session:
        if not _revisions(session) - _known():
            return False
        return not _floors(session) <= _known()


@cache
def _known() -> frozenset[str]:
    revisions = ScriptDirectory.from_config(_config()).walk_revisions()
    return frozenset(script.revision for script in revisions)


def _revisions(session: Session) -> set[str]:
    context = MigrationContext.configure(
        session.connection(), opts={"version_table_schema": SCHEMA}
    )
    return set(context.get_current_heads())


def _floors(session: Session) -> set[str]:
    return set(session.scalars(select(SchemaFloor.revision)))
