"""The tables. `service.store` is the only writer of them."""

from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Date,
    DateTime,
    Enum,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from service.states import OPEN_BATCH_STATES, BatchState, JobState

SCHEMA = "haulier"

_names = {
    "pk": "%(table_name)s_pkey",
    "fk": "%(table_name)s_%(column_0_name)s_fkey",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
}


def _values(states: Any) -> list[str]:
    return [state.value for state in states]


class Base(DeclarativeBase):
    metadata = MetaData(schema=SCHEMA, naming_convention=_names)
    type_annotation_map = {  # noqa: RUF012  SQLAlchemy declares it so
        date: Date,
        datetime: DateTime(timezone=True),
        bytes: LargeBinary,
        str: Text,
        int: BigInteger,
        # None is SQL's NULL, not JSON's.
        dict[str, Any]: JSONB(none_as_null=True),
        list[Any]: JSONB(none_as_null=True),
        # Text and a CHECK, not a Postgres enum: a new state is then an ordinary migration.
        JobState: Enum(JobState, native_enum=False, length=16, values_callable=_values),
        BatchState: Enum(BatchState, native_enum=False, length=16, values_callable=_values),
    }


def _one_of(column: str, states: Any) -> str:
    return f"{column} IN ({', '.join(repr(str(s)) for s in sorted(states))})"


class Leased:
    """What every row has that workers take turns on."""

    lease: Mapped[UUID | None]
    leased_until: Mapped[datetime | None]
    not_before: Mapped[datetime] = mapped_column(server_default=func.now())
    dispatched_at: Mapped[datetime | None]
    tries: Mapped[int] = mapped_column(server_default="0")
    """Claims in a row that ended without an outcome."""
    failures: Mapped[int] = mapped_column(server_default="0")
    """Transient errors in a row; they only make the pauses longer."""
    last_error: Mapped[str | None]
    parked_at: Mapped[datetime | None]
    """Set where nothing but an operator can help."""


class Producer(Base):
    __tablename__ = "producers"

    name: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    # What it may use; None is all there is.
    accounts: Mapped[list[Any] | None] = mapped_column(server_default=text("'[\"default\"]'"))
    input_roots: Mapped[list[Any] | None] = mapped_column(server_default=text("'[]'"))
    notice_tasks: Mapped[list[Any] | None] = mapped_column(server_default=text("'[]'"))
    notice_queues: Mapped[list[Any] | None] = mapped_column(server_default=text("'[]'"))

    # How much of it; None is no limit.
    body_bytes: Mapped[int | None]
    open_requests: Mapped[int | None]
    requests_per_day: Mapped[int | None]
    counted_on: Mapped[date | None]
    counted_requests: Mapped[int] = mapped_column(server_default="0")
    """Requests that were accepted on that day (UTC), where `requests_per_day` is set."""

    signing_secrets: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))
    """What webhooks to it and messages from it are signed with, newest first (`whsec_…`)."""

    __table_args__ = (
        CheckConstraint(
            "body_bytes > 0 AND open_requests > 0 AND requests_per_day > 0", name="limits"
        ),
    )


class Token(Base):
    """A bearer token of a producer. The token itself is known to its holder alone."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(primary_key=True)
    """Stands in the token, so that it can be found without comparing secrets."""
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


class Account(Base):
    __tablename__ = "accounts"

    name: Mapped[str] = mapped_column(primary_key=True)
    paused_until: Mapped[datetime | None]
    reason: Mapped[str | None]
    blocked_since: Mapped[datetime | None]
    """Set while Together refuses the key or the credit is used up."""
    spending: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether only what costs money is refused: what was bought is still brought home."""
    refusals: Mapped[int] = mapped_column(server_default="0")


