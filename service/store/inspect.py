"""What an operator wants to know of the server, for `haulier doctor`."""

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from service.store.engine import Database

DATABASE_ERRORS = (SQLAlchemyError,)
"""What any use of the database may raise."""


def server_version(db: Database) -> int:
    """As Postgres numbers it: 180001 is 18.1. Raises one of DATABASE_ERRORS."""
    with db.begin() as session:
        return int(session.scalars(text("SHOW server_version_num")).one())
