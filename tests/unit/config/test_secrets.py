"""Secrets: where they come from, who gets them, and that nothing that is written holds them."""

import json
import os
from pathlib import Path

import pytest

from config import redaction
from config.redaction import HIDDEN, Redactor, learn, redact
from config.secret_files import SECRETS, without_secrets
from config.settings import Settings, SettingsError, read_settings
from service.rules.errors import error_text

VALUES = {
    "DATABASE_URL": "postgresql://app:pass-word@db/haulier",
    "REDIS_URL": "redis://:pass-word@redis/0",
    "TOGETHER_API_KEY": "tgp_v1_key",
    "HAULIER_ACCOUNTS": '{"research": {"api_key": "tgp_v1_other"}}',
    "HAULIER_ADMIN_TOKEN": "0123456789abcdefghij",
    "HAULIER_TOKEN": "0123456789",
}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("HAULIER_", "TOGETHER_", "DATABASE_URL", "REDIS_URL", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(redaction, "_known", Redactor(()))


def refusal() -> str:
    with pytest.raises(SettingsError) as refused:
        read_settings()
    return str(refused.value)


@pytest.mark.parametrize("variable", SECRETS)
def test_every_secret_may_stand_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    monkeypatch.setenv(variable, VALUES[variable])
    expected = read_settings()
    (tmp_path / "secret").write_text(f" {VALUES[variable]}\r\n")
    monkeypatch.setenv(variable, "")  # as a compose file passes on an unset variable
    monkeypatch.setenv(f"{variable}_FILE", str(tmp_path / "secret"))
    assert read_settings() == expected

    monkeypatch.setenv(variable, VALUES[variable])
    assert refusal() == f"{variable}_FILE: {variable} is set as well; set one of them"


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file"), (b"", "is empty"), (b" \n", "is empty"), (b"\xff", "is not UTF-8")],
)
def test_a_file_without_a_secret_is_refused_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    for variable in ("TOGETHER_API_KEY", "DATABASE_URL"):
        monkeypatch.setenv(f"{variable}_FILE", str(path))
    lines = refusal().splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "DATABASE_URL_FILE",
        "TOGETHER_API_KEY_FILE",
    ]
    assert all(words in line and str(path) in line for line in lines)


def test_an_accounts_key_may_stand_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("tgp_v1_other\n")
    named = {"research": {"api_key_file": str(tmp_path / "key")}}
    monkeypatch.setenv("HAULIER_ACCOUNTS", json.dumps(named))
    account = read_settings().account("research")
    assert account is not None
    assert account.key == "tgp_v1_other"
    for wrong, words in (
        ({"api_key_file": str(tmp_path / "none")}, "api_key_file: cannot read"),
        ({"api_key_file": str(tmp_path / "key"), "api_key": "k"}, "give one of them"),
        ({"api_key_file": "\0"}, "api_key_file"),
    ):
        monkeypatch.setenv("HAULIER_ACCOUNTS", json.dumps({"research": wrong}))
        line = refusal()
        assert line.startswith("HAULIER_ACCOUNTS at research: ")
        assert words in line


def test_a_process_may_know_an_account_without_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAULIER_ACCOUNTS", '{"research": {"api_key": null}}')
    settings = read_settings()
    assert settings.account_names == {"default", "research"}
    assert settings.account("research") is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HAULIER_ADMIN_TOKEN", "secretsecretsecrets"),  # 19 characters
        ("TOGETHER_API_KEY", " \n"),
        ("DATABASE_URL", "postgresql://u:secret\n@db/x"),
        ("DATABASE_URL", "postgresql://u:pass@secret@db/x"),
        ("DATABASE_URL", "postgresql://u:secret"),
        ("DATABASE_URL", "postgresql://u:p@db:secret/x"),
        ("REDIS_URL", "redis://:secret/x@redis:6379/0"),
        ("REDIS_URL", "redis://:secret\x7f@redis:6379/0"),
        ("DATABASE_URL", "postgresql://u:p@ss/secret@db/x"),
        ("DATABASE_URL", "postgresql://u:p@s?secret@db/x"),
        ("DATABASE_URL", "postgresql://u@db/x?host=p@secret"),
        ("REDIS_URL", "redis://:12/secret@redis:6379/0"),
        ("REDIS_URL", "redis://:12?secret@redis:6379/0"),
        ("REDIS_URL", "redis://redis:6379/0#secret"),
        ("REDIS_URL", "sentinel://:secret@one,two/0"),
        ("HAULIER_URL", "https://user:secret@haulier"),
        ("TOGETHER_BASE_URL", "https://secret@api.together.ai"),
        ("HAULIER_BLOB_URL", "s3://key:secret@bucket/prefix"),
    ],
)
def test_what_an_error_would_quote_is_refused_and_not_quoted(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    line = refusal()
    assert line.startswith(f"{variable}: ")
    assert "secret" not in line.replace("import secrets; print(secrets.", "")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@db/x",
        "postgresql://u:p%40w@db:5432/x?sslmode=require",
        "postgresql://u:pa/ss@db:5432/x",
        "postgresql://u@h1:5432,h2:5433/x",
        "postgresql://u@[::1]:5432/x",
        "postgresql:///x?host=h1:5432&host=h2",
        "postgresql://u:a%b c#é@h1,h2/x?target_session_attrs=read-write",
        "postgres://db",
    ],
)
def test_a_url_of_postgres_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{url}\n")
    assert read_settings().database_url == url


SECRET_URLS = [
    ("postgresql://app:p%40ss%2Fword@db/x", ["p%40ss%2Fword", "p@ss/word"]),
    ("postgresql://app:pass/word@db/x", ["pass/word"]),
    ("postgresql://db/x?user=app&password=pass%20word", ["pass word"]),
    ("redis://:p@ssword@redis/0", ["p@ssword"]),
    ("sentinel://:p%3Bssword@one,two?master_name=m&sentinel_password=other%20one", ["p;ssword"]),
    ("sentinel://one?master_name=m&sentinel_password=other%20one", ["other one"]),
]


@pytest.mark.parametrize(("url", "passwords"), SECRET_URLS)
def test_a_password_is_known_by_every_way_to_read_it(url: str, passwords: list[str]) -> None:
    hide = learn(Settings.model_construct(database_url=url))
    for password in passwords:
        for written in (password, repr(password)[1:-1], json.dumps(password)[1:-1]):
            assert hide(f"cannot reach {written}!") == f"cannot reach {HIDDEN}!"
    assert "pass" not in hide(url).replace("password=", "")


def test_no_row_keeps_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOGETHER_API_KEY", 'tgp_"\\key')
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-secret-key")
    monkeypatch.setenv("https_proxy", "http://u:proxy-pass@proxy:3128")
    learn(read_settings())
    for secret in ('tgp_"\\key', "aws-secret-key", "proxy-pass"):
        quoted = f"Illegal header value {f'Bearer {secret}'.encode()!r}"
        for words in (quoted, json.dumps(quoted), f"x{secret}x"):
            assert HIDDEN in error_text(words)
            assert secret not in error_text(words)
    monkeypatch.setenv("TOGETHER_API_KEY", "simulated")
    learn(read_settings())
    assert redact("simulated error") == "simulated error"


def test_a_child_gets_the_secrets_that_it_needs_and_no_others() -> None:
    given = {name: "x" for secret in SECRETS for name in (secret, f"{secret}_FILE")}
    left = without_secrets({**given, "PATH": "/bin"}, but=("REDIS_URL",))
    assert left == {"REDIS_URL": "x", "REDIS_URL_FILE": "x", "PATH": "/bin"}
