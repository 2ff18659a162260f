"""Usage, leftovers, chores, heartbeats, ticks and the schema's floor: the service's own records."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    Identity,
    Index,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.store.models.base import Base


class Usage(Base):
    """Usage on a day (UTC). It stays when the jobs are pruned."""

    __tablename__ = "usage"

    day: Mapped[date] = mapped_column(primary_key=True)
    producer: Mapped[str] = mapped_column(primary_key=True)
    account: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    batches: Mapped[int] = mapped_column(server_default="0")
    succeeded: Mapped[int] = mapped_column(server_default="0")
    dead: Mapped[int] = mapped_column(server_default="0")
    prompt_tokens: Mapped[int] = mapped_column(server_default="0")
    completion_tokens: Mapped[int] = mapped_column(server_default="0")
    total_tokens: Mapped[int] = mapped_column(server_default="0")

    __table_args__ = (Index("usage_producer_idx", "producer", "day"),)


class Leftover(Base):
    """Something that a pruned job left in blob storage or at Together, to be deleted."""

    __tablename__ = "leftovers"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    account: Mapped[str | None]
    """The account whose file at Together `name` is; None if `name` is a prefix of blob names."""
    name: Mapped[str]
    written_before: Mapped[datetime] = mapped_column(server_default=func.now())
    """Blobs that were written later are those of another job that came with the same id."""
    not_before: Mapped[datetime] = mapped_column(server_default=func.now())
    failures: Mapped[int] = mapped_column(server_default="0")

    __table_args__ = (Index("leftovers_due_idx", "account", "not_before"),)


class Chore(Base):
    """Something to be done now and then, by whichever process comes first."""

    __tablename__ = "chores"

    name: Mapped[str] = mapped_column(primary_key=True)
    begun_at: Mapped[datetime] = mapped_column(server_default=func.now())
    asked_at: Mapped[datetime | None]
    """Set while it is to be done and nobody has begun."""
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """When a process last asked whether it is time."""


class Heartbeat(Base):
    """A process that says it lives."""

    __tablename__ = "heartbeats"

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int]
    queues: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))
    slots: Mapped[int] = mapped_column(server_default="0")
    scratch_free: Mapped[int | None]
    """Free bytes of its scratch space; None for a process that has none."""
    version: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    draining_since: Mapped[datetime | None]
    """Set while it takes nothing new, because an operator has asked."""
    drained_at: Mapped[datetime | None]
    """Set once it holds nothing any more."""


class Tick(Base):
    """Ticks of all schedulers that took about as long: up to so many seconds."""

    __tablename__ = "ticks"

    up_to: Mapped[float] = mapped_column(primary_key=True)
    count: Mapped[int] = mapped_column(server_default="0")
    seconds: Mapped[float] = mapped_column(server_default="0")
    """The sum of their durations."""


class Measured(Base):
    """What all processes measured: how often, and the seconds of all together."""

    __tablename__ = "measured"

    name: Mapped[str] = mapped_column(primary_key=True)
    labels: Mapped[str] = mapped_column(primary_key=True)
    """The values of the labels of a `service.rules.measures.Measure`, with commas between them."""
    up_to: Mapped[float] = mapped_column(primary_key=True)
    """The upper bound of a histogram's bucket; infinite for a counter."""
    count: Mapped[int] = mapped_column(server_default="0")
    seconds: Mapped[float] = mapped_column(server_default="0")


class SchemaFloor(Base):
    """The oldest revision that code must know to work on this database; no row: any will do."""

    __tablename__ = "schema_floor"

    revision: Mapped[str] = mapped_column(primary_key=True)


class Counter(Base):
    """Something that happened so many times, for `/metrics`."""

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int] = mapped_column(server_default="0")
