"""Deadlines of jobs: what a spec may say, and what follows from a forecast. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import assert_never

LONGEST = timedelta(days=365)
"""The longest deadline that is given as a duration."""

SOON, LATE = timedelta(seconds=1), timedelta(minutes=5)
"""The shortest and the longest pause between two looks at a job with a deadline."""
LOOKS = 50
"""How often a job is looked at, about, in the time that is left to it."""

SLACK = 0.1
"""A job is no longer at risk when so much of the time that is left is to spare."""
CALM, FULL = 0.5, 1.0
"""A job that needs less than half of the time that is left has the priority that was asked for; one
that needs all of it has the highest."""


class OnDeadline(StrEnum):
    """What happens as a deadline comes nearer. Notices go out with both."""

    REPORT = "report"
    PRIORITY = "priority"
    """The job's priority rises."""


_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_NUMBER = r"(\d{1,9}(?:\.\d{1,6})?)"
_SECONDS = re.compile(rf"\s*{_NUMBER}\s*")
_PLAIN = re.compile(rf"(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?", re.IGNORECASE)
_ISO = re.compile(
    rf"P(?:{_NUMBER}D)?(?:T(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?", re.IGNORECASE
)
_INSTANT = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
)
FORMS = "an instant with its zone (2026-12-01T06:00:00Z), or a duration (6h, PT6H, or seconds)"


def read_deadline(given: str | float) -> datetime | timedelta:
    """Return the instant, or the time after the submission. Raises ValueError."""
    found = _read(given)
    if isinstance(found, timedelta) and not timedelta(0) < found <= LONGEST:
        raise ValueError(f"must be a duration above 0, and {LONGEST.days} days at most")
    return found


def _read(given: str | float) -> datetime | timedelta:
    if not isinstance(given, str):
        return _duration(given)
    if found := _SECONDS.fullmatch(given):
        return _duration(float(found[1]))
    for form in (_PLAIN, _ISO):
        found = form.fullmatch(given)
        if found and any(found.groups()):
            pairs = zip(_UNITS.values(), found.groups(), strict=True)
            return _duration(sum(size * float(number or 0) for size, number in pairs))
    if _INSTANT.fullmatch(given):
        try:
            return datetime.fromisoformat(given.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            raise ValueError(f"{given!r} is no instant of the calendar") from None
    raise ValueError(f"{given[:40]!r} is not {FORMS}")


def _duration(seconds: float) -> timedelta:
    try:
        return timedelta(seconds=seconds)
    except (OverflowError, ValueError):  # NaN is a ValueError
        return timedelta.max


def deadline_at(given: str | float, submitted: datetime) -> datetime:
    """Return the instant of a deadline that `read_deadline` can read."""
    found = read_deadline(given)
    return submitted + found if isinstance(found, timedelta) else found


def past_problem(given: str | float | None, submitted: datetime) -> str | None:
    """Return why a job that is submitted now cannot have this deadline, or None."""
    if given is None:
        return None
    deadline = deadline_at(given, submitted)
    if deadline > submitted:
        return None
    now = submitted.astimezone(UTC).isoformat(timespec="seconds")
    return f"`deadline` {given!r} is past: it is {now}; give a later one, or none"


def deadline_problems(deadline: str | float | None, on_deadline: str | None) -> Iterator[str]:
    """Yield what is wrong with these fields of a spec, whatever time it is."""
    if deadline is None:
        if on_deadline is not None:
            yield "`on_deadline` says nothing without `deadline`"
        return
    try:
        read_deadline(deadline)
    except ValueError as error:
        yield f"`deadline` {error}"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a job that is not finished stands to its deadline."""

    deadline: datetime
    on_deadline: OnDeadline
    submitted: datetime
    asked: int
    """The priority of its spec."""
    highest: int
    """The highest priority that its producer may use."""
    raised: int | None = None
    """The priority that it has instead of `asked`, if that is another one."""
    at_risk_since: datetime | None = None
    missed_at: datetime | None = None


def looked(standing: Standing, now: datetime, likely_by: datetime | None) -> Standing:
    """Return how a job stands now. `likely_by` is the instant by which it ends with 90 %.

    None: nothing is known of that, and only a deadline that is over is missed.
    """
    if now >= standing.deadline and standing.missed_at is None:
        standing = replace(standing, missed_at=now)
    at_risk = _at_risk(standing, now, likely_by)
    since = (standing.at_risk_since or now) if at_risk else None
    return replace(standing, at_risk_since=since, raised=_raised(standing, now, likely_by))


def _at_risk(standing: Standing, now: datetime, likely_by: datetime | None) -> bool:
    """Whether it is too likely to be missed. What is missed, or not forecast, stays as it was."""
    if standing.missed_at is not None or likely_by is None:
        return standing.at_risk_since is not None
    if likely_by > standing.deadline:
        return True
    spare = SLACK * (standing.deadline - now)
    return standing.at_risk_since is not None and likely_by + spare > standing.deadline


def _raised(standing: Standing, now: datetime, likely_by: datetime | None) -> int | None:
    match standing.on_deadline:
        case OnDeadline.REPORT:
            return None
        case OnDeadline.PRIORITY:
            pass
        case _:
            assert_never(standing.on_deadline)
    need = pressure(standing, now, likely_by)
    wanted = priority(standing, need)
    has = standing.asked if standing.raised is None else standing.raised
    if wanted < has:
        # Not before there is something to spare: it would come and go with each forecast.
        wanted = min(has, priority(standing, need + SLACK))
    return None if wanted <= standing.asked else wanted


def pressure(standing: Standing, now: datetime, likely_by: datetime | None) -> float:
    """Return how much of the time that is left the job is likely to need.

    Without a forecast, it is how much of its time is over.
    """
    left = (standing.deadline - now).total_seconds()
    if left <= 0:
        return FULL
    if likely_by is not None:
        return max(0.0, (likely_by - now).total_seconds() / left)
    whole = (standing.deadline - standing.submitted).total_seconds()
    return 1.0 - left / whole if left < whole else 0.0


def priority(standing: Standing, need: float) -> int:
    """Return the priority for a pressure: from what was asked to the highest, in whole steps."""
    share = min(max((need - CALM) / (FULL - CALM), 0.0), 1.0)
    return standing.asked + round(share * max(standing.highest - standing.asked, 0))


def pause(standing: Standing, now: datetime) -> timedelta:
    """Return when to look next: the nearer the deadline, the sooner, and once right after it."""
    left = standing.deadline - now
    if left <= timedelta(0):
        return LATE
    return min(max(left / LOOKS, SOON), LATE, left)
