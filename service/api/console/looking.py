"""What pages read, shared by all who look: one query a second at most, however many they are."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import Any

from anyio import CapacityLimiter, Lock, to_thread
from starlette.datastructures import QueryParams

from service.api.console.visitor import Visitor
from service.api.services import Services
from service.store.engine import clock

FRESH_SECONDS = 1.0
MOST_KEPT = 200
"""The most different views of which the last reading is kept."""
THREADS = 3
"""The threads that read for the console, so that the API keeps its connections."""

Shown = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look at a page: who looks, at what, and what they asked for."""

    services: Services
    visitor: Visitor
    path: Mapping[str, str] = field(default_factory=dict)
    query: QueryParams = field(default_factory=QueryParams)

    @property
    def sees(self) -> str | None:
        """The producer whose things exist for the visitor; None for everybody's."""
        return self.visitor.caller.sees


Read = Callable[[Look], Shown]


@dataclass
class _Kept:
    lock: Lock = field(default_factory=Lock)
    read_at: float | None = None
    shown: Shown = field(default_factory=dict)
    error: Exception | None = None


class Looking:
    """The last readings. Two who ask for the same at once wait for one reading."""

    def __init__(self) -> None:
        self._kept: OrderedDict[object, _Kept] = OrderedDict()
        self._limiter = CapacityLimiter(THREADS)
        self.readings = 0

    async def at(self, name: str, read: Read, look: Look) -> Shown:
        """Return what a page shows now, or showed up to a second ago. Raises what reading raises.

        What is read must depend on nothing of the visitor but whose things they see.
        """
        key = (name, look.sees, tuple(sorted(look.path.items())), str(look.query))
        kept = self._kept.setdefault(key, _Kept())
        self._kept.move_to_end(key)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        async with kept.lock:
            if kept.read_at is None or monotonic() - kept.read_at >= FRESH_SECONDS:
                started = monotonic()
                kept.shown, kept.error = await to_thread.run_sync(
                    _read, read, look, limiter=self._limiter
                )
                kept.read_at = started
                self.readings += 1
        if kept.error is not None:
            raise kept.error
        return kept.shown

    def forget(self) -> None:
        """Read anew, since somebody has just changed something here."""
        self._kept.clear()


def _read(read: Read, look: Look) -> tuple[Shown, Exception | None]:
    try:
        return {"now": now(look), **read(look)}, None
    except Exception as error:  # noqa: BLE001  raised again for everybody who waits
        return {}, error


def now(look: Look) -> datetime:
    """Return the time of the database's clock, by which its instants are shown."""
    return clock(look.services.db)
