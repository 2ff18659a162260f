"""Blobs and files that pruned jobs left behind, until they are deleted."""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, func, or_, select, text, update

from service.rules.retry import backoff
from service.store.engine import Database
from service.store.models import Account, Batch, Leftover


@dataclass(frozen=True, kw_only=True)
class Discardable:
    """`name` is a file of an account at Together; without one, what names of blobs begin with.

    Only blobs that were `written_before` are meant.
    """

    id: int
    name: str
    written_before: datetime
    failures: int


# By the account as well, or the index would not be taken to be in order where that is NULL.
_LONGEST_FIRST = (Leftover.account, Leftover.not_before)


def _due(account: str | None) -> ColumnElement[bool]:
    # IS NOT DISTINCT FROM would not use the index.
    whose = Leftover.account.is_(None) if account is None else Leftover.account == account
    return whose & (Leftover.not_before <= func.now())


def owners(db: Database, accounts: Collection[str]) -> list[str | None]:
    """Which of the accounts have something due; None among them where blobs are.

    A paused account has to wait.
    """
    one = select(Leftover.id).order_by(*_LONGEST_FIRST).limit(1)
    paused = select(Account.name).where(Account.paused_until > func.now(), ~Account.spending)
    with db.begin() as session:
        waiting = set(session.scalars(paused))
        return [
            account
            for account in (None, *sorted(set(accounts) - waiting))
            if session.scalar(one.where(_due(account))) is not None
        ]


def claim(
    db: Database, account: str | None, *, limit: int, claim_for: timedelta
) -> list[Discardable]:
    """A page of what is due, longest first; nobody else gets it for `claim_for`.

    That is all there is of a claim: deleting twice does no harm.
    """
    due = (
        select(Leftover.id)
        .where(_due(account))
        .order_by(*_LONGEST_FIRST)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    with db.begin() as session:
        rows = session.execute(
            update(Leftover)
            .where(Leftover.id.in_(select(due.c.id)))
            .values(not_before=func.now() + claim_for)
            .returning(Leftover.id, Leftover.name, Leftover.written_before, Leftover.failures)
        ).mappings()
        return [Discardable(**row) for row in rows]


def remove(db: Database, ids: Sequence[int]) -> None:
    """Remove leftovers that have been deleted where they were."""
    with db.begin() as session:
        session.execute(delete(Leftover).where(Leftover.id.in_(ids)))


def postpone(db: Database, leftover: Discardable, *, retry_base: timedelta) -> None:
    """Try a leftover again later, without an end."""
    failures = leftover.failures + 1
    pause = backoff(failures, retry_base, random.random())  # noqa: S311  not for secrets
    with db.begin() as session:
        session.execute(
            update(Leftover)
            .where(Leftover.id == leftover.id)
            .values(failures=failures, not_before=func.now() + pause)
        )


# --- input files that were given up ---------------------------------------------------------------

WATCHED = timedelta(days=3)
"""How long a file is watched after its batch was done. Together's own limit for a batch is a day,
and support asks to wait for three (TOGETHER_API)."""


_SPENT = (
    text("batches.spent_file_ids <> '[]'"),
    or_(Batch.finished_at.is_(None), Batch.finished_at > func.now() - WATCHED),
)


def accounts_with_spent_files(db: Database) -> list[str]:
    """Return the accounts of which files were given up lately."""
    with db.begin() as session:
        return sorted(session.scalars(select(Batch.account).where(*_SPENT).distinct()))


def spent_files(db: Database, account: str) -> set[str]:
    """Return the files of an account that were given up lately: no batch may run under them."""
    with db.begin() as session:
        rows = session.scalars(
            select(Batch.spent_file_ids).where(Batch.account == account, *_SPENT)
        )
        return {file_id for ids in rows for file_id in ids}
