"""Logging: one format for all log lines of a process, without secrets.

Lines are JSON, or easy to read on a terminal. Each line has the fields that are bound to
structlog's context (job, batch, stage, attempt, account, task).
"""

import logging
import sys
from io import StringIO
from typing import Any, TextIO

import structlog
from structlog.typing import ExcInfo

from config.redaction import learn
from config.settings import Settings

# Without local variables, which may hold payloads and keys.
_tracebacks = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def configure(settings: Settings) -> None:
    """Configure structlog and the standard library's logging, once per process."""
    redact = learn(settings)
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
                lambda _logger, _name, line: redact(str(line)),
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
        console_renderer = structlog.dev.ConsoleRenderer(exception_formatter=_show_traceback)
        return [_make_showable, console_renderer]
    return [_tracebacks, structlog.processors.JSONRenderer()]


def _make_showable(_logger: Any, _name: str, event: Any) -> Any:
    """Escape what a terminal would obey: names and errors are the text of others."""
    for key, value in event.items():
        if isinstance(value, str):
            kept = "\n\t" if key in _OF_SEVERAL_LINES else ""
            event[key] = _escaped(value, kept)
    return event


# The text of others must not look like a line of the log.
_OF_SEVERAL_LINES = frozenset({"exception", "stack"})


def _show_traceback(stream: TextIO, exc_info: ExcInfo) -> None:
    written = StringIO()
    structlog.dev.plain_traceback(written, exc_info)
    stream.write(_escaped(written.getvalue(), "\n\t"))


def _escaped(text: str, kept: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text
    )
