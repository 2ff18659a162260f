"""create the tables"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("paused_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("blocked_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("spending", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("refusals", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("accounts_pkey")),
        schema="haulier",
    )
    op.create_table(
        "heartbeats",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.BigInteger(), nullable=False),
        sa.Column(
            "queues",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'[]'"),
            nullable=False,
        ),
        sa.Column("slots", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("heartbeats_pkey")),
        schema="haulier",
    )
    op.create_table(
        "producers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("producers_pkey")),
        schema="haulier",
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("producer", sa.Text(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "accepted",
                "running",
                "completed",
                "cancelled",
                "rejected",
                "failed",
                name="jobstate",
                native_enum=False,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("priority", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("max_attempts", sa.BigInteger(), nullable=False),
        sa.Column(
            "metadata",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column(
            "notify",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'[]'"),
            nullable=False,
        ),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.Text(), nullable=True),
        sa.Column("input", sa.Text(), nullable=True),
        sa.Column(
            "plan", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True
        ),
        sa.Column("total", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("succeeded", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("pending", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("open_batches", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("settled_batches", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempts", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column(
            "problems", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True
        ),
        sa.Column("generation", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease", sa.Uuid(), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "not_before",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("dispatched_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("tries", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failures", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("parked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (state NOT IN ('accepted', 'running'))",
            name=op.f("jobs_finished_check"),
        ),
        sa.CheckConstraint(
            "state IN ('accepted', 'cancelled', 'completed', 'failed', 'rejected', 'running')",
            name=op.f("jobs_state_check"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('completed', 'cancelled') OR (pending = 0 AND open_batches = 0)",
            name=op.f("jobs_accounted_check"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('rejected', 'failed') OR error IS NOT NULL",
            name=op.f("jobs_reason_check"),
        ),
        sa.CheckConstraint(
            "(lease IS NULL) = (leased_until IS NULL)", name=op.f("jobs_lease_check")
        ),
        sa.CheckConstraint("pending >= 0 AND open_batches >= 0", name=op.f("jobs_counters_check")),
        sa.CheckConstraint(
            "total = succeeded + failed + pending", name=op.f("jobs_conservation_check")
        ),
        sa.ForeignKeyConstraint(
            ["producer"], ["haulier.producers.name"], name=op.f("jobs_producer_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("jobs_pkey")),
        sa.UniqueConstraint(
            "producer", "idempotency_key", name=op.f("jobs_producer_idempotency_key_key")
        ),
        schema="haulier",
    )
    op.create_index(
        "jobs_created_at_id_idx", "jobs", ["created_at", "id"], unique=False, schema="haulier"
    )
    op.create_index(
        "jobs_due_idx",
        "jobs",
        ["not_before"],
        unique=False,
        schema="haulier",
        postgresql_where=sa.text(
            "parked_at IS NULL AND (state = 'accepted' OR (state = 'running' AND open_batches = 0))"
        ),
    )
    op.create_index(
        "jobs_producer_id_idx",
        "jobs",
        ["producer", "created_at", "id"],
        unique=False,
        schema="haulier",
    )
    op.create_index(
        "jobs_state_created_at_id_idx",
        "jobs",
        ["state", "created_at", "id"],
        unique=False,
        schema="haulier",
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column(
            "state",
            sa.Enum(
                "queued",
                "uploaded",
                "created",
                "ended",
                "settled",
                "failed",
                "cancelled",
                name="batchstate",
                native_enum=False,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("shard", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("poison", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("priority", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("input_blob", sa.Text(), nullable=False),
        sa.Column("manifest_blob", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("succeeded", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("dead", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("carried", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("input_file_id", sa.Text(), nullable=True),
        sa.Column("provider_batch_id", sa.Text(), nullable=True),
        sa.Column("provider_status", sa.Text(), nullable=True),
        sa.Column("provider_error", sa.Text(), nullable=True),
        sa.Column("progress", sa.Double(), nullable=True),
        sa.Column("output_file_id", sa.Text(), nullable=True),
        sa.Column("error_file_id", sa.Text(), nullable=True),
        sa.Column("cancel_sent", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("create_deadline", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "spent_file_ids",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'[]'"),
            nullable=False,
        ),
        sa.Column(
            "outcome", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True
        ),
        sa.Column("settle_order", sa.BigInteger(), nullable=True),
        sa.Column(
            "oddities", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease", sa.Uuid(), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "not_before",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("dispatched_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("tries", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failures", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("parked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(finished_at IS NULL) = (state IN ('created', 'ended', 'queued', 'uploaded'))",
            name=op.f("batches_finished_check"),
        ),
        sa.CheckConstraint(
            "(state IN ('created', 'ended', 'queued', 'uploaded') AND succeeded = 0 AND dead = 0 AND carried = 0) OR (NOT state IN ('created', 'ended', 'queued', 'uploaded') AND requests = succeeded + dead + carried)",
            name=op.f("batches_conservation_check"),
        ),
        sa.CheckConstraint(
            "state <> 'uploaded' OR input_file_id IS NOT NULL", name=op.f("batches_uploaded_check")
        ),
        sa.CheckConstraint(
            "state IN ('cancelled', 'created', 'ended', 'failed', 'queued', 'settled', 'uploaded')",
            name=op.f("batches_state_check"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('created', 'ended', 'settled') OR provider_batch_id IS NOT NULL",
            name=op.f("batches_created_check"),
        ),
        sa.CheckConstraint(
            "(lease IS NULL) = (leased_until IS NULL)", name=op.f("batches_lease_check")
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["haulier.jobs.id"], name=op.f("batches_job_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("batches_pkey")),
        schema="haulier",
    )
    op.create_index(
        "batches_due_idx",
        "batches",
        ["not_before"],
        unique=False,
        schema="haulier",
        postgresql_where=sa.text(
            "parked_at IS NULL AND state IN ('created', 'ended', 'queued', 'uploaded')"
        ),
    )
    op.create_index(
        "batches_job_id_idx", "batches", ["job_id", "shard", "id"], unique=False, schema="haulier"
    )
    op.create_index(
        "batches_provider_batch_id_key",
        "batches",
        ["account", "provider_batch_id"],
        unique=True,
        schema="haulier",
        postgresql_where=sa.text("provider_batch_id IS NOT NULL"),
    )
    op.create_index(
        "batches_spent_idx",
        "batches",
        ["account"],
        unique=False,
        schema="haulier",
        postgresql_where=sa.text("spent_file_ids <> '[]'"),
    )
    op.create_table(
        "dead_letters",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False),
        sa.Column("custom_id", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["haulier.jobs.id"],
            name=op.f("dead_letters_job_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "ordinal", name=op.f("dead_letters_pkey")),
        schema="haulier",
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column(
            "target", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False
        ),
        sa.Column(
            "not_before",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("tries", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("parked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "delivered_at IS NULL OR parked_at IS NULL", name=op.f("deliveries_outcome_check")
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["haulier.jobs.id"], name=op.f("deliveries_job_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("deliveries_pkey")),
        schema="haulier",
    )
    op.create_index(
        "deliveries_due_idx",
        "deliveries",
        ["not_before"],
        unique=False,
        schema="haulier",
        postgresql_where=sa.text("delivered_at IS NULL AND parked_at IS NULL"),
    )
    op.create_index(
        "deliveries_job_id_idx", "deliveries", ["job_id"], unique=False, schema="haulier"
    )
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=True),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column(
            "detail",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["haulier.jobs.id"], name=op.f("events_job_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("events_pkey")),
        schema="haulier",
    )
    op.create_index("events_job_id_idx", "events", ["job_id", "id"], unique=False, schema="haulier")
    op.create_table(
        "segments",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("blob", sa.Text(), nullable=False),
        sa.Column("index_blob", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["haulier.jobs.id"], name=op.f("segments_job_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "generation", "position", name=op.f("segments_pkey")),
        schema="haulier",
    )


def downgrade() -> None:
    op.drop_table("segments", schema="haulier")
    op.drop_index("events_job_id_idx", table_name="events", schema="haulier")
    op.drop_table("events", schema="haulier")
    op.drop_index("deliveries_job_id_idx", table_name="deliveries", schema="haulier")
    op.drop_index(
        "deliveries_due_idx",
        table_name="deliveries",
        schema="haulier",
        postgresql_where=sa.text("delivered_at IS NULL AND parked_at IS NULL"),
    )
    op.drop_table("deliveries", schema="haulier")
    op.drop_table("dead_letters", schema="haulier")
    op.drop_index(
        "batches_spent_idx",
        table_name="batches",
        schema="haulier",
        postgresql_where=sa.text("spent_file_ids <> '[]'"),
    )
    op.drop_index(
        "batches_provider_batch_id_key",
        table_name="batches",
        schema="haulier",
        postgresql_where=sa.text("provider_batch_id IS NOT NULL"),
    )
    op.drop_index("batches_job_id_idx", table_name="batches", schema="haulier")
    op.drop_index(
        "batches_due_idx",
        table_name="batches",
        schema="haulier",
        postgresql_where=sa.text(
            "parked_at IS NULL AND state IN ('created', 'ended', 'queued', 'uploaded')"
        ),
    )
    op.drop_table("batches", schema="haulier")
    op.drop_index("jobs_state_created_at_id_idx", table_name="jobs", schema="haulier")
    op.drop_index("jobs_producer_id_idx", table_name="jobs", schema="haulier")
    op.drop_index(
        "jobs_due_idx",
        table_name="jobs",
        schema="haulier",
        postgresql_where=sa.text(
            "parked_at IS NULL AND (state = 'accepted' OR (state = 'running' AND open_batches = 0))"
        ),
    )
    op.drop_index("jobs_created_at_id_idx", table_name="jobs", schema="haulier")
    op.drop_table("jobs", schema="haulier")
    op.drop_table("producers", schema="haulier")
    op.drop_table("heartbeats", schema="haulier")
    op.drop_table("accounts", schema="haulier")
