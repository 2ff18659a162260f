"""The outbox of notices."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.store.models.base import Base


class Delivery(Base):
    """The outbox of notices."""

    __tablename__ = "deliveries"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    event: Mapped[str]
    target: Mapped[dict[str, Any]]
    endpoint: Mapped[str]
    """The host and port, or the queue: its notices succeed or fail together."""
    with_results: Mapped[bool] = mapped_column(server_default="false")
    """Whether it carries the job's results, if they are few."""
    lease: Mapped[UUID | None]
    leased_until: Mapped[datetime | None]
    not_before: Mapped[datetime] = mapped_column(server_default=func.now())
    """Moved to the lease's end by a claim, so that what is being sent is not looked at again."""
    tries: Mapped[int] = mapped_column(server_default="0")
    first_tried_at: Mapped[datetime | None]
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    delivered_at: Mapped[datetime | None]
    parked_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("delivered_at IS NULL OR parked_at IS NULL", name="outcome"),
        CheckConstraint("(lease IS NULL) = (leased_until IS NULL)", name="lease"),
        # One endpoint after another, however many notices wait for the one before.
        Index(
            "deliveries_due_idx",
            "endpoint",
            "not_before",
            postgresql_where=text("delivered_at IS NULL AND parked_at IS NULL"),
        ),
        Index(
            "deliveries_leased_idx",
            "endpoint",
            "leased_until",
            postgresql_where=text("lease IS NOT NULL"),
        ),
        Index("deliveries_job_id_idx", "job_id", "created_at", "id"),
        Index(
            "deliveries_parked_at_idx", "parked_at", postgresql_where=text("parked_at IS NOT NULL")
        ),
    )
