"""Files that were uploaded by themselves, and the jobs that were made of them.

How their bytes arrive is told in `uploads`, and how they go in `expiry`.
"""

from collections.abc import Collection, Iterable
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
    tuple_,
    update,
)

from service.rules.errors import OverQuota
from service.store.engine import Database
from service.store.models import File, Job, Producer
from service.store.quotas import SOME_OF_IT
from service.store.submit import Submission, Submitted, submit_within

UPLOAD_WITHIN = timedelta(days=1)
"""For how long bytes are taken after a file was announced."""
MOST_ANNOUNCED = 1_000
"""The files of a producer that may be announced and not sent yet."""

# As the partial index says it.
_OF_FILES = text("jobs.input LIKE 'haulier-file:%'")


def announce(
    db: Database,
    *,
    file_id: str,
    producer: str,
    filename: str,
    purpose: str,
    digest: bytes,
    sha256: str | None,
    credential: str | None,
) -> None:
    """A file whose bytes are still to come. Raises OverQuota if too many are."""
    with db.begin() as session:
        # One at a time for each producer, so that they are counted exactly.
        session.get(Producer, producer, with_for_update={"key_share": True})
        awaited = select(func.count()).where(
            File.producer == producer,
            File.blob.is_(None),
            File.deleted_at.is_(None),
            File.created_at > func.now() - UPLOAD_WITHIN,
        )
        if session.scalars(awaited).one() >= MOST_ANNOUNCED:
            words = f"{MOST_ANNOUNCED:,} files were announced and not sent: send or delete them"
            raise OverQuota(words, wait=SOME_OF_IT)
        session.add(
            File(
                id=file_id,
                producer=producer,
                filename=filename,
                purpose=purpose,
                upload_digest=digest,
                announced_sha256=sha256,
                credential=credential,
            )
        )


def _may_be(file_id: str) -> bool:
    """Whether there can be a file of this id. Postgres takes no NUL and no half of a surrogate."""
    return file_id.isprintable()


def file(db: Database, file_id: str, producer: str) -> File | None:
    """A file of the producer, whole or not."""
    if not _may_be(file_id):
        return None
    query = select(File).where(File.id == file_id, File.deleted_at.is_(None))
    with db.begin() as session:
        return session.scalars(query.where(File.producer == producer)).one_or_none()


def announced_again(db: Database, producer: str, sha256: str) -> str | None:
    """The id of the producer's file that has this content. Its time begins anew."""
    known = (
        select(File.id)
        .where(File.producer == producer, File.sha256 == sha256)
        .where(File.sha256.is_not(None), File.deleted_at.is_(None))
        .limit(1)
        .with_for_update()
        .cte("known")
    )
    with db.begin() as session:
        return session.scalar(
            update(File)
            .where(File.id.in_(select(known.c.id)))
            .values(renewed_at=func.now(), expires_at=None)
            .returning(File.id)
        )


def files(
    db: Database,
    producer: str,
    *,
    limit: int,
    after: File | None = None,
    oldest_first: bool = False,
) -> list[File]:
    """The producer's files that are whole, newest first. `after` is where the last page ended."""
    whole = select(File).where(File.producer == producer, File.deleted_at.is_(None))
    whole = whole.where(File.blob.is_not(None))
    place = tuple_(File.created_at, File.id)
    if after is not None:
        last = (after.created_at, after.id)
        whole = whole.where(place > last if oldest_first else place < last)
    with db.begin() as session:
        ordered = whole.order_by(
            *(
                column.asc() if oldest_first else column.desc()
                for column in (File.created_at, File.id)
            )
        )
        return list(session.scalars(ordered.limit(limit)))


def sizes(db: Database, producer: str, ids: Collection[str]) -> dict[str, int]:
    """Bytes of those of the producer's files that are known, deleted ones among them."""
    query = select(File.id, File.bytes).where(File.id == any_of(ids), File.bytes.is_not(None))
    with db.begin() as session:
        found = session.execute(query.where(File.producer == producer))
        return {file_id: size or 0 for file_id, size in found}


def remove(db: Database, file_id: str, producer: str) -> bool:
    """Delete a file; jobs that were made of it are not touched. False where there is none.

    Their bytes are discarded later (`expiry`).
    """
    if not _may_be(file_id):
        return False
    its = (File.id == file_id, File.producer == producer, File.deleted_at.is_(None))
    with db.begin() as session:
        # What was never sent leaves nothing to be remembered.
        unsent = delete(File).where(*its, File.blob.is_(None)).returning(File.id)
        if session.scalar(unsent) is not None:
            return True
        removed = update(File).where(*its).values(deleted_at=func.now()).returning(File.id)
        return session.scalar(removed) is not None


# --- jobs made of files --------------------------------------------------------------------------


def submit_once(
    db: Database, file_id: str, submission: Submission, *, since: datetime
) -> Submitted | None:
    """A job made of a file, or the one like it that was stored since then. None without the file.

    One at a time for each file, so that of two that are under way together the later finds the
    earlier. Raises Conflict for an idempotency key that was used for something else, OverQuota
    where the producer's limit is reached.
    """
    spec = submission.spec
    with db.begin() as session:
        there = select(File.id).where(File.id == file_id, File.deleted_at.is_(None))
        if session.scalar(there.with_for_update(key_share=True)) is None:
            return None
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


def jobs_of_files(
    db: Database, producer: str, *, limit: int, after: Job | None = None
) -> list[Job]:
    """The producer's jobs that were made of files, newest first. After the last one of a page."""
    query = select(Job).where(Job.producer == producer, _OF_FILES)
    if after is not None:
        query = query.where(tuple_(Job.created_at, Job.id) < (after.created_at, after.id))
    with db.begin() as session:
        return list(
            session.scalars(query.order_by(Job.created_at.desc(), Job.id.desc()).limit(limit))
        )


def any_of(names: Iterable[str]) -> CollectionAggregate[Any]:
    return any_(cast(list(names), ARRAY(Text)))
