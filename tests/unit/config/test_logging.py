"""Logging: one line of JSON for each thing said, and no secret in any."""

import json
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import structlog
from pydantic import SecretStr

from config.logging import configure
from config.redaction import HIDDEN
from config.settings import Account, Settings

SETTINGS = {
    "together_api_key": SecretStr("together-key-1"),
    "admin_token": SecretStr("admin-token-1"),
    "accounts": {"research": Account(api_key=SecretStr("together-key-1-and-more"))},
    "database_url": "postgresql://app:p%40ssw0rd@db/haulier",
    "redis_url": "redis://:rédis-%22pass@redis/0",
}
SECRETS = [
    "together-key-1",
    "together-key-1-and-more",
    "admin-token-1",
    "p%40ssw0rd",
    "p@ssw0rd",
    'rédis-"pass',
]


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)


def _configured(**fields: Any) -> None:
    configure(Settings.model_construct(**{**SETTINGS, "log_format": "json", **fields}))


def _said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in capsys.readouterr().err.splitlines()]


def test_every_line_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    _configured()
    structlog.get_logger().info("advanced", to="uploaded", odd=object(), text="two\nlines ü")
    logging.getLogger("celery.worker").warning("a %s record", "foreign", extra={"more": 1})
    first, second = _said(capsys)
    assert (first["event"], first["to"], first["level"]) == ("advanced", "uploaded", "info")
    assert first["text"] == "two\nlines ü"
    assert (second["event"], second["more"]) == ("a foreign record", 1)
    assert second["logger"] == "celery.worker"


def test_bound_context_stands_on_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    _configured()
    with structlog.contextvars.bound_contextvars(job="j", batch="b", stage="poll", attempt=2):
        structlog.get_logger().info("one")
        logging.getLogger("httpx2").error("two")
    structlog.get_logger().info("three")
    one, two, three = _said(capsys)
    for line in (one, two):
        assert (line["job"], line["batch"], line["stage"], line["attempt"]) == ("j", "b", "poll", 2)
    assert "job" not in three


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_hidden_wherever_it_comes_from(
    capsys: pytest.CaptureFixture[str], secret: str, log_format: str
) -> None:
    _configured(log_format=log_format)
    log = structlog.get_logger()
    log.info("in an %s", secret, value=secret, inside={"deep": [f"x{secret}y"]})
    logging.getLogger("celery").error("%s", secret, extra={"header": f"Bearer {secret}"})
    with structlog.contextvars.bound_contextvars(bound=secret):
        log.warning("bound")
    try:
        _fail(f"in an error: {secret}")
    except ValueError:
        log.exception("broke")
        logging.getLogger("uvicorn.error").exception("broke")
    written = capsys.readouterr().err
    for form in (secret, json.dumps(secret)[1:-1]):
        assert form not in written
    assert written.count(HIDDEN) >= 8


def test_an_exception_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    _configured()
    try:
        _fail("the reason")
    except ValueError:
        structlog.get_logger().exception("stage_broke", batch="b")
    (line,) = _said(capsys)
    assert line["event"] == "stage_broke"
    assert "the reason" in str(line["exception"])


def test_an_exception_shows_no_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    _configured()
    try:
        _fail("the reason", payload="the prompt of a customer")
    except ValueError:
        structlog.get_logger().exception("stage_broke")
    assert "the prompt" not in capsys.readouterr().err


def _fail(reason: str, *, payload: str = "") -> None:
    body = {"messages": [payload]}
    raise ValueError(f"{len(body)}: {reason}")


def test_what_httpx_says_of_each_request_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    _configured(log_level="DEBUG")
    logging.getLogger("httpx").info("HTTP Request: GET https://x")
    logging.getLogger("celery.app.trace").info("Task ignored")
    assert _said(capsys) == []


def test_warnings_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    _configured()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("mind this", stacklevel=1)
        logging.captureWarnings(capture=False)
    (line,) = _said(capsys)
    assert "mind this" in line["event"]


def test_configuring_twice_says_everything_once(capsys: pytest.CaptureFixture[str]) -> None:
    _configured()
    _configured()
    structlog.get_logger().info("once")
    assert len(_said(capsys)) == 1


def test_a_terminal_is_shown_what_others_wrote_and_obeys_none_of_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    _configured(log_format="console")
    odd = "\x1b[2J\x9b\u202e\r\nforged"
    log = structlog.get_logger()
    log.warning("odd", value=odd, inside={"deep": [odd]})
    logging.getLogger("celery").error("%s", odd, extra={"more": odd})
    try:
        _fail(odd)
    except ValueError:
        log.exception("broke")
    written = capsys.readouterr().err
    shown = re.sub(r"\x1b\[[0-9;]*m", "", written)  # structlog's own colours
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert r"value=\x1b[2J\x9b\u202e\r\nforged" in shown
    assert written.count("\nforged") == 1  # in the traceback, which keeps its lines
