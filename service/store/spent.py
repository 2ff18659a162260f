"""Input files that were given up, and under which no batch may live on."""

from collections import defaultdict
from datetime import timedelta

from sqlalchemy import func, or_, select, text

from service.store.engine import Database
from service.store.models import Batch

WATCHED = timedelta(days=3)
"""For how long after its batch was done. Together's own limit for a batch is a day; support asks
to wait for three (TOGETHER_API)."""


def spent_files(db: Database) -> dict[str, list[str]]:
    """The files that were given up lately, by account."""
    with db.begin() as session:
        rows = session.execute(
            select(Batch.account, Batch.spent_file_ids).where(
                text("batches.spent_file_ids <> '[]'"),
                or_(Batch.finished_at.is_(None), Batch.finished_at > func.now() - WATCHED),
            )
        ).all()
    files: defaultdict[str, list[str]] = defaultdict(list)
    for account, ids in rows:
        files[account].extend(ids)
    return dict(files)