class Lane(Base):
    """What is known of one model under one account, and where admission to it stands."""

    __tablename__ = "lanes"

    account: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    ended: Mapped[int] = mapped_column(server_default="0")
    """Batches that Together completed."""
    seconds: Mapped[float | None]
    """How long a batch takes from its create to its end: a moving average."""
    tokens_per_byte: Mapped[float | None]
    """Tokens used for each byte of request lines: a moving average."""
    admitted: Mapped[int] = mapped_column(server_default="0")
    """Batches that were let in, ever."""


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
    idempotency_key: Mapped[str | None]
    fingerprint: Mapped[str | None]
    input: Mapped[str | None]
    plan: Mapped[list[Any] | None]
    """The shards that were cut while the body was taken in; None where split is to read the
    requests: `input`, or what was enqueued."""
    page_blob: Mapped[str | None]
    """The blob that its requests share with those of other small jobs, where they do."""

    total: Mapped[int] = mapped_column(server_default="0")
    succeeded: Mapped[int] = mapped_column(server_default="0")
    failed: Mapped[int] = mapped_column(server_default="0")
    pending: Mapped[int] = mapped_column(server_default="0")
    open_batches: Mapped[int] = mapped_column(server_default="0")
    settled_batches: Mapped[int] = mapped_column(server_default="0")
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
        CheckConstraint(_one_of("state", JobState), name="state"),
        CheckConstraint("total = succeeded + failed + pending", name="conservation"),
        CheckConstraint("pending >= 0 AND open_batches >= 0", name="counters"),
        CheckConstraint("(lease IS NULL) = (leased_until IS NULL)", name="lease"),
        CheckConstraint(
            "(finished_at IS NOT NULL) = (state NOT IN ('accepted', 'running'))", name="finished"
        ),
        CheckConstraint(
            "state NOT IN ('completed', 'cancelled') OR (pending = 0 AND open_batches = 0)",
            name="accounted",
        ),
        CheckConstraint("state NOT IN ('rejected', 'failed') OR error IS NOT NULL", name="reason"),
        UniqueConstraint("producer", "idempotency_key"),
        # Only what has something to do for a worker is in it; finished work costs nothing.
        Index(
            "jobs_due_idx",
            "not_before",
            postgresql_where=text(
                "parked_at IS NULL AND"
                " (state = 'accepted' OR (state = 'running' AND open_batches = 0))"
            ),
        ),
        # Lists, newest first: a producer's, everybody's, and those in a state that few are in.
        Index("jobs_producer_id_idx", "producer", "created_at", "id"),
        Index("jobs_created_at_id_idx", "created_at", "id"),
        Index("jobs_state_created_at_id_idx", "state", "created_at", "id"),
        # What may be old enough to be forgotten, oldest first.
        Index(
            "jobs_finished_at_idx",
            "finished_at",
            postgresql_where=text("finished_at IS NOT NULL"),
        ),
        # What a producer has under way, and what it looks for by its own marks.
        Index("jobs_open_idx", "producer", postgresql_where=text("finished_at IS NULL")),
        Index(
            "jobs_metadata_idx",
            "metadata",
            postgresql_using="gin",
            postgresql_ops={"metadata": "jsonb_path_ops"},
        ),
        # Those made of uploaded files (service.inputs), newest first.
        Index(
            "jobs_of_files_idx",
            "producer",
            "created_at",
            "id",
            postgresql_where=text("input LIKE 'haulier-file:%'"),
        ),
        Index("jobs_page_blob_idx", "page_blob", postgresql_where=text("page_blob IS NOT NULL")),
    )


class Enqueued(Base):
    """What a producer handed over in a transaction of its own, until split has read it."""

    __tablename__ = "enqueued"

    job_id: Mapped[UUID] = mapped_column(
        ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True
    )
    spec: Mapped[str]


