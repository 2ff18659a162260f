"""How Alembic runs the revisions: on the connection that `store.schema.migrate` gives it."""

from collections.abc import Collection, Mapping
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from sqlalchemy import text

from service.store.audit import local
from service.store.models import SCHEMA, Base

# Plain SQL with the columns of revision 0016: the model may know later ones.
_RECORD = text("""
INSERT INTO haulier.audit (actor, origin, verb, object, before, after)
VALUES (:actor, concat(current_user, '@', CAST(:origin AS text)), 'migrate', 'database',
        jsonb_build_object('revision', CAST(:before AS text)),
        jsonb_build_object('revision', CAST(:after AS text)))
""")


def record(
    ctx: MigrationContext,  # noqa: ARG001
    step: MigrationInfo,
    heads: Collection[Any],  # noqa: ARG001
    run_args: Mapping[str, Any],  # noqa: ARG001
) -> None:
    """Add a revision to the audit log, within its transaction, where there is a log by then."""
    if connection.scalar(text(f"SELECT to_regclass('{SCHEMA}.audit')")) is None:
        return
    by = local()
    before, after = (
        ",".join(ids) or None for ids in (step.source_revision_ids, step.destination_revision_ids)
    )
    connection.execute(
        _RECORD, {"actor": by.name, "origin": by.origin, "before": before, "after": after}
    )


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    version_table_schema=SCHEMA,
    include_schemas=True,
    # What a revision has locked is free again before the next one.
    transaction_per_migration=True,
    on_version_apply=record,
    include_name=lambda name, kind, _parents: kind != "schema" or name == SCHEMA,
)
with context.begin_transaction():
    context.run_migrations()
