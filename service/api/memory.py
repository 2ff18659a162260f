"""Bodies of requests and large answers in memory: how much, over all and for one producer."""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from service.api.problems import OVER_LIMIT, RETRY_AFTER, SLOW_BODY, TOO_MANY_BODIES, HttpProblem

MOST = 50_000_000
"""With so many, and what is made of them, the process stays below 250 MB."""
SHARE = 33_000_000
"""The most that one producer may have."""
STREAM = 1 << 19
"""The most that a body takes that is written on as it arrives: a block, and what is behind it."""
WAITING = 64_000
"""What a call weighs that waits for its body (44 kB, measured), and a first piece of that."""

HELD_SECONDS = 600.0
"""For a body of more than `STREAM` bytes that is held whole: others want its room."""


class Memory:
    """The bytes of bodies and answers that this process holds."""

    def __init__(self, most: int = MOST, share: int = SHARE) -> None:
        self._most = most
        self._share = share
        self._held: Counter[str] = Counter()

    @property
    def held(self) -> int:
        """The bytes of all."""
        return self._held.total()

    @contextmanager
    def body_of(self, producer: str) -> "Iterator[Holding]":
        """Account for one request's body and answer, in a `with` block."""
        holding = Holding(self, producer)
        try:
            yield holding
        finally:
            self.give_back(producer, holding.count)

    def take(self, producer: str, count: int) -> None:
        """Raises HttpProblem where it would be too much."""
        if self._held[producer] + count > self._share:
            raise HttpProblem(
                OVER_LIMIT,
                "the bodies that you send and the answers that you read at this moment may have"
                f" {self._share:,} bytes together; have fewer at a time, send large ones as JSONL,"
                " and ask for shorter lists",
                headers=RETRY_AFTER,
            )
        if self._held.total() + count > self._most:
            raise HttpProblem(
                TOO_MANY_BODIES,
                f"the bodies and answers of all producers have {self._most:,} bytes at this moment;"
                " try again",
                headers=RETRY_AFTER,
            )
        self._held[producer] += count

    def give_back(self, producer: str, count: int) -> None:
        self._held[producer] -= count
        self._held += Counter()  # forgets those at 0


class Holding:
    """The bytes of one request's body, and of its answer if that is large."""

    def __init__(self, memory: Memory, producer: str) -> None:
        self._memory = memory
        self._producer = producer
        self.count = 0
        self._most = sys.maxsize
        self._began = time.monotonic()

    def stream(self) -> None:
        """The body will be written on: beyond `STREAM` bytes it takes no more than these."""
        self._most = STREAM

    def drop(self) -> None:
        """What has arrived is no longer held."""
        self._memory.give_back(self._producer, self.count)
        self.count = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Account for a call that waits for more of its body. Raises HttpProblem."""
        self._memory.take(self._producer, WAITING)
        try:
            yield
        finally:
            self._memory.give_back(self._producer, WAITING)

    def body_arrived(self, count: int) -> None:
        """More of the body is here. Raises HttpProblem, also where it takes too long."""
        self.arrived(count)
        if self.count > STREAM and time.monotonic() - self._began > HELD_SECONDS:
            raise HttpProblem(
                SLOW_BODY,
                f"a body that is no JSONL has {HELD_SECONDS / 60:.0f} minutes to arrive, if it has"
                f" more than {STREAM:,} bytes; send large ones as JSONL",
            )

    def arrived(self, count: int) -> None:
        """More of the body, or the answer, is here. Raises HttpProblem."""
        count = min(count, self._most - self.count)
        self._memory.take(self._producer, count)
        self.count += count
