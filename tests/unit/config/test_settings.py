"""The settings: what they take, and that a bad value names its variable."""

import os
from datetime import timedelta

import msgspec
import pytest
from pydantic import ValidationError

from config.settings import TOGETHER, Settings, SettingsError, read_settings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("HAULIER_", "TOGETHER_")) or name in {"DATABASE_URL", "REDIS_URL"}:
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://x"),
        ("REDIS_URL", "http://x"),
        ("TOGETHER_BASE_URL", "api.together.ai"),
        ("HAULIER_ACCOUNTS", "{"),
        ("HAULIER_ACCOUNTS", '{"a": {}}'),
        ("HAULIER_ACCOUNTS", '{"a": {"api_key": "k", "base_url": "nowhere"}}'),
        ("HAULIER_ACCOUNTS", '{"a": {"api_key": "k", "colour": "red"}}'),
        ("HAULIER_PRICES", "{"),
        ("HAULIER_PRICES", "[]"),
        ("HAULIER_PRICES", '{"m": []}'),
        ("HAULIER_PRICES", '{"m": [{"from": "2026-1-1", "input": 1, "output": 1}]}'),
        ("HAULIER_PRICES", '{"m": [{"from": 20260101, "input": 1, "output": 1}]}'),
        ("HAULIER_PRICES", '{"m": [{"from": "2026-02-30", "input": 1, "output": 1}]}'),
        ("HAULIER_PRICES", '{"m": [{"from": "2026-01-01", "input": 1}]}'),
        ("HAULIER_PRICES", '{"m": [{"from": "2026-01-01", "input": -1, "output": 1}]}'),
        ("HAULIER_PRICES", '{"m": [{"from": "2026-01-01", "input": NaN, "output": 1}]}'),
        ("HAULIER_PRICES", '{"m": [{"from": "2026-01-01", "input": true, "output": 1}]}'),
        (
            "HAULIER_PRICES",
            '{"m": [{"from": "2026-01-01", "input": 1, "output": 1, "batch_discount": 1.1}]}',
        ),
        (
            "HAULIER_PRICES",
            '{"m": [{"from": "2026-01-01", "input": 1, "output": 1},'
            ' {"from": "2026-01-01", "input": 2, "output": 2}]}',
        ),
        ("HAULIER_PUBLIC_URL", "haulier.example"),
        ("HAULIER_PUBLIC_URL", "ftp://haulier.example"),
        ("HAULIER_PUBLIC_URL", "https://"),
        ("HAULIER_PUBLIC_URL", "https://haulier.example?a=b"),
        ("HAULIER_PUBLIC_URL", "https://haulier.example:port"),
        ("HAULIER_TRUSTED_PROXIES", "proxy.example"),
        ("HAULIER_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("HAULIER_TRUSTED_PROXIES", "[1]"),
        ("HAULIER_TRUSTED_PROXIES", "["),
        ("HAULIER_MAX_CONNECTIONS", "0"),
        ("HAULIER_FAILED_LOGINS_PER_MINUTE", "-1"),
        ("HAULIER_BLOB_URL", "/var/blobs"),
        ("HAULIER_BLOB_URL", "file://relative"),
        ("HAULIER_BLOB_URL", "https://x"),
        ("HAULIER_INPUT_ROOTS", "s3://not-a-list"),
        ("HAULIER_POLL_SECONDS", "soon"),
        ("HAULIER_POLL_SECONDS", "0"),
        ("HAULIER_POLL_SECONDS", "-1"),
        ("HAULIER_POLL_SECONDS", "nan"),
        ("HAULIER_POLL_SECONDS", "inf"),
        ("HAULIER_POLL_SECONDS", "1e300"),
        ("HAULIER_LEASE_SECONDS", "00:02:00"),
        ("HAULIER_CREATE_GRACE_SECONDS", "x"),
        ("HAULIER_RETRY_BASE_SECONDS", "x"),
        ("HAULIER_PROBE_SECONDS", "x"),
        ("HAULIER_STAGE_TRIES", "0"),
        ("HAULIER_STAGE_TRIES", "2.5"),
        ("HAULIER_SHARD_REQUESTS", "50001"),
        ("HAULIER_SHARD_REQUESTS", "0"),
        ("HAULIER_SHARD_BYTES", "100000001"),
        ("HAULIER_CONCURRENCY", "0"),
        ("HAULIER_LOG_FORMAT", "xml"),
        ("HAULIER_LOG_LEVEL", "verbose"),
    ],
)
def test_a_bad_value_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refusal:
        read_settings()
    (line,) = str(refusal.value).splitlines()
    assert line.startswith((f"{name}: ", f"{name} at "))


