"""Files that were uploaded by themselves, and the jobs that were made of them."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    CollectionAggregate,
    Text,
    any_,
    cast,
    delete,
    func,
    select,
    text,
    update,
)

from service.payloads.inputs import uploaded, uploaded_blob
from service.rules.states import JobState
from service.store.engine import Database
from service.store.models import File, Job, Producer
from service.store.submit import Submission, Submitted, submit_within

UPLOAD_WITHIN = timedelta(days=1)
"""For how long bytes are taken after a file was announced."""

# As the partial index says it.
_OF_FILES = text("jobs.input LIKE 'haulier-file:%'")
_GONE = text("(files.blob IS NULL OR files.deleted_at IS NOT NULL)")


@dataclass(frozen=True, kw_only=True)
class Content:
    """The bytes of a file, once they are all in blob storage."""

    blob: str
    sha256: str
    bytes: int
    lines: int


def announce(
    db: Database,
    *,
    file_id: str,
    producer: str,
    filename: str,
    purpose: str,
    digest: bytes,
    sha256: str | None,
) -> None:
    """A file whose bytes are still to come."""
    with db.begin() as session:
        session.add(
            File(
                id=file_id,
                producer=producer,
                filename=filename,
                purpose=purpose,
                upload_digest=digest,
                announced_sha256=sha256,
            )
        )


def _may_be(file_id: str) -> bool:
    """Whether there can be a file of this id. Postgres takes no NUL and no half of a surrogate."""
    return file_id.isprintable()


def expected(db: Database, file_id: str) -> tuple[File, int | None] | None:
    """A file whose bytes are still taken, and how many these may be (None: any number).

    A file that is whole may be sent again, by who did not hear of it: no more than it has.
    """
    if not _may_be(file_id):
        return None
    # LEAST passes over nulls.
    query = select(File, func.least(Producer.body_bytes, File.bytes)).where(
        File.id == file_id,
        File.deleted_at.is_(None),
        File.created_at > func.now() - UPLOAD_WITHIN,
    )
    with db.begin() as session:
        row = session.execute(query.join(Producer, Producer.name == File.producer)).one_or_none()
        return None if row is None else (row[0], row[1])


def store(db: Database, file_id: str, content: Content) -> bool:
    """The bytes are there. False where the file has other ones already, or is gone."""
    with db.begin() as session:
        stored = session.scalar(
            update(File)
            .where(File.id == file_id, File.blob.is_(None), File.deleted_at.is_(None))
            .values(
                blob=content.blob,
                sha256=content.sha256,
                bytes=content.bytes,
                lines=content.lines,
            )
            .returning(File.id)
        )
        if stored is not None:
            return True
        known = select(File.sha256).where(File.id == file_id, File.deleted_at.is_(None))
        return session.scalar(known) == content.sha256


def file(db: Database, file_id: str, producer: str) -> File | None:
    """A file of the producer, whole or not."""
    if not _may_be(file_id):
        return None
    query = select(File).where(File.id == file_id, File.deleted_at.is_(None))
    with db.begin() as session:
        return session.scalars(query.where(File.producer == producer)).one_or_none()


def with_content(db: Database, producer: str, sha256: str) -> str | None:
    """The id of the producer's file that has this content."""
    with db.begin() as session:
        return session.scalar(
            select(File.id)
            .where(File.producer == producer, File.sha256 == sha256)
            .where(File.sha256.is_not(None), File.deleted_at.is_(None))
            .limit(1)
        )


def files(db: Database, producer: str, *, limit: int) -> list[File]:
    """The producer's files that are whole, newest first."""
    whole = select(File).where(File.producer == producer, File.deleted_at.is_(None))
    with db.begin() as session:
        return list(
            session.scalars(
                whole.where(File.blob.is_not(None))
                .order_by(File.created_at.desc(), File.id.desc())
                .limit(limit)
            )
        )


def sizes(db: Database, producer: str, ids: Collection[str]) -> dict[str, int]:
    """Bytes of those of the producer's files that are known, deleted ones among them."""
    query = select(File.id, File.bytes).where(File.id == _any(ids), File.bytes.is_not(None))
    with db.begin() as session:
        found = session.execute(query.where(File.producer == producer))
        return {file_id: size or 0 for file_id, size in found}


def remove(db: Database, file_id: str, producer: str) -> bool:
    """Delete a file; jobs that were made of it are not touched. False where there is none."""
    if not _may_be(file_id):
        return False
    with db.begin() as session:
        removed = session.scalar(
            update(File)
            .where(File.id == file_id, File.producer == producer, File.deleted_at.is_(None))
            .values(deleted_at=func.now())
            .returning(File.id)
        )
        return removed is not None


# --- jobs made of files --------------------------------------------------------------------------


def submit_once(
    db: Database, file_id: str, submission: Submission, *, since: datetime
) -> Submitted:
    """A job made of a file, or the one like it that was stored since then.

    One at a time for each file, so that of two that are under way together the later finds the
    earlier. Raises Conflict for an idempotency key that was used for something else, OverQuota
    where the producer's limit is reached.
    """
    spec = submission.spec
    with db.begin() as session:
        session.execute(select(File.id).where(File.id == file_id).with_for_update())
        if spec.idempotency_key is None:
            known = session.scalar(
                select(Job.id)
                .where(Job.producer == submission.producer, Job.created_at >= since, _OF_FILES)
                .where(Job.input == spec.input, Job.endpoint == spec.endpoint)
                .where(Job.idempotency_key.is_(None))
                .order_by(Job.created_at.desc())
                .limit(1)
            )
            if known is not None:
                return Submitted(known, new=False)
        return submit_within(session, submission)


def jobs_of_files(db: Database, producer: str, *, limit: int) -> list[Job]:
    """The producer's jobs that were made of files, newest first."""
    with db.begin() as session:
        return list(
            session.scalars(
                select(Job)
                .where(Job.producer == producer, _OF_FILES)
                .order_by(Job.created_at.desc(), Job.id.desc())
                .limit(limit)
            )
        )


# --- what may go ---------------------------------------------------------------------------------


def named(db: Database, blobs: Collection[str]) -> set[str]:
    """Those of the blobs (`files/<file id>/…`) that a file has, or that a job is to read yet."""
    ids = {blob.split("/")[1] for blob in blobs if blob.count("/") > 1}
    with db.begin() as session:
        kept = select(File.blob).where(File.id == _any(ids), File.deleted_at.is_(None))
        unread = select(Job.input).where(
            Job.state == JobState.ACCEPTED, Job.input == _any(map(uploaded, blobs))
        )
        found = [*session.scalars(kept), *map(uploaded_blob, session.scalars(unread))]
    return {blob for blob in found if blob is not None}


def prune_files(db: Database, *, older_than: timedelta) -> None:
    """Delete the rows of files that were deleted, or never sent, longer than `older_than` ago."""
    end = func.coalesce(File.deleted_at, File.created_at)
    before = func.now() - older_than
    with db.begin() as session:
        session.execute(delete(File).where(_GONE, File.created_at < before, end < before))


def _any(names: Iterable[str]) -> CollectionAggregate[Any]:
    return any_(cast(list(names), ARRAY(Text)))
