"""How many connections may be open: over all, from one address, for calls that wait, and unread."""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Protocol

from config.values import Network


class Connection(Protocol):
    """`is_spare` says whether it waits for a request or for its end, and `since` for how long.

    `is_proven` says whether it has answered a request, and may well get another. `site` is that of
    its address.
    """

    since: float

    @property
    def address(self) -> str: ...
    @property
    def site(self) -> str: ...
    @property
    def is_spare(self) -> bool: ...
    @property
    def is_proven(self) -> bool: ...
    def drop(self) -> None: ...


@dataclass(frozen=True)
class Room:
    """`share` is for one address. Trusted proxies have none: all clients may come from one."""

    most: int
    share: int
    trusted: Collection[Network] = ()
    _noted: "dict[str, Noted]" = field(default_factory=dict, repr=False, compare=False)

    def is_free(self, new: Connection, others: Collection[Connection]) -> bool:
        """Whether there is room for one more, and nothing has to end for it."""
        if len(others) >= self.most:
            return False
        if len(others) < self.share or lies_in(new.address, self.trusted):
            return True
        return sum(one.site == new.site for one in others) < self.share

    def make(self, new: Connection, others: Collection[Connection]) -> bool:
        """Whether there is room for one more, after the end of one that waits if need be.

        Who sends a request gets in while others only hold connections open.
        """
        if not lies_in(new.address, self.trusted):
            here = new.site
            same = {one for one in others if one.site == here}
            if len(same) >= self.share and not _make_room(same, self.share, self._of(here)):
                return False
        return _make_room(others, self.most, self._of(""))

    def _of(self, place: str) -> "Noted":
        if len(self._noted) > PLACES:
            self._noted.clear()
        return self._noted.setdefault(place, deque())


@dataclass
class Heads:
    """The connections whose next request is not there yet, with the bytes that they sent of it.

    Few of them and few bytes are enough: who sends a head does so in a moment. Where there are too
    many, those that began first end.
    """

    most: int = 2_000
    most_bytes: int = 10_000_000
    _bytes: dict[Connection, int] = field(default_factory=dict, repr=False)
    _total: int = 0

    def grow(self, one: Connection, count: int) -> None:
        """Note that a connection waits, and sent so many bytes more."""
        self._bytes[one] = self._bytes.get(one, 0) + count
        self._total += count
        while len(self._bytes) > self.most or self._total > self.most_bytes:
            first = next(iter(self._bytes))
            self.leave(first)
            first.drop()

    def leave(self, one: Connection) -> None:
        """Note that the head is whole, or the connection over."""
        self._total -= self._bytes.pop(one, 0)


@dataclass
class Rooms:
    """The connections that are open. Those of calls, which wait for hours, have a room apart.

    Until a call is read, nobody knows that it is one. So what finds no free place among the
    ordinary connections may still be a call, and gets in `for_calls`: thousands may at once, from
    one address. Only its request tells whether an ordinary one must end for it.
    """

    room: Room
    most_calls: int
    ordinary: set[Connection] = field(default_factory=set)
    for_calls: set[Connection] = field(default_factory=set)
    heads: Heads = field(default_factory=Heads)
    _noted: "Noted" = field(default_factory=deque, repr=False)

    def enter(self, new: Connection) -> bool:
        """Let a connection in. Returns False if there is no room at all."""
        if self.room.is_free(new, self.ordinary):
            self.ordinary.add(new)
            return True
        if _make_room(self.for_calls, self.most_calls, self._noted):
            self.for_calls.add(new)
            return True
        return False

    def enter_ordinary(self, new: Connection) -> bool:
        """Let a connection in, or over, that is not for calls."""
        if not self.room.make(new, self.ordinary):
            return False
        self.for_calls.discard(new)
        self.ordinary.add(new)
        return True

    def wait(self, one: Connection) -> None:
        """Count a connection among those of calls from now on."""
        self.ordinary.discard(one)
        self.for_calls.add(one)

    def leave(self, one: Connection) -> None:
        self.ordinary.discard(one)
        self.for_calls.discard(one)
        self.heads.leave(one)


Noted = deque[tuple[Connection, float]]
"""Those that are the next to end, with their `since`, oldest first. Who opens connections again and
again would have all of them looked at each time."""
NOTED = 50
PLACES = 1000


def _make_room(others: Collection[Connection], most: int, noted: Noted | None = None) -> bool:
    if len(others) < most:
        return True
    while noted:
        one, since = noted.popleft()
        # Those that were not spare yet when it was noted are younger.
        if one.since == since and one.is_spare and not one.is_proven and one in others:
            one.drop()
            return True
    spare = [one for one in others if one.is_spare]
    spare.sort(key=lambda one: (one.is_proven, one.since))
    if noted is not None:
        # The others wait behind unproven ones that may still come.
        noted.extend((one, one.since) for one in spare[1:NOTED] if not one.is_proven)
    for one in spare[:1]:
        one.drop()
    return bool(spare)


def plain(address: str) -> str:
    """An address of IPv4 as such, which a socket for both families writes in the way of IPv6."""
    return address.removeprefix("::ffff:") if "." in address else address


@lru_cache(maxsize=4096)
def site(address: str) -> str:
    """What counts as one client: an address, or in IPv6 the network of 64 bits around it."""
    found = _read(address)
    if isinstance(found, IPv6Address):
        return str(IPv6Network((found, 64), strict=False))
    return str(found or address)


def lies_in(address: str, networks: Collection[Network]) -> bool:
    """Whether an address lies in one of some networks."""
    found = _read(address)
    return found is not None and any(found in network for network in networks)


@lru_cache(maxsize=4096)
def _read(address: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(address)
    except ValueError:
        return None
