"""Fuzz: several producers and Together itself say odd things, while another producer works.

    make fuzz MINUTES=5 SEED=1

Exits with 1 if anything was answered with a 5xx, left a traceback, grew, or stopped the other
producer. The same seed sends much the same.
"""

import argparse
import sys
import time
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from multiprocessing.queues import Queue

import httpx

from tests.api import client
from tests.faults.fuzz_producers import Seen, Target, careless
from tests.faults.fuzz_provider import odd_provider
from tests.faults.honest import (
    Found,
    at_work,
    check_growth,
    check_honest,
    check_logs,
    open_service,
)

WARM_SECONDS = 30.0
"""Runs shorter than this say nothing about growth: processes are still filling their caches."""
SPAWN = get_context("spawn")
CARELESS = 3
ALONE = 0.2
"""The share of the time for which the honest producer is alone first."""


DOORS = ("/v1", "/together/v1", "/openai/v1")


def documented(http: httpx.Client, base: str) -> list[str]:
    """The paths that the OpenAPI document below a path describes."""
    document = http.get(f"{base}/openapi.json").raise_for_status().json()
    return [path if path.startswith(base) else base + path for path in document["paths"]]


def run(seconds: float, seed: int) -> Found:
    """Send odd things for so long, and look at what that did."""
    found = Found()
    with open_service(partial(odd_provider, seed=seed)) as service, ExitStack() as stack:
        token = service.producer("honest", accounts=["honest"])
        mine = stack.enter_context(client(service.url))
        mine.headers["Authorization"] = f"Bearer {token}"
        alone = at_work(mine, lambda: time.sleep(seconds * ALONE))
        paths = [path for base in DOORS for path in documented(service.http, base)]
        targets = [
            Target(service.url, service.producer(f"careless-{number}"), service.valkey_url, paths)
            for number in range(CARELESS)
        ]
        sizes: list[dict[str, float]] = []
        told: Queue[Seen] = SPAWN.Queue()
        odd = SPAWN.Process(target=careless, args=(targets, seed, seconds * (1 - ALONE), told))

        def meanwhile() -> None:
            odd.start()
            for _ in range(2):
                time.sleep(seconds * (1 - ALONE) / 2)
                sizes.append(service.resident())

        beside = at_work(mine, meanwhile)
        seen = told.get(timeout=120)
        odd.join()
        check_honest(mine, alone, beside, found)
        if seconds >= WARM_SECONDS:
            check_growth(sizes, found)
        found.broken += seen.broken[:20]
        found.figures |= dict(sorted(seen.answers.items()))
        for name, part in service.parts.items():
            if not part.alive:
                found.broken.append(f"{name} has ended: {part.output[-2000:]}")
        check_logs(service.home / "logs", found)
    return found


def main() -> int:
    """The command. 0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="fuzz", description="Send odd things everywhere.")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    found = run(arguments.minutes * 60, arguments.seed)
    print(found.table())
    if found.broken:
        print(f"BROKEN. Repeat with SEED={arguments.seed}")
        return 1
    print("Nothing was found.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
