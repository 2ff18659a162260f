"""Forecasts of jobs, what became of them, and how many came true."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from service.store.models.base import Base


class JobForecast(Base):
    """A job in a lane: when it is to end there, or, once it has ended, a piece of history.

    What has ended forgets its job, so that it stays when the job is pruned.
    """

    __tablename__ = "forecasts"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    account: Mapped[str]
    endpoint: Mapped[str]
    model: Mapped[str]
    requests: Mapped[int]
    ahead: Mapped[int]
    """Requests that were to go before it when it was first looked at."""
    since: Mapped[datetime]
    p50: Mapped[datetime | None]
    p90: Mapped[datetime | None]
    basis: Mapped[int | None]
    """How many jobs they rest on."""
    code: Mapped[str | None]
    reason: Mapped[str | None]
    """Why there is none."""
    look_at: Mapped[datetime]
    """When it is to be made anew."""
    said_p90: Mapped[datetime | None]
    """What was said first."""
    half_at: Mapped[datetime | None]
    half_p90: Mapped[datetime | None]
    """What was said at half time."""
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("p50 <= p90", name="order"),
        CheckConstraint("(job_id IS NULL) = (ended_at IS NOT NULL)", name="ended"),
        Index(
            "forecasts_job_id_key",
            "job_id",
            "account",
            "endpoint",
            "model",
            unique=True,
            postgresql_where=text("job_id IS NOT NULL"),
        ),
        Index(
            "forecasts_history_idx",
            "account",
            "endpoint",
            "model",
            "ended_at",
            postgresql_where=text("ended_at IS NOT NULL"),
        ),
        Index("forecasts_due_idx", "look_at", postgresql_where=text("job_id IS NOT NULL")),
    )


class Coverage(Base):
    """How many jobs of a lane ended before the 90 % instant, as said first and at half time."""

    __tablename__ = "forecast_coverage"

    account: Mapped[str] = mapped_column(primary_key=True)
    endpoint: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    stretch: Mapped[float] = mapped_column(server_default="1")
    """Of the way to the 90 % instant, so that nine of ten come true."""
    half_stretch: Mapped[float] = mapped_column(server_default="1")
    """The same, from half time on."""
    ended: Mapped[int] = mapped_column(server_default="0")
    in_time: Mapped[int] = mapped_column(server_default="0")
    half_ended: Mapped[int] = mapped_column(server_default="0")
    half_in_time: Mapped[int] = mapped_column(server_default="0")
