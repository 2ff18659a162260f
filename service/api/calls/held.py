"""A connection that waits for the answer to a call, and how that may end."""

import asyncio
from enum import Enum, auto
from uuid import UUID

from service.api.auth import Caller
from service.api.calls.results import Answer
from service.api.problems import HttpProblem


class Ended(Enum):
    """Why a client gets no answer on this connection."""

    GONE = auto()  # it has hung up
    STOPPING = auto()  # this process ends
    REVOKED = auto()  # its credential, or its producer


Outcome = Answer | HttpProblem | Ended


class Held:
    """A connection that waits for the answer to a call."""

    __slots__ = ("_woken", "credential", "id", "is_delivered", "job_id", "outcome", "producer")

    def __init__(self, job_id: UUID, hold: UUID, caller: Caller) -> None:
        self.job_id = job_id
        self.id = hold
        self.producer = caller.producer
        self.credential = caller.credential
        self.outcome: Outcome | None = None
        self.is_delivered = False
        self._woken: asyncio.Future[None] | None = None

    def end(self, outcome: Outcome) -> None:
        """Wake the connection, unless something has done so before."""
        if self.outcome is None:
            self.outcome = outcome
            self._wake()

    async def wait(self, seconds: float) -> Outcome | None:
        """Return what became of the call; None if that is not known after so many seconds.

        `asyncio.wait` would do, but weighs a kilobyte more for as long as it waits.
        """
        if self.outcome is None:
            loop = asyncio.get_running_loop()
            self._woken = loop.create_future()
            timer = loop.call_later(seconds, self._wake)
            try:
                await self._woken
            finally:
                timer.cancel()
        return self.outcome

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)
