"""Calls: jobs of one request whose clients wait for the answer, and the processes that answer."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from service.store.models.base import Base


class Call(Base):
    """A job that came as an ordinary call."""

    __tablename__ = "calls"

    job_id: Mapped[UUID] = mapped_column(
        ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True
    )
    credential: Mapped[str]
    """The id of the credential that made it; `admin` for the admin token, which has none."""
    digest: Mapped[bytes | None]
    """SHA-256 of its endpoint and content, by which a repeat finds it; None if it has a key."""
    attendant: Mapped[UUID | None]
    """The process that holds a connection for its answer; None if none does."""
    hold: Mapped[UUID]
    """That connection. Whoever takes the call over writes another one here."""
    held_since: Mapped[datetime] = mapped_column(server_default=func.now())
    delivered_at: Mapped[datetime | None]
    """When its answer was sent whole."""

    __table_args__ = (
        # In the order in which `service.store.calls.take` looks.
        Index(
            "calls_unattended_idx",
            "credential",
            "digest",
            "held_since",
            postgresql_where=text("delivered_at IS NULL AND attendant IS NULL"),
        ),
        Index(
            "calls_attended_idx",
            "credential",
            "digest",
            "held_since",
            postgresql_where=text("delivered_at IS NULL AND attendant IS NOT NULL"),
        ),
        Index(
            "calls_delivered_idx",
            "credential",
            "digest",
            "delivered_at",
            postgresql_where=text("delivered_at IS NOT NULL"),
        ),
        Index("calls_attendant_idx", "attendant", postgresql_where=text("attendant IS NOT NULL")),
    )


class Attendant(Base):
    """A process of the API that holds calls. One that died is seen no more."""

    __tablename__ = "attendants"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
