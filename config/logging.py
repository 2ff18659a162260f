"""Logging: one format for all log lines of a process, without secrets.

Lines are JSON, or easy to read on a terminal. Each line has the fields that are bound to
structlog's context (job, batch, stage, attempt, account, task).
"""

import json
import logging
import sys
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote, urlsplit

import structlog

from config.settings import Settings

HIDDEN = "[hidden]"

# Without local variables, which may hold payloads and keys.
_tracebacks = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def configure(settings: Settings) -> None:
    """Configure structlog and the standard library's logging, once per process."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _drop_uvicorns_colours,
                *_renderers(settings),
                _Redactor(_secrets(settings)),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "celery", "celery.task"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in ("httpx", "httpcore", "uvicorn.access", "celery.worker.strategy", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Celery logs a line for each task that raises Ignore, which is a normal end.
    logging.getLogger("celery.app.trace").setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


def _drop_uvicorns_colours(_logger: Any, _name: str, event: Any) -> Any:
    event.pop("color_message", None)
    return event


def _renderers(settings: Settings) -> list[Any]:
    console = settings.log_format == "console" or (
        settings.log_format == "auto" and sys.stderr.isatty()
    )
    if console:
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(exception_formatter=plain)]
    return [_tracebacks, structlog.processors.JSONRenderer()]


class _Redactor:
    """Replaces the values of secrets in a finished log line."""

    def __init__(self, secrets: Iterable[str]) -> None:
        plain = {s for s in secrets if len(s) >= 6}
        # JSON may write them with escapes. Longest first: one secret may contain another.
        written = plain | {json.dumps(secret)[1:-1] for secret in plain}
        self._secrets = sorted(written, key=len, reverse=True)

    def __call__(self, _logger: Any, _name: str, line: Any) -> str:
        for secret in self._secrets:
            if secret in line:
                line = line.replace(secret, HIDDEN)
        return str(line)


def _secrets(settings: Settings) -> Iterable[str]:
    for secret in (settings.together_api_key, settings.admin_token):
        if secret is not None:
            yield secret.get_secret_value()
    for account in settings.accounts.values():
        yield account.api_key.get_secret_value()
    for url in (settings.database_url, settings.redis_url):
        password = urlsplit(url).password if url else None
        if password:
            yield password
            yield unquote(password)