class Batch(Leased, Base):
    __tablename__ = "batches"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    parent_id: Mapped[UUID | None]
    state: Mapped[BatchState]
    shard: Mapped[int]
    attempt: Mapped[int] = mapped_column(server_default="1")
    poison: Mapped[int] = mapped_column(server_default="0")
    """How often in a row its requests were in a batch that FAILED as a whole."""
    account: Mapped[str]
    producer: Mapped[str] = mapped_column(server_default="")
    priority: Mapped[int] = mapped_column(server_default="0")
    model: Mapped[str]
    admitted_at: Mapped[datetime | None]
    """Since when it may be uploaded; a queued batch without it waits for its turn."""
    tokens: Mapped[int] = mapped_column(server_default="0")
    """The tokens it was taken to need when it was let in."""
    input_blob: Mapped[str]
    manifest_blob: Mapped[str]
    bytes: Mapped[int]

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

    outcome: Mapped[dict[str, Any] | None]
    """Where its final lines are: a `service.work.FinalLines`."""
    prompt_tokens: Mapped[int] = mapped_column(server_default="0")
    completion_tokens: Mapped[int] = mapped_column(server_default="0")
    total_tokens: Mapped[int] = mapped_column(server_default="0")
    settle_order: Mapped[int | None]
    """Counts the settled batches of a job; where two speak of a request, the later one is right."""
    oddities: Mapped[dict[str, Any] | None]

    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    submitted_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(_one_of("state", BatchState), name="state"),
        CheckConstraint("(lease IS NULL) = (leased_until IS NULL)", name="lease"),
        CheckConstraint(
            f"({_one_of('state', OPEN_BATCH_STATES)}"
            " AND succeeded = 0 AND dead = 0 AND carried = 0)"
            f" OR (NOT {_one_of('state', OPEN_BATCH_STATES)}"
            " AND requests = succeeded + dead + carried)",
            name="conservation",
        ),
        CheckConstraint(
            f"(finished_at IS NULL) = ({_one_of('state', OPEN_BATCH_STATES)})", name="finished"
        ),
        CheckConstraint("state <> 'uploaded' OR input_file_id IS NOT NULL", name="uploaded"),
        CheckConstraint(
            "state NOT IN ('created', 'ended', 'settled') OR provider_batch_id IS NOT NULL",
            name="created",
        ),
        # What waits to be let in is not in it: there may be very much of that.
        Index(
            "batches_due_idx",
            "not_before",
            postgresql_where=text(
                f"parked_at IS NULL AND {_one_of('state', OPEN_BATCH_STATES)}"
                " AND (state <> 'queued' OR admitted_at IS NOT NULL)"
            ),
        ),
        Index(
            "batches_waiting_idx",
            "account",
            "model",
            "priority",
            "producer",
            "not_before",
            "shard",
            postgresql_where=text("state = 'queued' AND admitted_at IS NULL AND parked_at IS NULL"),
        ),
        Index(
            "batches_admitted_idx",
            "account",
            "model",
            postgresql_where=text(
                "admitted_at IS NOT NULL AND parked_at IS NULL"
                " AND state IN ('queued', 'uploaded', 'created')"
            ),
        ),
        Index("batches_job_id_idx", "job_id", "shard", "id"),
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


class Usage(Base):
    """What was used on a day (UTC): kept when the jobs are forgotten."""

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
    """What happened, in order. Written in the transaction in which it happened."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    batch_id: Mapped[UUID | None]
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    source: Mapped[str | None]
    target: Mapped[str]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))

    __table_args__ = (Index("events_job_id_idx", "job_id", "id"),)


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
    batch_id: Mapped[UUID]
    at: Mapped[datetime] = mapped_column(server_default=func.now())


class Delivery(Base):
    """The outbox of notices."""

    __tablename__ = "deliveries"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    event: Mapped[str]
    target: Mapped[dict[str, Any]]
    endpoint: Mapped[str]
    """What is up or down as one: a host and port, or a queue."""
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


class File(Base):
    """A file of request lines that was uploaded by itself, to be made a job of later."""

    __tablename__ = "files"

    id: Mapped[str] = mapped_column(primary_key=True)
    producer: Mapped[str] = mapped_column(ForeignKey("producers.name"))
    filename: Mapped[str]
    purpose: Mapped[str]
    upload_digest: Mapped[bytes]
    """SHA-256 of the secret with which its bytes may be sent."""
    announced_sha256: Mapped[str | None]
    """What the producer said its bytes are (hex)."""
    sha256: Mapped[str | None]
    bytes: Mapped[int | None]
    lines: Mapped[int | None]
    blob: Mapped[str | None]
    """Set, with the three above, when all of it is there."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]

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
    )


class Leftover(Base):
    """What a forgotten job has left in blob storage or at Together, to be deleted."""

    __tablename__ = "leftovers"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    account: Mapped[str | None]
    """Whose file at Together `name` is; None where it is the beginning of names of blobs."""
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
    version: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Tick(Base):
    """Ticks of all schedulers that took about as long: up to so many seconds."""

    __tablename__ = "ticks"

    up_to: Mapped[float] = mapped_column(primary_key=True)
    count: Mapped[int] = mapped_column(server_default="0")
    seconds: Mapped[float] = mapped_column(server_default="0")
    """Of all of them together."""
