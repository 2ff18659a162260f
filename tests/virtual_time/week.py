"""A week of plausible history: a company's traffic, an outage, and if asked for five faults."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from service.cli.up.ports import free_port
from tests.receiver import receiving
from tests.virtual_time.clock import VirtualClock
from tests.virtual_time.company import Company
from tests.virtual_time.five_faults import FiveFaults
from tests.virtual_time.traffic import DAY, DEEPSEEK, TEAMS, Plan, Submission
from tests.virtual_time.world import Traveller, World, open_world

BATCH_SECONDS = 1500.0
"""Of a usual batch."""
SHORTEST = timedelta(minutes=20)
"""The shortest jump: batches are seen to end this late at most."""

# Files are called `<batch id>.jsonl`, and batch ids are random.
BATCHES: list[dict[str, Any]] = [
    {"file_name": "^0", "seconds": 5 * 3600.0},
    {"file_name": "^[1-3]", "seconds": 5400.0},
    {"file_name": "^[4-7]", "seconds": 600.0},
    {"file_name": "^f0", "outcome": "expire", "share": 0.8},
]
LINES: list[dict[str, Any]] = [
    {"effect": "error", "share": 0.004, "seed": 1, "code": "context_length_exceeded",
     "message": "This model's maximum context length is 8193 tokens"},
    {"effect": "error", "share": 0.002, "seed": 2, "code": "content_filter",
     "message": "The response was filtered due to the prompt triggering content management"},
    {"effect": "error", "share": 0.02, "seed": 3, "times": 1},
    {"effect": "missing", "share": 0.005, "seed": 4, "times": 1},
]  # fmt: skip


@dataclass(frozen=True)
class Week:
    """The world after its week, by the true clock from here on."""

    world: World
    company: Company
    jobs: int
    requests: int
    jumps: int
    took: float
    """Seconds, by the true clock."""
    faults: FiveFaults | None


@dataclass(frozen=True)
class Wanted:
    """What the week is to be like."""

    days: float = 7.0
    scale: float = 1.0
    """Times so many jobs."""
    faults: bool = False
    """Whether the five faults are injected at its end."""


@contextmanager
def open_week(home: Path, wanted: Wanted, say: Callable[[str], None]) -> Iterator[Week]:
    """Live through a week that ends now, and go on with it. On the main thread only."""
    started = time.monotonic()
    port = free_port()
    clock = VirtualClock(home, begin_ago=timedelta(days=wanted.days))
    with receiving() as receiver, ExitStack() as stack:
        with open_world(home, clock, batch_seconds=BATCH_SECONDS, port=port) as world:
            company = stack.enter_context(Company(world, TEAMS, receiver.url))
            world.simulator.scenario(lines=LINES, batches=BATCHES)
            begin, end = clock.time() + 600, time.time()
            submissions = Plan(begin, end, scale=wanted.scale).submissions()
            faults = FiveFaults(world, company, end) if wanted.faults else None
            happenings = [
                *_history(world, company, submissions, begin, end),
                *(faults.happenings() if faults else ()),
            ]
            traveller = Traveller(world, SHORTEST, clock)
            _live(traveller, happenings, begin, say)
        say("Starting it again, by the true clock")
        with open_world(home, None, batch_seconds=BATCH_SECONDS, port=port) as world:
            took = time.monotonic() - started
            requests = sum(len(one.custom_ids) for one in submissions)
            yield Week(world, company, len(submissions), requests, traveller.jumps, took, faults)


def _live(
    traveller: Traveller, happenings: list["Happening"], begin: float, say: Callable[[str], None]
) -> None:
    """Let all of it happen, each at its time, up to the true present."""
    started = time.monotonic()
    days = 0
    for at, happen in sorted(happenings, key=lambda one: one[0]):
        traveller.to(at)
        if int((at - begin) // DAY) > days:
            days = int((at - begin) // DAY)
            passed = "1 day has passed" if days == 1 else f"{days} days have passed"
            say(f"{passed} after {time.monotonic() - started:.0f} s")
        happen()
    traveller.to(time.time())
    traveller.settle()
    traveller.clock.be_true()


Happening = tuple[float, Callable[[], object]]


def _history(
    world: World, company: Company, submissions: list[Submission], begin: float, end: float
) -> Iterator[Happening]:
    """What happens in every week: the traffic, and an outage in its middle."""
    ids = {}

    def submit(one: Submission) -> None:
        ids[one.key] = company.submit(one)

    for one in submissions:
        yield one.at, lambda one=one: submit(one)  # type: ignore[misc]
    middle = begin + (end - begin) * 0.45
    outage = {"kind": "lines", "model": "DeepSeek", "message": "Service unavailable"}
    yield middle, lambda: world.simulator.outage(seconds=3 * 3600.0, **outage)
    # Somebody changes their mind about a job.
    changed = next(
        (one for one in submissions if one.at > middle and DEEPSEEK in str(one.spec)), None
    )
    if changed is not None:
        yield changed.at + 60, lambda: company.admin("POST", f"/v1/jobs/{ids[changed.key]}/cancel")
