"""Dry runs: the transactions of a verb, done for real and rolled back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

from service.store.engine import Database
from service.store.models import Audit


class Rehearsal(sessionmaker[Session]):
    """A database whose transactions change nothing. What they return is as it would be.

    A verb that is given one checks all that it would check, and says in `lines` what it would
    change: the lines of the audit log that it would write.
    """

    def __init__(self, db: Database) -> None:
        super().__init__(class_=db.class_, **db.kw)
        self.lines: list[Audit] = []

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """Yield a session whose transaction is rolled back, and leave its objects as they are."""

        def keep(flushed: Session, *_: Any) -> None:
            self.lines += [row for row in flushed.new if isinstance(row, Audit)]

        with self() as session:
            event.listen(session, "before_flush", keep)
            yield session
            session.flush()
            # A rollback would expire them, and nobody could read them then.
            session.expunge_all()
            session.rollback()