def test_every_bad_value_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAULIER_POLL_SECONDS", "soon")
    monkeypatch.setenv("DATABASE_URL", "mysql://x")
    with pytest.raises(SettingsError) as refusal:
        read_settings()
    assert sorted(line.split(":")[0] for line in str(refusal.value).splitlines()) == [
        "DATABASE_URL",
        "HAULIER_POLL_SECONDS",
    ]


@pytest.mark.parametrize("name", ["TOGETHER_API_KEY", "HAULIER_ADMIN_TOKEN"])
def test_a_secret_is_in_no_message_and_no_repr(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "a-very-secret-secret")
    monkeypatch.setenv(
        "HAULIER_ACCOUNTS", '{"a": {"api_key": "a-very-secret-secret", "base_url": "no"}}'
    )
    with pytest.raises(SettingsError) as refusal:
        read_settings()
    assert "a-very-secret-secret" not in str(refusal.value)
    monkeypatch.setenv("HAULIER_ACCOUNTS", '{"a": {"api_key": "a-very-secret-secret"}}')
    assert "a-very-secret-secret" not in repr(read_settings())


def test_durations_are_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAULIER_POLL_SECONDS", "0.1")
    assert read_settings().poll_seconds == timedelta(milliseconds=100)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com",
        "https://api.example.com/",
        "https://api.example.com/v1",
        "https://api.example.com/v1/",
    ],
)
def test_a_base_url_may_end_in_its_version(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("TOGETHER_BASE_URL", url)
    assert read_settings().together_base_url == "https://api.example.com"


def test_an_account_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAULIER_ACCOUNTS", '{"research": {"api_key": "k1"}}')
    settings = read_settings()
    research = settings.account("research")
    assert research is not None
    assert (research.key, research.base_url) == ("k1", TOGETHER)
    assert settings.account("default") is None
    assert settings.account("nobody") is None
    monkeypatch.setenv("TOGETHER_API_KEY", "k0")
    default = read_settings().account("default")
    assert default is not None
    assert default.key == "k0"


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL: is not set\nHAULIER_ADMIN_TOKEN: is"):
        read_settings().required("database_url", "admin_token")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().stage_tries = 3


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOGETHER_API_KEY", "")
    monkeypatch.setenv("HAULIER_TICK_SECONDS", "")
    settings = read_settings()
    assert settings.together_api_key is None
    assert settings.tick_seconds.total_seconds() == 1


@pytest.mark.parametrize("name", ["TOGETHER_API_KEY", "HAULIER_ADMIN_TOKEN", "HAULIER_TOKEN"])
@pytest.mark.parametrize(
    "odd", ["se cret", "se\ncret", "secr\u00e9t", "se\x00cret", "sec\u200bret"]
)
def test_a_secret_that_no_header_can_carry_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, odd: str
) -> None:
    if "\x00" not in odd:  # no environment can hold it
        monkeypatch.setenv(name, odd)
        with pytest.raises(SettingsError) as refused:
            read_settings()
        assert str(refused.value).startswith(f"{name}: ")
        assert "cret" not in str(refused.value).removeprefix(name)
    accounts = {"lab": {"api_key": odd}}
    monkeypatch.setenv("HAULIER_ACCOUNTS", msgspec.json.encode(accounts).decode())
    monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingsError) as refused:
        read_settings()
    assert "cret" not in str(refused.value)


def test_space_around_a_secret_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOGETHER_API_KEY", " key\r\n")
    found = read_settings().together_api_key
    assert found is not None
    assert found.get_secret_value() == "key"


def test_the_producer_of_nameless_messages_may_be_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings().queue_default_producer == "default"
    for value in ("queue", ""):
        monkeypatch.setenv("HAULIER_QUEUE_DEFAULT_PRODUCER", value)
        assert read_settings().queue_default_producer == value


@pytest.mark.parametrize(
    "value", ["127.0.0.1,10.0.0.0/8", "127.0.0.1 10.0.0.0/8 ", '["127.0.0.1", "10.0.0.0/8"]']
)
def test_trusted_proxies_are_addresses_and_networks(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HAULIER_TRUSTED_PROXIES", value)
    assert [str(one) for one in read_settings().trusted_proxies] == ["127.0.0.1/32", "10.0.0.0/8"]
