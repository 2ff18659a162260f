"""Connections to Postgres, and what an error of the database means."""

from datetime import datetime, timedelta
from typing import Any

from psycopg.errors import InvalidSchemaName, UndefinedColumn, UndefinedTable
from sqlalchemy import Connection, Engine, create_engine, event, func, select, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from config.postgres_url import conninfo
from config.redaction import redact

Database = sessionmaker[Session]

# SQLSTATEs (PostgreSQL's appendix A) of Postgres itself, not of a statement: the connection, a
# refused login, a missing database, too few resources, a shutdown or start, the operating system,
# and a server that is read-only for the moment, as in a failover.
_DOWN = ("08", "28", "3D000", "53", "57P", "58", "25006")
# Another transaction was in the way: serialization, deadlock, a lock or a statement that waited
# too long.
_CONTENDED = ("40001", "40P01", "55P03", "57014")


FORBIDDEN = "42501"
"""The SQLSTATE of a right that the role lacks."""


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of a database error, or None if no server answered."""
    return getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None


def is_unavailable(error: BaseException) -> bool:
    """Return whether waiting helps: the database is down, cut off, read-only, or contended.

    Any other error is a fault of the row or of the code, and must not look like an outage.
    """
    if isinstance(error, PoolTimeout | InterfaceError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = sqlstate(error)
    if state is None:
        return error.connection_invalidated or isinstance(error, OperationalError)
    return error.connection_invalidated or state.startswith((*_DOWN, *_CONTENDED))


def is_contended(error: BaseException) -> bool:
    """Return whether a statement failed because of what another transaction did."""
    return (sqlstate(error) or "").startswith(_CONTENDED)


# Data exceptions, integrity constraints, program limits: Postgres refuses these values for ever.
_VALUES = ("22", "23", "54")


def is_of_the_database(error: BaseException) -> bool:
    """Return whether another submission would have failed as well: not its values were refused.

    The database may be away, its schema may be in the middle of a change, a right may be missing.
    """
    if is_unavailable(error):
        return True
    return isinstance(error, DBAPIError) and not (sqlstate(error) or "").startswith(_VALUES)


def lacks_schema(error: BaseException) -> bool:
    """Return whether a statement failed because the database lacks this version's schema."""
    return isinstance(error, ProgrammingError) and isinstance(
        error.orig, (UndefinedTable, UndefinedColumn, InvalidSchemaName)
    )


_POOLED = "haulier_pooled"
_READ_ONLY = "25006"

# The arguments are the limits in milliseconds, and the process that the connection is said to
# lead to. If it is another, they are for this transaction alone.
_LIMITS = """
SELECT set_config('statement_timeout', %(statement)s, pooled),
       set_config('lock_timeout', %(lock)s, pooled),
       set_config('idle_in_transaction_session_timeout', '60s', pooled),
       set_config('timezone', 'UTC', pooled), pooled
FROM (SELECT pg_backend_pid() <> %(pid)s AS pooled) AS found
"""


def create(
    url: str,
    *,
    pool_size: int = 1,
    statement_timeout: timedelta = timedelta(seconds=60),
    lock_timeout: timedelta = timedelta(seconds=20),
) -> Engine:
    """Return an engine for `postgresql://…`, as libpq takes it. Do not share it over a fork.

    A pooler such as PgBouncer may stand in between, in transaction mode too.
    """
    made = create_engine(
        "postgresql+psycopg://",
        pool_size=pool_size,
        max_overflow=1,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": 5,
            "application_name": "haulier",
            # A peer that vanishes must not block a worker for hours.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
        },
    )
    place = conninfo(url)

    def connect_to(_: object, __: object, arguments: list[Any], ___: object) -> None:
        # libpq reads the URL: SQLAlchemy knows of one host alone.
        arguments[:] = [place]

    event.listen(made, "do_connect", connect_to)
    _limit(made, statement_timeout, lock_timeout)
    event.listen(made, "handle_error", _leave_a_replica)
    return made


def _limit(engine: Engine, statement_timeout: timedelta, lock_timeout: timedelta) -> None:
    """Bound the statements of all connections: for good, or in each transaction anew.

    A pooler lends out other connections than those that it was asked for: the process behind is
    not the one that it named. What is set there stays for whoever gets it next, and what was
    prepared is not there the next time. Limits as startup options, some poolers refuse.
    """
    limits = {
        "statement": str(statement_timeout // timedelta(milliseconds=1)),
        "lock": str(lock_timeout // timedelta(milliseconds=1)),
    }

    def connected(connection: Any, record: ConnectionPoolEntry) -> None:
        asked = {**limits, "pid": connection.info.backend_pid}
        try:
            connection.autocommit = True
            *_, pooled = connection.execute(_LIMITS, asked).fetchone()
            connection.autocommit = False
        except BaseException:
            connection.close()
            raise
        record.info[_POOLED] = pooled
        if pooled:
            connection.prepare_threshold = None

    def begun(connection: Connection) -> None:
        if connection.info.get(_POOLED):
            # No process has the id 0, so the limits are for the transaction alone.
            connection.exec_driver_sql(_LIMITS, {**limits, "pid": 0})

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)


def _leave_a_replica(context: ExceptionContext) -> None:
    """Give up connections to a server that is read-only: after a failover it is another one."""
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True


def database(engine: Engine) -> Database:
    """Return the factory of sessions that the functions of `store` take as `db`."""
    return sessionmaker(engine, expire_on_commit=False)


def connections_used(engine: Engine) -> dict[str, int]:
    """Return how many connections of an engine's pool are used, and how many are idle."""
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    return {"used": pool.checkedout(), "idle": pool.checkedin()}


def clock(db: Database) -> datetime:
    """Return the time of the database's clock."""
    with db.begin() as session:
        return session.scalars(select(func.now())).one()


DATABASE_ERRORS = (SQLAlchemyError,)
"""The errors that any use of the database may raise."""


def first_line(error: BaseException) -> str:
    """Return the first line of what went wrong, in the driver's own words where it has some."""
    return redact((str(getattr(error, "orig", None) or error).splitlines() or [repr(error)])[0])


def server_version(db: Database) -> int:
    """Return the version as Postgres numbers it: 180001 is 18.1. Raises one of DATABASE_ERRORS."""
    with db.begin() as session:
        return int(session.scalars(text("SHOW server_version_num")).one())
