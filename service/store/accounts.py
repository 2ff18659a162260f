"""The accounts that have a row: those that were paused once."""

from sqlalchemy import select

from service.models import Account
from service.store.engine import Database


def accounts(db: Database) -> list[Account]:
    """Every account that ever was paused."""
    with db.begin() as session:
        return list(session.scalars(select(Account)))
