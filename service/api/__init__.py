"""The HTTP API. It needs Postgres and blob storage only."""
