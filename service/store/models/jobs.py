"""Jobs, with their results, events and dead letters."""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Numeric,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from service.rules.canary import Held
from service.rules.deadlines import OnDeadline
from service.rules.states import JobState
from service.store.models.base import Base, Leased, one_of


class Job(Leased, Base):
    __tablename__ = "jobs"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    producer: Mapped[str] = mapped_column(ForeignKey("producers.name"))
    state: Mapped[JobState]
    endpoint: Mapped[str]
    account: Mapped[str]
    priority: Mapped[int] = mapped_column(server_default="0")
    max_attempts: Mapped[int]
    # `metadata` is taken in SQLAlchemy's declarative classes.
    labels: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))
    notify: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))
    is_call: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether it came as an ordinary call, and has a row in `calls`."""
    # Of up to 32 KB, and few read it.
    answer_check: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True), deferred=True)
    """The `check` of its spec, as it was given."""
    canary: Mapped[int | None]
    canary_failures: Mapped[int | None]
    """How many requests of the canary may fail."""
    held: Mapped[Held | None]
    """What its waiting parts that are not ready before HELD_UNTIL wait for."""
    held_at: Mapped[datetime | None]
    """Set while only a decision lets them go: by `release`, or else by `cancel`."""
    max_cost: Mapped[Decimal | None] = mapped_column(Numeric)
    """In USD."""
    short_reason: Mapped[str | None]
    """Why its next part would pass `max_cost`, when that was looked at the last time."""
    deadline: Mapped[datetime | None]
    on_deadline: Mapped[OnDeadline | None]
    deadline_look_at: Mapped[datetime | None]
    """When to look next at how it stands to its deadline; None if it has none, or is finished."""
    deadline_at_risk_since: Mapped[datetime | None]
    deadline_missed_at: Mapped[datetime | None]
    raised_priority: Mapped[int | None]
    """The priority of its waiting parts, while its deadline gives them another one than its own."""
    idempotency_key: Mapped[str | None]
    fingerprint: Mapped[str | None]
    input: Mapped[str | None]
    bundle_blob: Mapped[str | None] = mapped_column("page_blob")
    """The blob that its requests share with those of other small jobs, where they do."""

    total: Mapped[int] = mapped_column(server_default="0")
    succeeded: Mapped[int] = mapped_column(server_default="0")
    failed: Mapped[int] = mapped_column(server_default="0")
    pending: Mapped[int] = mapped_column(server_default="0")
    open_parts: Mapped[int] = mapped_column(server_default="0")
    settled_parts: Mapped[int] = mapped_column(server_default="0")
    attempts: Mapped[int] = mapped_column(server_default="0")
    prompt_tokens: Mapped[int] = mapped_column(server_default="0")
    completion_tokens: Mapped[int] = mapped_column(server_default="0")
    total_tokens: Mapped[int] = mapped_column(server_default="0")

    error: Mapped[str | None]
    problems: Mapped[list[Any] | None]
    generation: Mapped[int] = mapped_column(server_default="0")
    """The generation of results to be read; 0 before there is one."""

    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(one_of("state", JobState), name="state"),
        CheckConstraint("total = succeeded + failed + pending", name="conservation"),
        CheckConstraint("pending >= 0 AND open_parts >= 0", name="counters"),
        CheckConstraint("(lease IS NULL) = (leased_until IS NULL)", name="lease"),
        CheckConstraint(
            "(finished_at IS NOT NULL) = (state NOT IN ('accepted', 'running'))", name="finished"
        ),
        CheckConstraint(
            "state NOT IN ('completed', 'cancelled') OR (pending = 0 AND open_parts = 0)",
            name="accounted",
        ),
        CheckConstraint("state NOT IN ('rejected', 'failed') OR error IS NOT NULL", name="reason"),
        CheckConstraint("deadline_look_at IS NULL OR finished_at IS NULL", name="deadline"),
        UniqueConstraint("producer", "idempotency_key"),
        # Only what has something to do for a worker is in it; finished work costs nothing.
        Index(
            "jobs_due_idx",
            "producer",
            "priority",
            "not_before",
            postgresql_where=text(
                "parked_at IS NULL AND"
                " (state = 'accepted' OR (state = 'running' AND open_parts = 0))"
            ),
        ),
        Index(
            "jobs_under_way_idx",
            "producer",
            postgresql_where=text("dispatched_at IS NOT NULL OR lease IS NOT NULL"),
        ),
        # Lists, newest first: a producer's, everybody's, and those in a state that few are in.
        # Calls, which may be millions, have lists of their own.
        Index("jobs_producer_id_idx", "producer", "is_call", "created_at", "id"),
        Index("jobs_created_at_id_idx", "is_call", "created_at", "id"),
        Index("jobs_state_created_at_id_idx", "state", "is_call", "created_at", "id"),
        # What may be old enough to be forgotten, oldest first.
        Index(
            "jobs_finished_at_idx",
            "finished_at",
            postgresql_where=text("finished_at IS NOT NULL"),
        ),
        Index(
            "jobs_finished_calls_idx",
            "finished_at",
            postgresql_where=text("is_call AND finished_at IS NOT NULL"),
        ),
        # What a producer has under way, and what it looks for by its own marks.
        Index("jobs_open_idx", "producer", postgresql_where=text("finished_at IS NULL")),
        Index(
            "jobs_metadata_idx",
            "metadata",
            postgresql_using="gin",
            postgresql_ops={"metadata": "jsonb_path_ops"},
        ),
        # Those made of uploaded files (service.payloads.inputs), newest first.
        Index(
            "jobs_of_files_idx",
            "producer",
            "created_at",
            "id",
            postgresql_where=text("input LIKE 'haulier-file:%'"),
        ),
        # Whether any job has a bound on its cost.
        Index(
            "jobs_max_cost_idx",
            "id",
            postgresql_where=text("max_cost IS NOT NULL AND finished_at IS NULL"),
        ),
        # Only jobs with a deadline that are not finished are in it.
        Index(
            "jobs_deadline_look_at_idx",
            "deadline_look_at",
            postgresql_where=text("deadline_look_at IS NOT NULL"),
        ),
        # What waits for a person.
        Index(
            "jobs_need_idx",
            "id",
            postgresql_where=text(
                "finished_at IS NULL AND"
                " (parked_at IS NOT NULL OR held_at IS NOT NULL OR short_reason IS NOT NULL)"
            ),
        ),
        Index("jobs_page_blob_idx", "page_blob", postgresql_where=text("page_blob IS NOT NULL")),
    )


class Enqueued(Base):
    """A spec that a producer enqueued in its own transaction, until split has read it."""

    __tablename__ = "enqueued"

    job_id: Mapped[UUID] = mapped_column(
        ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True
    )
    spec: Mapped[str]


class Segment(Base):
    """A piece of one generation of a job's results."""

    __tablename__ = "segments"

    job_id: Mapped[UUID] = mapped_column(
        ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True
    )
    generation: Mapped[int] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    blob: Mapped[str]
    index_blob: Mapped[str]
    bytes: Mapped[int]
    requests: Mapped[int]


