"""Whether this code may work on the database's schema, by the revisions on both sides.

It reads the names of the migrations alone: Alembic, which only `haulier migrate` needs, takes 11 MB
of every process that imports it.
"""

from functools import cache
from pathlib import Path

from sqlalchemy import Select, column, select, table
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from service.store.engine import Database
from service.store.models import SCHEMA, SchemaFloor

_VERSIONS = Path(__file__).parent / "migrations" / "versions"
_UNDEFINED_TABLE = "42P01"


def is_migrated(db: Database) -> bool:
    """Whether the database has the schema that this code knows, or a newer one that it may use.

    In a rolling deploy, migrations come first. Most only add something, and older code goes on.
    """
    with db() as session:
        current = _current(session)
        newer = bool(current - known())
        return current == {max(known())} or (newer and _floors(session) <= known())


def is_too_new(db: Database) -> bool:
    """Whether the database was brought to a schema that this code must not work on."""
    with db() as session:
        return bool(_current(session) - known()) and not _floors(session) <= known()


@cache
def known() -> frozenset[str]:
    """Return the revisions that this code knows. They are numbers: the greatest is the newest."""
    return frozenset(path.name[:4] for path in _VERSIONS.glob("[0-9]*.py"))


def _current(session: Session) -> set[str]:
    found: Select[tuple[str]] = select(column("version_num")).select_from(
        table("alembic_version", schema=SCHEMA)
    )
    try:
        with session.begin_nested():
            return set(session.scalars(found))
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) == _UNDEFINED_TABLE:
            return set()
        raise


def _floors(session: Session) -> set[str]:
    return set(session.scalars(select(SchemaFloor.revision)))
