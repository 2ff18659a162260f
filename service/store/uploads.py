"""Bytes on their way into files: reserved before they are written, and stored when all are there.

What arrives counts against the producer's `stored_bytes` from the moment it is reserved. An upload
whose process died is no longer seen, and after a while counts for nothing.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.rules.errors import OverQuota
from service.store.engine import Database
from service.store.files import UPLOAD_WITHIN
from service.store.models import Credential, File, Producer, Upload
from service.store.quotas import SOME_OF_IT

SEEN_WITHIN = timedelta(minutes=5)
"""An upload that was not seen for so long is over: its process died. It is seen every second."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """The bytes of a file, once they are all in blob storage."""

    blob: str
    sha256: str
    bytes: int
    lines: int


@dataclass(frozen=True, kw_only=True)
class Told:
    """What was told of a file when its bytes were all there, where that came last."""

    filename: str | None = None
    sha256: str | None = None
    """What the bytes ought to hash to (hex)."""
    lifetime: timedelta | None = None
    """How long it is kept, where that is less than usual."""


class Stored(Enum):
    """What became of the bytes that were sent for a file."""

    NEW = auto()
    SAME = auto()
    """The file has got the same ones meanwhile, in another blob."""
    OTHER = auto()
    """The file has got other ones meanwhile."""
    GONE = auto()
    """The file takes none any more."""


_NOTHING = Told()


def _takes_bytes(file_id: str) -> ColumnElement[bool]:
    """Whether a file still takes bytes: for a day, while who announced it may still call."""
    valid = (
        select(Credential.id)
        .where(Credential.id == File.credential, Credential.revoked_at.is_(None))
        .where(func.coalesce(Credential.expires_at > func.now(), True))
        .correlate(File)
        .exists()
    )
    enabled = (
        select(Producer.name)
        .where(Producer.name == File.producer, Producer.disabled_at.is_(None))
        .correlate(File)
        .exists()
    )
    return and_(
        File.id == file_id,
        File.deleted_at.is_(None),
        File.created_at > func.now() - UPLOAD_WITHIN,
        or_(File.credential.is_(None), valid),
        enabled,
    )


def expected(db: Database, file_id: str) -> tuple[File, int | None] | None:
    """A file whose bytes are still taken, and how many these may be (None: any number).

    A file that is whole may be sent again, by who did not hear of it: no more than it has.
    """
    if not file_id.isprintable():  # Postgres takes no NUL and no half of a surrogate
        return None
    # LEAST passes over nulls.
    query = (
        select(File, func.least(Producer.body_bytes, File.bytes))
        .join(Producer, Producer.name == File.producer)
        .where(_takes_bytes(file_id))
    )
    with db.begin() as session:
        row = session.execute(query).one_or_none()
        return None if row is None else (row[0], row[1])


def takes_bytes(db: Database, file_id: str) -> bool:
    """Whether a file still takes bytes, be it only to compare them with its own."""
    with db.begin() as session:
        return session.scalar(select(File.id).where(_takes_bytes(file_id))) is not None


def reserve(db: Database, upload_id: UUID, file: File, *, least: int, most: int) -> int | None:
    """Reserve room for an upload, and return how much: `most` bytes, or what is left.

    Both numbers are of the whole upload, not of what comes next. None if the file takes no bytes
    any more. Raises OverQuota if there is no room for `least`.
    """
    with db.begin() as session:
        limit = session.scalar(
            select(Producer.stored_bytes)
            .where(Producer.name == file.producer, Producer.stored_bytes.is_not(None))
            # Uploads of a producer take turns here, and nobody else's.
            .with_for_update(key_share=True)
        )
        granted = most
        if limit is not None:
            used = _stored(session, file.producer, but=upload_id)
            granted = min(most, limit - used)
            if granted < least:
                wait = SOME_OF_IT if least <= limit else None
                raise OverQuota(_words(limit, used, least), wait=wait)
        taking = select(File.id).where(_takes_bytes(file.id))
        if session.scalar(taking.with_for_update(read=True, key_share=True)) is None:
            return None
        row = {"id": upload_id, "file_id": file.id, "producer": file.producer, "bytes": granted}
        session.execute(
            insert(Upload)
            .values(row)
            .on_conflict_do_update(
                index_elements=[Upload.id], set_={"bytes": granted, "seen_at": func.now()}
            )
        )
        return granted


def _words(limit: int, used: int, asked: int) -> str:
    return (
        f"the producer may store {limit:,} bytes of files;"
        f" {used:,} are used, and {asked:,} were to be added: delete files, or wait until they"
        " expire"
    )


def _stored(session: Session, producer: str, *, but: UUID) -> int:
    """Bytes that a producer stores, uploads under way among them."""
    files = _sum(File.bytes).where(
        File.producer == producer, File.blob.is_not(None), File.discarded_at.is_(None)
    )
    uploads = _sum(Upload.bytes).where(
        Upload.producer == producer, Upload.id != but, Upload.seen_at > func.now() - SEEN_WITHIN
    )
    # In one statement: an upload that is stored meanwhile is seen as one of the two.
    both = select(files.scalar_subquery() + uploads.scalar_subquery())
    return int(session.scalars(both).one())


def _sum(column: object) -> Select[tuple[int]]:
    return select(func.coalesce(func.sum(column), 0))


def see(db: Database, upload_id: UUID, file_id: str) -> bool:
    """Say that an upload is still under way. False if its file takes no bytes any more."""
    taking = select(File.id).where(_takes_bytes(file_id)).exists()
    with db.begin() as session:
        seen = session.scalar(
            update(Upload)
            .where(Upload.id == upload_id, taking)
            .values(seen_at=func.now())
            .returning(Upload.id)
        )
        return seen is not None


def store(
    db: Database, upload_id: UUID, file_id: str, content: Content, told: Told = _NOTHING
) -> Stored:
    """All bytes are there: they are the file's, and no longer the upload's."""
    with db.begin() as session:
        stored = session.scalar(
            update(File)
            .where(_takes_bytes(file_id), File.blob.is_(None))
            .values(
                blob=content.blob,
                sha256=content.sha256,
                bytes=content.bytes,
                lines=content.lines,
                renewed_at=func.now(),
                filename=File.filename if told.filename is None else told.filename,
                expires_at=None if told.lifetime is None else func.now() + told.lifetime,
            )
            .returning(File.id)
        )
        if stored is not None:
            session.execute(delete(Upload).where(Upload.id == upload_id))
            return Stored.NEW
        known = session.scalar(select(File.sha256).where(_takes_bytes(file_id)))
        if known is None:
            return Stored.GONE
        return Stored.SAME if known == content.sha256 else Stored.OTHER


def release(db: Database, upload_id: UUID) -> None:
    """Give back what was reserved: the bytes are deleted."""
    with db.begin() as session:
        session.execute(delete(Upload).where(Upload.id == upload_id))