class Event(Base):
    """An entry of the event log, of a job or of a batch. What does something writes its event."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    batch_id: Mapped[UUID | None] = mapped_column(ForeignKey("batches.id", ondelete="CASCADE"))
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    source: Mapped[str | None]
    target: Mapped[str]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))

    __table_args__ = (
        CheckConstraint("num_nonnulls(job_id, batch_id) > 0", name="subject"),
        Index("events_job_id_idx", "job_id", "id"),
        Index(
            "events_batch_id_idx", "batch_id", "id", postgresql_where=text("batch_id IS NOT NULL")
        ),
    )


class DeadLetter(Base):
    __tablename__ = "dead_letters"

    job_id: Mapped[UUID] = mapped_column(
        ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True
    )
    ordinal: Mapped[int] = mapped_column(primary_key=True)
    custom_id: Mapped[str]
    code: Mapped[str]
    message: Mapped[str]
    attempts: Mapped[int]
    part_id: Mapped[UUID]
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    producer: Mapped[str | None]
    """None in rows that were written before there was this column."""
    cause: Mapped[str | None]
    """The message as `service.rules.alike` has it; None as above."""

    # The newest failures of a producer.
    __table_args__ = (
        Index(
            "dead_letters_producer_at_idx",
            "producer",
            "at",
            postgresql_where=text("producer IS NOT NULL"),
        ),
    )
