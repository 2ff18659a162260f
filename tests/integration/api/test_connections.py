"""Who has to make room: which connections end, and what it costs to find out."""

from dataclasses import dataclass, field

from service.api.connections import Heads, Room

SHARE = 250


@dataclass(eq=False)
class Client:
    """A connection as the room sees it, which counts how often it is looked at."""

    since: float
    spare: bool = True
    is_proven: bool = False
    address: str = "10.0.0.1"
    site: str = "10.0.0.1"
    looks: int = 0
    is_dropped: bool = field(default=False)

    @property
    def is_spare(self) -> bool:
        self.looks += 1
        return self.spare

    def drop(self) -> None:
        self.is_dropped = True


def test_the_oldest_that_wait_end_first_whatever_happened_since_they_were_looked_at() -> None:
    room = Room(most=2 * SHARE, share=SHARE)
    there = [Client(float(number)) for number in range(SHARE)]
    there[0].is_proven = True
    there[1].spare = False

    def next_ended() -> Client:
        assert room.make(Client(1000.0), there)
        (ended,) = [one for one in there if one.is_dropped]
        there.remove(ended)
        there.append(Client(1000.0))
        return ended

    assert next_ended().since == 2.0
    there[1].since = 500.0  # it waits again, after a request
    assert next_ended().since == 3.0
    del there[2]  # 4.0 has gone by itself
    there.append(Client(1000.0))
    assert next_ended().since == 5.0
    for one in there:
        one.spare = one.is_proven
    assert next_ended().is_proven
    assert not room.make(Client(1000.0), [*there[:-1], Client(1000.0, spare=False)])


def test_opening_connections_again_and_again_looks_at_few_of_the_others() -> None:
    room = Room(most=2 * SHARE, share=SHARE)
    there = [Client(float(number)) for number in range(SHARE)]
    everyone = list(there)
    for number in range(100):
        new = Client(1000.0 + number)
        everyone.append(new)
        assert room.make(new, there)
        there = [*(one for one in there if not one.is_dropped), new]
        assert len(there) == SHARE

    assert sum(one.looks for one in everyone) < 10 * SHARE


def test_heads_that_do_not_end_are_few_and_small_and_the_oldest_ends_first() -> None:
    heads = Heads(most=3, most_bytes=100)
    there = [Client(float(number)) for number in range(6)]

    def ended() -> list[float]:
        return [one.since for one in there if one.is_dropped]

    for one in there[:3]:
        heads.grow(one, 10)
    heads.leave(there[0])
    heads.grow(there[3], 0)
    assert not ended()
    heads.grow(there[4], 0)
    assert ended() == [1.0]
    heads.grow(there[2], 80)
    assert not there[2].is_dropped
    heads.grow(there[3], 11)
    assert ended() == [1.0, 2.0]
    heads.grow(there[5], 90)
    assert ended() == [1.0, 2.0, 3.0]
