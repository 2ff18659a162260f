"""What the API's overview looks like to a client. Unknown fields are let pass."""

from datetime import datetime

import msgspec

from service.cli.documents import Account, Job, Lane, Process, Spent


class Need(msgspec.Struct, frozen=True):
    """What waits for a person, of one kind."""

    words: str
    command: str
    since: datetime | None = None
    reason: str | None = None


class Flow(msgspec.Struct, frozen=True):
    """Jobs that came in, or ended, since then."""

    since: datetime
    jobs: int
    requests: int
    failed: int = 0


class UnderWay(msgspec.Struct, frozen=True):
    rows: int
    requests: int


class DaySpent(Spent, frozen=True, kw_only=True):
    day: str


class KindOfProcess(Process, frozen=True, kw_only=True):
    kind: str


class Overview(msgspec.Struct, frozen=True):
    at: datetime
    version: str
    needs: list[Need]
    arrived: Flow
    ended: Flow
    jobs: dict[str, UnderWay]
    batches: dict[str, UnderWay]
    waiting: UnderWay
    at_least: list[str]
    lanes: list[Lane]
    accounts: list[Account]
    spent: list[DaySpent]
    """Today and yesterday."""
    processes: list[KindOfProcess]
    running: list[Job]
    oldest_waiting: datetime | None = None
