"""Provider batches: parts that travel together."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    Index,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.rules.states import OPEN_BATCH_STATES, BatchState
from service.rules.work import Ending
from service.store.models.base import Base, Leased, one_of


class Batch(Leased, Base):
    __tablename__ = "batches"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    state: Mapped[BatchState]
    sealed: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether it was ever claimed for its upload: its parts then stay in it."""
    poison: Mapped[int] = mapped_column(server_default="0")
    """How many batches in a row with these requests FAILED as a whole."""
    failed_first: Mapped[UUID | None]
    """The first of these batches."""
    not_there: Mapped[int] = mapped_column(server_default="0")
    """How many times in a row Together answered 404 for the batch or its files."""
    refusals: Mapped[int] = mapped_column(server_default="0")
    """How many times in a row Together refused it although the account's key works."""
    held: Mapped[int] = mapped_column(server_default="0")
    """How often it found its lane's queue full, or the credit used up."""
    ending: Mapped[Ending | None]
    """How it ends without another word from Together."""
    unsettled_since: Mapped[datetime | None]
    """When a fetch first saw that the files do not account for every request."""
    look: Mapped[str | None]
    """A digest of what the last fetch saw."""
    look_since: Mapped[datetime | None]
    """When a fetch first saw just that."""
    account: Mapped[str]
    endpoint: Mapped[str] = mapped_column(server_default="")
    producer: Mapped[str] = mapped_column(server_default="")
    priority: Mapped[int] = mapped_column(server_default="0")
    model: Mapped[str]
    tokens: Mapped[int] = mapped_column(server_default="0")
    """Its estimated tokens at admission."""
    probe: Mapped[int | None]
    """The most requests that it may send, if it goes to find out how its lane is."""
    parts: Mapped[int] = mapped_column(server_default="1")
    renamed: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether its requests go by custom_ids of `service.rules.shared_ids`."""
    bytes: Mapped[int]
    """Of its request lines, as their producer sent them."""

    requests: Mapped[int]
    succeeded: Mapped[int] = mapped_column(server_default="0")
    dead: Mapped[int] = mapped_column(server_default="0")
    carried: Mapped[int] = mapped_column(server_default="0")

    input_file_id: Mapped[str | None]
    provider_batch_id: Mapped[str | None]
    provider_status: Mapped[str | None]
    provider_error: Mapped[str | None]
    progress: Mapped[float | None]
    output_file_id: Mapped[str | None]
    error_file_id: Mapped[str | None]
    cancel_sent: Mapped[bool] = mapped_column(server_default=text("false"))
    create_deadline: Mapped[datetime | None]
    """The intent to create: after this instant its POST can no longer be in flight."""
    spent_file_ids: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))
    """Files of creates whose outcome was never learned; no batch under them may live on."""

    prompt_tokens: Mapped[int] = mapped_column(server_default="0")
    completion_tokens: Mapped[int] = mapped_column(server_default="0")
    total_tokens: Mapped[int] = mapped_column(server_default="0")
    oddities: Mapped[dict[str, Any] | None]

    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    cancelled_at: Mapped[datetime | None]
    """When the last of its jobs was cancelled."""
    submitted_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(one_of("state", BatchState), name="state"),
        CheckConstraint(one_of("ending", Ending), name="ending"),
        CheckConstraint("(lease IS NULL) = (leased_until IS NULL)", name="lease"),
        CheckConstraint(
            f"{one_of('state', OPEN_BATCH_STATES)} OR requests = succeeded + dead + carried",
            name="conservation",
        ),
        CheckConstraint(
            f"(finished_at IS NULL) = ({one_of('state', OPEN_BATCH_STATES)})", name="finished"
        ),
        CheckConstraint("state <> 'uploaded' OR input_file_id IS NOT NULL", name="uploaded"),
        CheckConstraint(
            "state NOT IN ('created', 'ended', 'settled') OR provider_batch_id IS NOT NULL",
            name="created",
        ),
        # No index holds what changes at every look: lease, not_before, counters. So most updates of
        # a row change no index (HOT), which the room that fillfactor leaves makes possible.
        Index(
            "batches_due_idx",
            "state",
            "account",
            "endpoint",
            "model",
            "priority",
            postgresql_where=text(f"parked_at IS NULL AND {one_of('state', OPEN_BATCH_STATES)}"),
        ),
        Index(
            "batches_under_way_idx",
            "account",
            "endpoint",
            "model",
            postgresql_where=text(
                "parked_at IS NULL AND (state IN ('uploaded', 'created')"
                " OR (state = 'queued' AND failures = 0))"
            ),
        ),
        # When a group last sent something.
        Index(
            "batches_group_idx",
            "account",
            "endpoint",
            "model",
            "priority",
            "producer",
            "created_at",
        ),
        Index(
            "batches_ending_idx",
            "state",
            postgresql_where=text("ending IS NOT NULL AND finished_at IS NULL"),
        ),
        Index("batches_parked_at_idx", "parked_at", postgresql_where=text("parked_at IS NOT NULL")),
        # Files of creates that were given up are rare, and looked for again and again.
        Index(
            "batches_spent_idx",
            "account",
            postgresql_where=text("spent_file_ids <> '[]'"),
        ),
        # One batch here for one batch there, whatever happens.
        Index(
            "batches_provider_batch_id_key",
            "account",
            "provider_batch_id",
            unique=True,
            postgresql_where=text("provider_batch_id IS NOT NULL"),
        ),
    )
