"""Periodic work that one of several processes does."""

from datetime import timedelta

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.store.engine import Database
from service.store.models import Chore

GAP = timedelta(hours=1)
"""If no process has asked for a chore for so long, its period starts anew."""


def begin(db: Database, name: str, *, every: timedelta) -> bool:
    """Whether it is time for a chore. If so, the caller has to do it, and nobody else does.

    A chore is due for the first time after the database has been in use for `every`: a database
    that was restored, or set up by mistake beside the blobs of another, must not sweep at once.
    """
    with db.begin() as session:
        session.execute(insert(Chore).values(name=name).on_conflict_do_nothing())
        chore, now = session.execute(
            select(Chore, func.now()).where(Chore.name == name).with_for_update()
        ).one()
        is_time = now - chore.begun_at > every
        unattended = now - chore.seen_at > GAP
        chore.seen_at = now
        if is_time or unattended:
            chore.begun_at = now
        if is_time and not unattended:
            chore.asked_at = now
        return is_time and not unattended


def was_asked(db: Database, name: str) -> bool:
    """Whether `begin` has said that it is time, since this was asked last.

    A message alone is no reason to do a chore: whoever can write to the broker could send it.
    """
    asked = update(Chore).where(Chore.name == name, Chore.asked_at.is_not(None))
    with db.begin() as session:
        found = session.execute(asked.values(asked_at=None).returning(Chore.name))
        return found.first() is not None


def give_back(db: Database, name: str, *, every: timedelta) -> None:
    """Make a chore due again that was begun and not finished."""
    with db.begin() as session:
        session.execute(update(Chore).where(Chore.name == name).values(begun_at=func.now() - every))


def take_turn(session: Session, name: str) -> bool:
    """Return whether this transaction is the only one at a chore. Never waits.

    The turn is a row's lock, not an advisory lock: those anybody can take who may connect.
    """
    turn = select(Chore.name).where(Chore.name == name).with_for_update(skip_locked=True)
    if session.scalar(turn) is not None:
        return True
    # Nobody has had a turn yet, or somebody has it now.
    if session.scalar(select(Chore.name).where(Chore.name == name)) is not None:
        return False
    session.execute(insert(Chore).values(name=name).on_conflict_do_nothing())
    return session.scalar(turn) is not None
