"""Siege: one producer does everything hostile at once, while another does its ordinary work.

    make siege MINUTES=5

Exits with 1 if the other producer's submissions take more than twice as long as without the siege
(median and 99th percentile), if one of them is refused or its job does not end, if the API holds
more than 250 MB, or if a process ended or left a traceback.
"""

import argparse
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.queues import Queue

from tests.api import client
from tests.faults.honest import Found, Service, at_work, check_honest, check_logs, open_service
from tests.faults.siege_attacks import besiege

SPAWN = get_context("spawn")
ALONE = 0.3
"""The share of the time for which the honest producer is alone first."""
MOST_TIMES = 2.0
MOST_MB = 250.0
LIMITS = {
    "body_bytes": 32_000_000,
    "open_requests": 2_000,
    "requests_per_day": 1_000_000,
    "stored_bytes": 50_000_000,
}
"""What an operator would allow the hostile producer."""


def run(seconds: float) -> Found:
    """Besiege the service for so long."""
    found = Found()
    with open_service() as service, ExitStack() as stack:
        token = service.producer("honest", accounts=["honest"])
        mine = stack.enter_context(client(service.url))
        mine.headers["Authorization"] = f"Bearer {token}"
        hostile = service.producer("hostile", **LIMITS)
        alone = at_work(mine, lambda: time.sleep(seconds * ALONE))
        told: Queue[Counter[str]] = SPAWN.Queue()
        rest = seconds * (1 - ALONE)
        attacker = SPAWN.Process(
            target=besiege, args=(service.url, hostile, service.valkey_url, rest, told)
        )
        peaks = _Peaks(service)

        def meanwhile() -> None:
            attacker.start()
            peaks.start()
            time.sleep(rest)

        beside = at_work(mine, meanwhile)
        counts = told.get(timeout=120)
        peaks.ending.set()
        attacker.join(30)
        check_honest(mine, alone, beside, found)
        found.slower = {
            name: beside.percentile(p) / alone.percentile(p)
            for name, p in (("p50", 50), ("p99", 99))
        }
        found.figures |= {f"most MB of {name}": f"{mb:.0f}" for name, mb in peaks.most.items()}
        if peaks.most["api"] > MOST_MB:
            found.broken.append(f"the API held {peaks.most['api']:.0f} MB")
        found.figures |= {f"hostile: {what}": count for what, count in sorted(counts.items())}
        found.broken += [
            f"{name} has ended: {part.output[-2000:]}"
            for name, part in service.parts.items()
            if not part.alive
        ]
        check_logs(service.home / "logs", found)
    return found


class _Peaks(threading.Thread):
    """The most that the processes held, looked at twice a second."""

    def __init__(self, service: Service) -> None:
        super().__init__(name="peaks", daemon=True)
        self._service = service
        self.most: Counter[str] = Counter()
        self.ending = threading.Event()

    def run(self) -> None:
        while not self.ending.wait(0.5):
            self.most |= Counter({n: int(mb) for n, mb in self._service.resident().items()})


def main() -> int:
    """The command. 0 if the other producer hardly noticed."""
    parser = argparse.ArgumentParser(prog="siege", description="Be hostile to a service.")
    parser.add_argument("--minutes", type=float, default=5.0)
    arguments = parser.parse_args()
    found = run(arguments.minutes * 60)
    for name, times in found.slower.items():
        found.figures[f"{name} beside the siege, times that alone"] = f"{times:.2f}"
        if times > MOST_TIMES:
            found.broken.append(f"{name} beside the siege is {times:.2f} times that alone")
    print(found.table())
    print("BROKEN." if found.broken else "The other producer hardly noticed.")
    return 1 if found.broken else 0


if __name__ == "__main__":
    sys.exit(main())
