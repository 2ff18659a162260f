"""The overview in lines for people, the most urgent first."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta

from service.cli.documents import Account, Lane
from service.cli.screen import Screen, age, length, local, usd
from service.cli.show.forecasts import ending
from service.cli.show.states import state_of
from service.cli.tables import Column
from service.cli.top.documents import DaySpent, Flow, KindOfProcess, Overview

SILENT = 15.0
"""Seconds after which a process that says nothing is not running."""


def show_overview(screen: Screen, seen: Overview) -> None:
    """Write all of it."""
    screen.fields(_needs(seen))
    screen.line("")
    screen.fields(
        [
            ("came in", _flow(seen.arrived, seen.at)),
            ("ended", _flow(seen.ended, seen.at)),
            ("waiting", _waiting(seen)),
            ("jobs", _under_way(seen, "jobs")),
            ("batches", _under_way(seen, "batches")),
            ("spent", ", ".join(_spent(day, seen.at) for day in seen.spent)),
            ("accounts", ", ".join(map(_account, seen.accounts)) or "none"),
            ("processes", _processes(seen.processes)),
        ]
    )
    if seen.lanes:
        screen.line("")
        _lanes(screen, seen.lanes)
    screen.line("")
    if seen.running:
        _running(screen, seen)
    else:
        screen.line("No job is running.")


def _needs(seen: Overview) -> Iterator[tuple[str, object]]:
    label = "needs you"
    if not seen.needs:
        yield label, "nothing"
    for need in seen.needs:
        since = f" since {age(need.since)} ago" if need.since else ""
        why = f": {need.reason}" if need.reason else ""
        yield label, f"{need.words}{since}{why}"
        yield "", need.command or None
        label = ""


def _flow(flow: Flow, at: datetime) -> str:
    span = max((at - flow.since).total_seconds(), 1.0)
    jobs = f"{flow.jobs:,} {'job' if flow.jobs == 1 else 'jobs'}"
    failed = f", {flow.failed:,} failed" if flow.failed else ""
    rate = f"{flow.requests / span:,.1f} a second"
    words = f"{flow.requests:,} requests ({rate}) of {jobs}{failed}"
    return f"{words} in the last {_span(span)}"


def _span(seconds: float) -> str:
    return "hour" if seconds >= 3_599 else length(timedelta(seconds=seconds))


def _more(seen: Overview, name: str) -> str:
    return " or more" if name in seen.at_least else ""


def _waiting(seen: Overview) -> str:
    found = seen.waiting
    if not found.rows:
        return "no request waits for a batch"
    oldest = f", the oldest for {age(seen.oldest_waiting)}" if seen.oldest_waiting else ""
    parts = "part" if found.rows == 1 else "parts"
    more = _more(seen, "waiting")
    return f"{found.requests:,}{more} requests in {found.rows:,}{more} {parts}{oldest}"


def _under_way(seen: Overview, name: str) -> str:
    found = seen.jobs if name == "jobs" else seen.batches
    states = [f"{of.rows:,} {state} ({of.requests:,} requests)" for state, of in found.items()]
    return (", ".join(states) or "none") + (" or more" if name in seen.at_least else "")


def _spent(day: DaySpent, at: datetime) -> str:
    name = "today" if day.day == str(at.date()) else "yesterday"
    cost = "unknown" if day.estimated_cost is None else f"{usd(day.estimated_cost)} USD"
    tokens = day.prompt_tokens + day.completion_tokens
    return f"{cost} {name} (UTC) for {tokens:,} tokens"


def _account(account: Account) -> str:
    if account.state != "paused":
        return f"{account.name} {account.state}"
    until = f" until {local(account.paused_until)}" if account.paused_until else ""
    return f"{account.name} paused{until} ({account.reason or 'no reason given'})"


def _processes(found: list[KindOfProcess]) -> str:
    alive: defaultdict[str, list[KindOfProcess]] = defaultdict(list)
    silent = []
    for process in found:
        if process.age_seconds > SILENT:
            ago = length(timedelta(seconds=process.age_seconds))
            silent.append(f"{process.kind} on {process.host} silent for {ago}")
        else:
            alive[process.kind].append(process)
    counts = []
    for kind, some in alive.items():
        slots = sum(process.slots for process in some)
        name = kind if len(some) == 1 else f"{kind}{'es' if kind == 'inbox' else 's'}"
        counts.append(f"{len(some):,} {name}" + (f" ({slots} slots)" if slots else ""))
    return ", ".join((*counts, *silent)) or "none"


def _lanes(screen: Screen, lanes: list[Lane]) -> None:
    screen.table(
        (
            *(Column("lane", rank=0), Column("account", rank=2), Column("state", rank=0)),
            *(Column("next", wrap=True), Column("done", wrap=True, rank=2)),
        ),
        (
            (
                *(lane.model, lane.account, "paused" if lane.paused_at else lane.state),
                *(lane.next, ending(lane.forecast)),
            )
            for lane in lanes
        ),
    )


def _running(screen: Screen, seen: Overview) -> None:
    screen.table(
        (
            *(Column("running job"), Column("state", rank=0), Column("producer", rank=2)),
            *(Column("succeeded", number=True), Column("failed", number=True)),
            *(Column("age", number=True), Column("done", wrap=True, rank=3)),
        ),
        (
            (
                *(job.id, state_of(job), job.producer),
                *(f"{job.succeeded:,} of {job.total:,}", job.failed),
                *(age(job.created_at), ending(job.forecast)),
            )
            for job in seen.running
        ),
    )
