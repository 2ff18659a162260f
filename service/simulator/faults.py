"""Which fault befalls which call, and the calls that are held."""

import asyncio
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from service.simulator.scenario import AnyFault


@dataclass
class _Armed:
    fault: AnyFault
    passes: int
    times: int | None
    lot: random.Random


class HeldCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that waits to be released."""

    operation: str
    after_commit: bool
    targets: tuple[str, ...]
    account: str


@dataclass
class _Holding:
    call: HeldCall
    released: asyncio.Event = field(default_factory=asyncio.Event)
    answered: bool = True


class Faults:
    """The queue of faults. The first that applies to a call befalls it, and is used up by one."""

    def __init__(self) -> None:
        """Nothing goes wrong yet."""
        self._armed: list[_Armed] = []

    def arm(self, faults: Iterable[AnyFault]) -> None:
        """Append to the queue."""
        self._armed.extend(
            _Armed(fault, fault.after, fault.times, random.Random(fault.seed))  # noqa: S311 - lots
            for fault in faults
        )

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self._armed.clear()

    def strike(self, operation: str, key: str, targets: Sequence[str]) -> AnyFault | None:
        """The fault that befalls this call, if any does."""
        for armed in self._armed:
            if not _meant(armed.fault, operation, key, targets):
                continue
            if armed.passes > 0:
                armed.passes -= 1
                continue
            if armed.lot.random() >= armed.fault.probability:
                continue
            if armed.times is not None:
                armed.times -= 1
                if armed.times <= 0:
                    self._armed.remove(armed)
            return armed.fault
        return None


class Holds:
    """Calls that wait for the control endpoint."""

    def __init__(self) -> None:
        """No call is held."""
        self._holding: list[_Holding] = []

    @property
    def held(self) -> list[HeldCall]:
        """What waits, longest first."""
        return [holding.call for holding in self._holding]

    async def wait(self, call: HeldCall) -> bool:
        """Hold a call until it is released. False: it shall get no answer."""
        holding = _Holding(call)
        self._holding.append(holding)
        try:
            await holding.released.wait()
        finally:
            self._holding.remove(holding)
        return holding.answered

    def release(self, operation: str | None = None, *, answered: bool = True) -> int:
        """Let held calls go on, of one operation or all. Returns how many."""
        chosen = [
            holding
            for holding in self._holding
            if operation in (None, holding.call.operation) and not holding.released.is_set()
        ]
        for holding in chosen:
            holding.answered = answered
            holding.released.set()
        return len(chosen)


def _meant(fault: AnyFault, operation: str, key: str, targets: Sequence[str]) -> bool:
    if fault.operation not in ("*", operation) or fault.key not in (None, key):
        return False
    pattern = fault.target
    return pattern is None or any(re.search(pattern, target) for target in targets)
