"""Sessions of the console: begun, found, and ended. What is kept is a hash."""

from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert

from service.store.engine import Database
from service.store.models import ConsoleSession


def begin(
    db: Database, digest: bytes, *, credential: str | None, origin: str | None, lasts: timedelta
) -> None:
    """Store a session, and forget those that are over."""
    with db.begin() as session:
        session.execute(delete(ConsoleSession).where(ConsoleSession.expires_at <= func.now()))
        session.execute(
            insert(ConsoleSession).values(
                digest=digest,
                credential=credential,
                origin=origin,
                expires_at=func.now() + lasts,
            )
        )


def find(db: Database, digest: bytes) -> ConsoleSession | None:
    """Return a session that is not over. Whether its credential is valid is for the caller."""
    with db.begin() as session:
        return session.scalar(
            select(ConsoleSession).where(
                ConsoleSession.digest == digest, ConsoleSession.expires_at > func.now()
            )
        )


def end(db: Database, digest: bytes) -> None:
    """End a session now."""
    with db.begin() as session:
        session.execute(delete(ConsoleSession).where(ConsoleSession.digest == digest))
