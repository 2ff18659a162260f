"""Instants as people type them: 1h, yesterday, 2026-11-28."""

import re
from datetime import UTC, datetime, time, timedelta

import typer

_AGO = re.compile(r"(\d{1,9})\s*(s|m|min|h|d|w)", re.ASCII)
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_DAYS = {"today": 0, "yesterday": 1}

WHEN = "1h (ago), yesterday, 2026-11-28, 2026-11-28T12:00:00Z"
"""Examples, for help texts."""


def instant(words: str) -> str:
    """Return an instant as the API takes it.

    Days begin at midnight of the reader's time zone, which times without a zone are in, too. Raises
    typer.BadParameter.
    """
    now = datetime.now().astimezone()
    try:
        found = _read(words.strip(), now)
    except (ValueError, OverflowError, OSError):
        raise typer.BadParameter(f"{words!r} is no time; write one like {WHEN}") from None
    return found.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _read(words: str, now: datetime) -> datetime:
    if ago := _AGO.fullmatch(words):
        number, unit = ago.groups()
        return now - timedelta(seconds=int(number) * _UNITS[unit])
    if words in _DAYS:
        day = now.date() - timedelta(days=_DAYS[words])
        return datetime.combine(day, time()).astimezone()
    if words == "now":
        return now
    found = datetime.fromisoformat(words.upper())
    return found if found.tzinfo else found.astimezone()
