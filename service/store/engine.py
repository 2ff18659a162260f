"""Connections to Postgres, and its schema."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.errors import InvalidSchemaName, UndefinedColumn, UndefinedTable
from sqlalchemy import Engine, create_engine, func, make_url, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from service.models import SCHEMA

Database = sessionmaker[Session]

# Anything that means "Postgres is not there or was not able to", as opposed to a bug in a query.
UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeout)

_MIGRATION_LOCK = 0x6861756C696572  # "haulier"


def is_unavailable(error: BaseException) -> bool:
    """Whether the database is down, restarting or cut off, so that waiting helps."""
    return isinstance(error, UNAVAILABLE) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )


def lacks_schema(error: BaseException) -> bool:
    """Whether a statement failed because the database was not migrated to this code's schema."""
    return isinstance(error, ProgrammingError) and isinstance(
        error.orig, (UndefinedTable, UndefinedColumn, InvalidSchemaName)
    )


def create(url: str, *, pool_size: int = 1, statement_timeout: timedelta | None = None) -> Engine:
    """An engine for `postgresql://…`. Not to be shared over a fork."""
    limit = statement_timeout if statement_timeout is not None else timedelta(seconds=60)
    return create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=1,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": 5,
            "application_name": "haulier",
            # A peer that vanished must not hold a worker for hours.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
            "options": f"-c statement_timeout={limit // timedelta(milliseconds=1)}"
            " -c lock_timeout=20s -c idle_in_transaction_session_timeout=60s -c timezone=UTC",
        },
    )


def database(engine: Engine) -> Database:
    return sessionmaker(engine, expire_on_commit=False)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations"))
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


def clock(db: Database) -> datetime:
    """What time it is for the database."""
    with db.begin() as session:
        return session.scalars(select(func.now())).one()


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
