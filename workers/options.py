"""What producers ask of Celery with a message, and what Haulier makes of it.

`eta` (Celery makes one of `countdown`) and `expires` are kept. What a queue of batches cannot do is
refused in words. What changes nothing for a message that is read once is ignored: `retries`,
`group`, `reply_to`, `ignore_result` and the like.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from service.rules.errors import BadInput, Problem
from workers.envelopes import bad, storable
from workers.task_bodies import Task

LONGEST = timedelta(days=366)
"""How far ahead a message may say when its work is to begin."""

_NOTIFY = "leave it out, and let the spec's `notify` say what to call"
_REFUSED = {
    "callbacks": f"the message has a callback (`link`): {_NOTIFY}",
    "errbacks": f"the message has an error callback (`link_error`): {_NOTIFY}",
    "chain": f"the message is part of a chain: {_NOTIFY} next",
    "chord": f"the message is part of a chord: {_NOTIFY} when the job is done",
    "timelimit": "the message has a `time_limit` or `soft_time_limit`, which a job has not",
}


@dataclass(frozen=True)
class Options:
    """When the work may begin, if not at once, and what cannot be honoured."""

    not_before: datetime | None
    problems: tuple[Problem, ...]


def read_options(headers: Mapping[str, Any], task: Task, now: datetime) -> Options:
    """Return a message's options. `now` is of this machine's clock, like a Celery worker's."""
    problems = [Problem(words) for name, words in _REFUSED.items() if _has(headers, task, name)]
    try:
        eta, expires = (_time(headers, task, name) for name in ("eta", "expires"))
        problems += _of_times(eta, expires, now)
    except BadInput as error:
        eta, problems = None, [*problems, *error.problems]
    return Options(eta if eta is not None and eta > now else None, tuple(problems))


def _has(headers: Mapping[str, Any], task: Task, name: str) -> bool:
    found = _given(headers, task, name)
    # Without limits, Celery writes a list of two nulls.
    return any(found) if isinstance(found, list) else bool(found)


def _given(headers: Mapping[str, Any], task: Task, name: str) -> object:
    """Return an option from where its protocol puts it."""
    in_headers = name in {"eta", "expires", "timelimit"} and headers.get(name) is not None
    return headers[name] if in_headers else task.short(name)


def _time(headers: Mapping[str, Any], task: Task, name: str) -> datetime | None:
    """Return an option that is an instant; in UTC, as Celery's, where it names no zone."""
    found = _given(headers, task, name)
    if found is None or found == "":
        return None
    try:
        at = datetime.fromisoformat(found if isinstance(found, str) else "")
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise bad(f"`{name}` is {storable(found)[:50]!r}, not a time in ISO 8601") from None


def _of_times(eta: datetime | None, expires: datetime | None, now: datetime) -> Iterator[Problem]:
    if eta is not None and eta - now > LONGEST:
        yield Problem(f"`eta` is {eta.isoformat()}, more than a year ahead")
    if expires is not None and expires <= now:
        yield Problem(f"the message expired at {expires.isoformat()}, before Haulier read it")
    elif expires is not None and eta is not None and expires <= eta:
        yield Problem(f"`expires` is {expires.isoformat()}, before its `eta`")
