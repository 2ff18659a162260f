"""Many rows at once."""

from collections.abc import Iterable, Sequence
from typing import Any

from psycopg import Connection, sql
from sqlalchemy.orm import Session

from service.store.models import SCHEMA, Base


def copy_rows(
    session: Session, table: type[Base], columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """COPY rows into a table, within the session's transaction."""
    session.flush()
    connection = session.connection().connection.driver_connection
    if not isinstance(connection, Connection):
        raise TypeError(f"COPY needs psycopg, not {type(connection)}")
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(SCHEMA, table.__tablename__),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)
