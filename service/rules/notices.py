"""Notices: who wants to hear of what becomes of a job, and where they may be sent. Pure."""

import re
from collections.abc import Collection
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

from service.rules.addresses import Address, Reach, is_public, literal
from service.rules.states import JobState

MOST_TARGETS = 10
URL_LENGTH = 2_000
MOST_RESULT_BYTES = 65_536
"""The most bytes of results that a notice carries, counted as they are sent."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,199}")
OURS = "haulier."
"""Tasks and queues of Haulier's own: no notice may set its workers to work."""
_BROKERS = frozenset({"unacked", "unacked_index", "unacked_mutex"})
"""Keys in Redis that kombu keeps its own books in."""


class NoticeEvent(StrEnum):
    COMPLETED = "job.completed"
    CANCELLED = "job.cancelled"
    REJECTED = "job.rejected"
    FAILED = "job.failed"
    PROGRESS = "job.progress"
    HELD = "job.held"
    AT_RISK = "job.deadline_at_risk"
    MISSED = "job.deadline_missed"


ENDS = {
    JobState.COMPLETED: NoticeEvent.COMPLETED,
    JobState.CANCELLED: NoticeEvent.CANCELLED,
    JobState.REJECTED: NoticeEvent.REJECTED,
    JobState.FAILED: NoticeEvent.FAILED,
}

_Percent = Annotated[int, msgspec.Meta(ge=1, le=50)]


class Notice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One entry of a spec's `notify`: a Celery task on a queue, or a webhook."""

    task: str | None = None
    queue: str | None = None
    webhook: str | None = None
    events: list[NoticeEvent] | None = None
    """What to send notices of, progress aside; None is all of them."""
    progress: _Percent | None = None
    """Send a notice whenever so many percent more of the requests are done."""
    results: bool | None = None
    """Whether the notices carry the job's results, if these are few."""

    @property
    def target(self) -> dict[str, str]:
        if self.webhook is not None:
            return {"webhook": self.webhook}
        return {"task": self.task or "", "queue": self.queue or ""}

    @property
    def endpoint(self) -> str:
        """The host and port, or the queue. Notices to one endpoint wait for each other."""
        if self.webhook is None:
            return f"queue {self.queue}"
        parts = urlsplit(self.webhook)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return f"webhook {parts.hostname}:{port}"

    def wants(self, event: NoticeEvent) -> bool:
        """Whether this event is to be sent: any but a step of progress."""
        return self.events is None or event in self.events

    def steps(self, done: int, total: int) -> int:
        """Return the number of progress steps that `done` of `total` requests make."""
        return 0 if self.progress is None or not total else done * 100 // (total * self.progress)


def read_notices(entries: list[Any]) -> list[Notice]:
    """Raises msgspec.ValidationError."""
    return msgspec.convert(entries, list[Notice])


def notice_problems(
    entries: list[Any],
    *,
    tasks: Collection[str] | None,
    queues: Collection[str] | None,
    private: Reach,
) -> list[str]:
    """Return what is wrong with `notify`. `tasks` and `queues` are allow-lists; None allows all.

    `private` are the private hosts and networks that webhooks may go to.
    """
    if len(entries) > MOST_TARGETS:
        return [f"`notify` may have {MOST_TARGETS} entries"]
    try:
        notices = read_notices(entries)
    except msgspec.ValidationError as error:
        return [f"`notify`: {error}"]
    problems = []
    for number, notice in enumerate(notices):
        trouble = _trouble(notice, tasks, queues, private=private)
        if trouble is not None:
            problems.append(f"`notify[{number}]`: {trouble}")
    return problems


def _trouble(
    notice: Notice,
    tasks: Collection[str] | None,
    queues: Collection[str] | None,
    *,
    private: Reach,
) -> str | None:
    if NoticeEvent.PROGRESS in (notice.events or ()):
        return 'progress is not asked for in `events`, but with its step: "progress": 10'
    if notice.webhook is not None:
        if notice.task is not None or notice.queue is not None:
            return "give `webhook`, or `task` and `queue`, not both"
        return webhook_trouble(notice.webhook, private=private)
    if notice.task is None or notice.queue is None:
        return "give `task` and `queue`, or `webhook`"
    return _name_trouble("task", notice.task, tasks) or _name_trouble("queue", notice.queue, queues)


def _name_trouble(what: str, name: str, allowed: Collection[str] | None) -> str | None:
    if not _NAME.fullmatch(name):
        return f"{what}: use up to 200 of A-Z a-z 0-9 _ . : @ -"
    if name.startswith(OURS) or name in _BROKERS:
        return f"{what} {name!r} is Haulier's own"
    if allowed is not None and name not in allowed:
        return f"{what} {name!r} is not allowed to you"
    return None


def webhook_trouble(url: str, *, private: Reach) -> str | None:
    """Return why no webhook may go to a URL, or None. Names are checked when they are resolved."""
    if len(url) > URL_LENGTH:
        return f"webhook: a URL may have {URL_LENGTH:,} characters"
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return "webhook: is not a URL (write other characters in percent-encoding or punycode)"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"webhook: is not a URL ({error})"
    schemes = ("https", "http") if private else ("https",)
    if parts.scheme not in schemes:
        return f"webhook: must begin with {' or '.join(f'{one}://' for one in schemes)}"
    if not parts.hostname or port == 0:
        return (
            "webhook: names no host"
            if not parts.hostname
            else "webhook: port 0 cannot be used; use 1 to 65535"
        )
    if "@" in parts.netloc or "#" in url:
        return "webhook: may have no user, no password and no fragment"
    address = literal(parts.hostname)
    if address is None:
        return None
    trouble = address_trouble(parts.scheme, parts.hostname, address, private=private)
    return trouble and f"webhook: {trouble}"


def address_trouble(scheme: str, host: str, address: Address, *, private: Reach) -> str | None:
    """Return why a webhook to a host may not go to one of the host's addresses, or None."""
    if private.covers(host, address):
        return None
    if not is_public(address):
        # Not which: whoever may name a host shall not learn how private names are resolved.
        return (
            f"{host} is a private address, and not one of your `private_webhooks`; an operator"
            " can add it (`haulier producer set NAME --private-webhook HOST`), or allow all with"
            " HAULIER_WEBHOOK_ALLOW_PRIVATE"
        )
    if scheme != "https":
        return (
            f"{host} must be called over https://, since it is not one of your `private_webhooks`"
        )
    return None


FIRST_PAUSE = timedelta(seconds=5)
"""The pause after the first try of a notice that failed; it doubles with each further one."""
LONGEST_PAUSE = timedelta(hours=1)
