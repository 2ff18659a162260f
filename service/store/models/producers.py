"""Producers, their credentials, the files that they uploaded, and uploads that are under way."""

from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    Numeric,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.store.models.base import Base


class Producer(Base):
    __tablename__ = "producers"

    name: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    disabled_at: Mapped[datetime | None]
    """Set while it can submit nothing and none of its credentials is valid."""

    # What it may use; None is all there is.
    accounts: Mapped[list[Any] | None] = mapped_column(server_default=text("'[\"default\"]'"))
    input_roots: Mapped[list[Any] | None] = mapped_column(server_default=text("'[]'"))
    notice_tasks: Mapped[list[Any] | None] = mapped_column(server_default=text("'[]'"))
    notice_queues: Mapped[list[Any] | None] = mapped_column(server_default=text("'[]'"))
    private_webhooks: Mapped[list[Any] | None] = mapped_column(server_default=text("'[]'"))
    """Hosts and networks that its webhooks may go to although private, and over plain HTTP."""

    lowest_priority: Mapped[int] = mapped_column(server_default="0")
    highest_priority: Mapped[int] = mapped_column(server_default="9")

    # How much of it; None is no limit.
    body_bytes: Mapped[int | None]
    open_requests: Mapped[int | None]
    requests_per_day: Mapped[int | None]
    stored_bytes: Mapped[int | None]
    held_calls: Mapped[int | None]
    """The most calls that wait at once on one process of the API."""
    counted_on: Mapped[date | None]
    counted_requests: Mapped[int] = mapped_column(server_default="0")
    """Requests that were accepted on that day (UTC), where `requests_per_day` is set."""

    usd_per_day: Mapped[Decimal | None] = mapped_column(Numeric)
    usd_per_month: Mapped[Decimal | None] = mapped_column(Numeric)
    short_until: Mapped[datetime | None]
    """Until when nothing of it is let in, because that would pass one of these two."""
    short_reason: Mapped[str | None]

    signing_secrets: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))
    """The secrets that sign webhooks to it and messages from it, newest first (`whsec_…`)."""

    __table_args__ = (
        CheckConstraint(
            "body_bytes > 0 AND open_requests > 0 AND requests_per_day > 0", name="limits"
        ),
        CheckConstraint("stored_bytes > 0", name="stored_bytes"),
        CheckConstraint("held_calls > 0", name="held_calls"),
        CheckConstraint("usd_per_day > 0 AND usd_per_month > 0", name="budgets"),
        CheckConstraint("lowest_priority <= highest_priority", name="priorities"),
    )


class Credential(Base):
    """A bearer token of a producer. Only its holder knows the token itself."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(primary_key=True)
    """Part of the token, so that the row can be found without comparing secrets."""
    producer: Mapped[str] = mapped_column(ForeignKey("producers.name"))
    label: Mapped[str] = mapped_column(server_default="")
    digest: Mapped[bytes]
    """SHA-256 of the token."""
    scopes: Mapped[list[Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]

    __table_args__ = (Index("tokens_producer_idx", "producer", "created_at"),)


class File(Base):
    """A file of request lines that was uploaded by itself, to be made a job of later."""

    __tablename__ = "files"

    id: Mapped[str] = mapped_column(primary_key=True)
    producer: Mapped[str] = mapped_column(ForeignKey("producers.name"))
    filename: Mapped[str]
    purpose: Mapped[str]
    upload_digest: Mapped[bytes]
    """SHA-256 of the secret with which its bytes may be sent."""
    credential: Mapped[str | None]
    """The id of the credential that announced it; None for the admin token."""
    announced_sha256: Mapped[str | None]
    """The SHA-256 that the producer announced (hex)."""
    sha256: Mapped[str | None]
    bytes: Mapped[int | None]
    lines: Mapped[int | None]
    blob: Mapped[str | None]
    """Set, with the three above, when all of it is there."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    renewed_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """When its time began: when it was announced, sent, or announced again."""
    expires_at: Mapped[datetime | None]
    """When it goes, where it was asked to go before its time is over."""
    deleted_at: Mapped[datetime | None]
    """When it was deleted or expired. Its bytes stay while a job still has to read them."""
    discarded_at: Mapped[datetime | None]
    """When its bytes were deleted. Until then they count as stored."""

    __table_args__ = (
        CheckConstraint(
            "num_nulls(blob, sha256, bytes, lines) IN (0, 4)",
            name="whole",
        ),
        # A producer's files, newest first, and the one that has some content.
        Index("files_producer_idx", "producer", "created_at", "id"),
        Index(
            "files_sha256_idx",
            "producer",
            "sha256",
            postgresql_where=text("sha256 IS NOT NULL AND deleted_at IS NULL"),
        ),
        # What is to be forgotten.
        Index(
            "files_gone_idx",
            "created_at",
            postgresql_where=text("blob IS NULL OR deleted_at IS NOT NULL"),
        ),
        # What counts as stored, and what was announced.
        Index(
            "files_stored_idx",
            "producer",
            postgresql_include=["bytes"],
            postgresql_where=text("blob IS NOT NULL AND discarded_at IS NULL"),
        ),
        Index(
            "files_announced_idx",
            "producer",
            "created_at",
            postgresql_where=text("blob IS NULL AND deleted_at IS NULL"),
        ),
        # What is due to expire, and to be discarded.
        Index(
            "files_renewed_at_idx",
            "renewed_at",
            postgresql_where=text("blob IS NOT NULL AND deleted_at IS NULL"),
        ),
        Index(
            "files_expires_at_idx",
            "expires_at",
            postgresql_where=text(
                "blob IS NOT NULL AND deleted_at IS NULL AND expires_at IS NOT NULL"
            ),
        ),
        Index(
            "files_deleted_at_idx",
            "deleted_at",
            postgresql_where=text(
                "blob IS NOT NULL AND deleted_at IS NOT NULL AND discarded_at IS NULL"
            ),
        ),
    )


class Upload(Base):
    """Bytes that are arriving for a file. They count as stored while the upload is seen."""

    __tablename__ = "uploads"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    file_id: Mapped[str] = mapped_column(ForeignKey("files.id", ondelete="CASCADE"), index=True)
    producer: Mapped[str] = mapped_column(index=True)
    bytes: Mapped[int]
    """How many it may have by now: reserved before they are written."""
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
