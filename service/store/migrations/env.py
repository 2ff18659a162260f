"""How Alembic runs the revisions: on the connection that `store.schema.migrate` gives it."""

from alembic import context
from sqlalchemy import text

from service.store.models import SCHEMA, Base

connection = context.config.attributes["connection"]
# A migration that waits for a lock makes everybody behind it wait as well.
connection.execute(text("SET lock_timeout = '10s'"))
connection.commit()
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    version_table_schema=SCHEMA,
    include_schemas=True,
    # What a revision has locked is free again before the next one.
    transaction_per_migration=True,
    include_name=lambda name, kind, _parents: kind != "schema" or name == SCHEMA,
)
with context.begin_transaction():
    context.run_migrations()
