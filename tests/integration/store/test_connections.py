"""What a connection to Postgres is like: its limits, and where it leads after a failover."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from service.store import engine


@pytest.fixture
def made(database_url: str) -> Iterator[Engine]:
    found = engine.create(database_url, lock_timeout=timedelta(seconds=7))
    yield found
    found.dispose()


def test_a_direct_connection_keeps_its_limits(made: Engine) -> None:
    limits = {
        "statement_timeout": "1min",
        "lock_timeout": "7s",
        "idle_in_transaction_session_timeout": "1min",
        "timezone": "UTC",
    }
    for _ in range(2):
        with made.connect() as connection:
            found = {name: connection.scalar(text(f"SHOW {name}")) for name in limits}
            assert found == limits
            connection.rollback()


def test_a_connection_to_a_server_that_is_read_only_is_not_used_again(made: Engine) -> None:
    def process() -> int:
        with made.begin() as connection:
            return int(connection.scalar(text("SELECT pg_backend_pid()")) or 0)

    before = process()
    assert process() == before
    with made.connect() as connection:
        connection.execute(text("SET TRANSACTION READ ONLY"))
        with pytest.raises(DBAPIError) as raised:
            connection.execute(text("CREATE TABLE x ()"))
    assert engine.is_unavailable(raised.value)
    assert process() != before


def test_several_hosts_are_tried_in_turn(database_url: str) -> None:
    name, _, place = database_url.partition("@")
    several = engine.create(f"{name}@127.0.0.1:1,{place}?target_session_attrs=read-write")
    assert engine.clock(engine.database(several))
    several.dispose()
