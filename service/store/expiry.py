"""Files that go: they expire, their bytes are discarded, and then their rows are forgotten."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, delete, func, or_, select, text, update

from service.payloads.inputs import uploaded, uploaded_blob
from service.rules.states import JobState
from service.store.engine import Database
from service.store.files import any_of
from service.store.models import File, Job, Upload
from service.store.uploads import SEEN_WITHIN

_GONE = text("(files.blob IS NULL OR files.deleted_at IS NOT NULL)")
_UNREAD = (
    select(Job.id)
    # By the partial index of unfinished jobs.
    .where(Job.producer == File.producer, Job.finished_at.is_(None))
    .where(Job.state == JobState.ACCEPTED, Job.input == func.concat(uploaded(""), File.blob))
    .correlate(File)
    .exists()
)
"""Whether a job is still to read the file."""


@dataclass(frozen=True)
class DeletedFile:
    """A deleted file whose bytes nobody needs."""

    id: str
    blob: str


def _expired(after: timedelta) -> ColumnElement[bool]:
    whole = File.blob.is_not(None) & File.deleted_at.is_(None)
    is_over = or_(File.renewed_at < func.now() - after, File.expires_at < func.now())
    return whole & is_over & ~_UNREAD


_DISCARDABLE = (
    File.blob.is_not(None) & File.deleted_at.is_not(None) & File.discarded_at.is_(None) & ~_UNREAD
)


def are_due(db: Database, *, after: timedelta) -> bool:
    """Whether a file has expired, or bytes can be discarded."""
    with db.begin() as session:
        return any(
            session.scalar(select(File.id).where(due).limit(1)) is not None
            for due in (_expired(after), _DISCARDABLE)
        )


def expire(db: Database, *, after: timedelta, limit: int) -> int:
    """Delete at most `limit` files whose time is over and which no job is still to read."""
    old = select(File.id).where(_expired(after)).limit(limit)
    locked = old.with_for_update(skip_locked=True).cte("old")
    with db.begin() as session:
        expired = session.scalars(
            update(File)
            .where(File.id.in_(select(locked.c.id)))
            .values(deleted_at=func.now())
            .returning(File.id)
        )
        return len(expired.all())


def discardable(db: Database, *, limit: int, file_id: str | None = None) -> Sequence[DeletedFile]:
    """Deleted files whose bytes nobody needs: at most `limit`, or only this one."""
    query = select(File.id, File.blob).where(_DISCARDABLE).limit(limit)
    if file_id is not None:
        query = query.where(File.id == file_id)
    with db.begin() as session:
        rows = session.execute(query)
        return [DeletedFile(file_id, blob) for file_id, blob in rows if blob is not None]


def discarded(db: Database, ids: Collection[str]) -> None:
    """The bytes of these files are deleted, and no longer count."""
    with db.begin() as session:
        session.execute(update(File).where(File.id == any_of(ids)).values(discarded_at=func.now()))


def named(db: Database, blobs: Collection[str]) -> set[str]:
    """Those of the blobs (`files/<file id>/…`) that a file has, or that a job is to read yet."""
    ids = {blob.split("/")[1] for blob in blobs if blob.count("/") > 1}
    with db.begin() as session:
        kept = select(File.blob).where(File.id == any_of(ids), File.deleted_at.is_(None))
        unread = select(Job.input).where(
            Job.state == JobState.ACCEPTED, Job.input == any_of(map(uploaded, blobs))
        )
        found = [*session.scalars(kept), *map(uploaded_blob, session.scalars(unread))]
    return {blob for blob in found if blob is not None}


def forget(db: Database, *, older_than: timedelta) -> None:
    """Delete the rows of files that were deleted, or never sent, longer than `older_than` ago.

    And those of uploads whose processes died.
    """
    end = func.coalesce(File.deleted_at, File.created_at)
    before = func.now() - older_than
    without_bytes = or_(File.blob.is_(None), File.discarded_at.is_not(None))
    with db.begin() as session:
        session.execute(
            delete(File).where(_GONE, without_bytes, File.created_at < before, end < before)
        )
        session.execute(delete(Upload).where(Upload.seen_at < func.now() - 2 * SEEN_WITHIN))
