"""The second half of the demo: a swarm of small jobs, which share provider batches."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

import msgspec

from service.cli.api import Api
from service.cli.place import Place
from service.cli.screen import Screen
from service.rules.requests import CHAT
from tests.simulator import Simulator

T = TypeVar("T")
R = TypeVar("R")

LONGEST = 300.0
"""Seconds for which the end of a job is waited for."""
REQUESTS = 3
"""Of each small job. All jobs use the same custom_ids."""
CONNECTIONS = 8
MODEL = "deepseek-ai/DeepSeek-V3"


@dataclass(frozen=True)
class Swarm:
    """What became of it. `wrong` are jobs that did not get just what they asked for."""

    jobs: int
    batches: int
    wrong: int
    took: float
    """Seconds."""

    def problems(self) -> list[str]:
        """What is wrong, in words."""
        return [f"{self.wrong} small jobs have other results than they should"] * bool(self.wrong)


def small_spec(number: int) -> bytes:
    return msgspec.json.encode(
        {
            "endpoint": CHAT,
            "requests": [
                {
                    "custom_id": f"line-{line}",
                    "body": {
                        "model": MODEL,
                        "messages": [{"role": "user", "content": f"Say {number}.{line}"}],
                    },
                }
                for line in range(REQUESTS)
            ],
        }
    )


def play(screen: Screen, place: Place, simulator: Simulator, jobs: int) -> Swarm:
    """Submit so many small jobs over a few connections, and check each one's results."""
    screen.line("")
    screen.line(f"Now a swarm: {jobs:,} jobs of {REQUESTS} requests, with the same custom_ids")
    before, started = simulator.batches_created, time.monotonic()
    ids = _shared_out(place, range(jobs), lambda api, n: api.submit_spec(small_spec(n)).job.value)
    screen.line(f"Submitted after {time.monotonic() - started:.1f} s")
    right = _shared_out(
        place, list(enumerate(ids)), lambda api, one: _is_right(api, one[1].uuid, one[0])
    )
    return Swarm(
        jobs=jobs,
        batches=simulator.batches_created - before,
        wrong=right.count(False),
        took=time.monotonic() - started,
    )


def _shared_out(place: Place, items: Sequence[T], work: Callable[[Api, T], R]) -> list[R]:
    """Do this for each item, over several connections. Returns what came of each, in order."""
    done: dict[int, R] = {}

    def share(first: int) -> None:
        with Api(place) as api:
            for at in range(first, len(items), CONNECTIONS):
                done[at] = work(api, items[at])

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        list(threads.map(share, range(CONNECTIONS)))
    return [done[at] for at in range(len(items))]


def _is_right(api: Api, job_id: UUID, number: int) -> bool:
    """Wait for a job's end. Return whether it has its own answers, in order, under its names."""
    give_up_at = time.monotonic() + LONGEST
    while not api.job(job_id).value.ended:
        assert time.monotonic() < give_up_at, f"job {job_id} has not ended"
        time.sleep(0.2)
    lines = b"".join(api.results(job_id)).splitlines()
    return [_said(line) for line in lines] == [
        (f"line-{line}", f"echo: Say {number}.{line}") for line in range(REQUESTS)
    ]


def _said(line: bytes) -> tuple[str, str]:
    answer = msgspec.json.decode(line)
    message = answer["response"]["body"]["choices"][0]["message"]
    return answer["custom_id"], message["content"]
