"""The database's history. Each step is an Alembic revision in `versions`."""
