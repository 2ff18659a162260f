"""Bringing the schema of the database to the newest revision."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from service.store import grants
from service.store.engine import create
from service.store.models import SCHEMA

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
