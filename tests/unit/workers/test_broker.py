"""Connections to the broker."""

import time

import pytest
from redis.exceptions import ConnectionError as AwayError

from workers.broker import celery_settings, connect

URLS = ["redis://127.0.0.1:1/0", "sentinel://127.0.0.1:1,127.0.0.1:2/0?master_name=main"]


@pytest.mark.parametrize("url", URLS)
def test_nothing_is_sent_twice_because_its_answer_was_lost(url: str) -> None:
    """A page of messages that was taken twice would be deleted half read."""
    with connect(url) as redis:
        assert redis.connection_pool.connection_kwargs["retry"].get_retries() == 0
        started = time.monotonic()
        with pytest.raises(AwayError):
            redis.ping()
        assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("url", "written"),
    [
        ("redis://h", ["redis://:@h:6379/0"]),
        ("redis://u:p%40%2F@[::1]:1/2", ["redis://u:p%40%2F@[::1]:1/2"]),
        (
            "sentinel://:p@a,b:1/3?master_name=m",
            ["sentinel://:p@a:26379/3", "sentinel://:p@b:1/3"],
        ),
    ],
)
def test_celery_gets_a_url_that_kombu_reads_as_it_was_meant(url: str, written: list[str]) -> None:
    settings = celery_settings(url)
    assert settings["broker_url"] == written
    assert settings["broker_transport_options"].get("master_name") == (
        "m" if "name=m" in url else None
    )
    assert settings["broker_use_ssl"] is False
