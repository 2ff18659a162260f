"""Parts of jobs: what travels together in one attempt."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from service.rules.states import PartState
from service.store.models.base import Base, one_of


class Part(Base):
    __tablename__ = "parts"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    batch_id: Mapped[UUID | None] = mapped_column(
        # Admission gives a batch its parts before it knows what to write of them into its row.
        ForeignKey("batches.id", deferrable=True, initially="DEFERRED")
    )
    parent_id: Mapped[UUID | None]
    """The part of which it carries what was left over."""
    state: Mapped[PartState]
    shard: Mapped[int]
    """The number of the part of the job's input that it descends from."""
    attempt: Mapped[int] = mapped_column(server_default="1")

    account: Mapped[str]
    endpoint: Mapped[str]
    model: Mapped[str]
    producer: Mapped[str]
    priority: Mapped[int] = mapped_column(server_default="0")

    input_blob: Mapped[str]
    manifest_blob: Mapped[str | None]
    manifest: Mapped[bytes | None]
    """The manifest itself, where it is small."""
    bytes: Mapped[int]

    requests: Mapped[int]
    succeeded: Mapped[int] = mapped_column(server_default="0")
    dead: Mapped[int] = mapped_column(server_default="0")
    carried: Mapped[int] = mapped_column(server_default="0")
    final_lines: Mapped[dict[str, Any] | None]
    """The place of its final lines, as a `service.rules.work.FinalLines`."""
    prompt_tokens: Mapped[int] = mapped_column(server_default="0")
    completion_tokens: Mapped[int] = mapped_column(server_default="0")
    total_tokens: Mapped[int] = mapped_column(server_default="0")
    settle_order: Mapped[int | None]
    """Counts the settled parts of a job; where two speak of a request, the later one is right."""

    renamed: Mapped[bool | None]
    """Whether Together knows its requests by custom_ids of `service.rules.shared_ids`, or by their
    own; None if it knows none of them yet. So each request has one name in all attempts."""
    poison: Mapped[int] = mapped_column(server_default="0")
    """How many batches in a row with these requests FAILED as a whole."""
    failed_first: Mapped[UUID | None]
    """The first of these batches."""
    company: Mapped[UUID | None]
    """The id of the batch that it will share with parts of the same company, and with no others."""
    patient_until: Mapped[datetime | None]
    """Until when it waits for company, if it goes again while its job has other open batches."""

    outage_since: Mapped[datetime | None]
    """When trouble at Together first cost its requests a round, unless another error came since."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ready_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """From when on it may be let in."""
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(one_of("state", PartState), name="state"),
        CheckConstraint("num_nonnulls(manifest, manifest_blob) = 1", name="manifest"),
        CheckConstraint("state <> 'travelling' OR batch_id IS NOT NULL", name="travelling"),
        CheckConstraint("state <> 'waiting' OR batch_id IS NULL", name="waiting"),
        CheckConstraint("(finished_at IS NOT NULL) = (state = 'settled')", name="finished"),
        CheckConstraint(
            "(state <> 'settled' AND succeeded = 0 AND dead = 0 AND carried = 0)"
            " OR (state = 'settled' AND requests = succeeded + dead + carried)",
            name="conservation",
        ),
        # By group, the longest wait first.
        Index(
            "parts_waiting_idx",
            "account",
            "endpoint",
            "model",
            "priority",
            "producer",
            "ready_at",
            "shard",
            postgresql_where=text("state = 'waiting'"),
        ),
        Index("parts_job_id_idx", "job_id", "shard", "created_at", "id"),
        Index("parts_batch_id_idx", "batch_id"),
        # What is divided because a batch FAILED as a whole is rare.
        Index("parts_company_idx", "company", postgresql_where=text("company IS NOT NULL")),
        Index(
            "parts_failed_first_idx",
            "failed_first",
            postgresql_where=text("failed_first IS NOT NULL"),
        ),
        Index(
            "parts_divided_idx",
            "parent_id",
            postgresql_where=text("company IS NOT NULL"),
        ),
    )
