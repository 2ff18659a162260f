"""Which waiting parts share a batch, and when a batch may go."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from service.rules.packing import (
    LARGE,
    MOST_PARTS,
    RENAMED,
    Limits,
    Pack,
    Small,
    WaitingPart,
    packed,
)

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LIMITS = Limits(requests=100, bytes=100_000, wait=5 * SECOND)


def part(
    requests: int = 10,
    *,
    size: int = 100,
    ago: float = 0,
    patient: float | None = None,
    company: UUID | None = None,
    own_names: UUID | None = None,
) -> WaitingPart:
    return WaitingPart(
        id=uuid4(),
        requests=requests,
        bytes=size,
        since=NOW - ago * SECOND,
        patient_until=None if patient is None else NOW + patient * SECOND,
        company=company,
        own_names=own_names,
    )


def pack(
    *parts: WaitingPart, idle: bool = False, small: Small | None = None, limits: Limits = LIMITS
) -> list[Pack]:
    return packed(parts, limits, NOW, idle=idle, small=small or Small())


def sizes(packs: list[Pack]) -> list[list[int]]:
    return [[part.requests for part in found.parts] for found in packs]


def test_an_idle_group_sends_at_once_and_a_busy_one_waits_for_more() -> None:
    assert sizes(pack(part(), part(), idle=True)) == [[10, 10]]
    assert pack(part(), part()) == []
    assert sizes(pack(part(ago=5), part())) == [[10, 10]]
    assert sizes(pack(part(ago=4.9), part())) == []


def test_a_full_batch_waits_for_nothing() -> None:
    assert sizes(pack(part(60), part(40), part(1))) == [[60, 40]]
    assert sizes(pack(part(60), part(41))) == [[60]]
    # More than was read would fill the second one as well.
    assert sizes(pack(part(60), part(41), small=Small(9, 161, 0))) == [[60], [41]]
    assert sizes(pack(part(60), part(41), small=Small(9, 159, 0))) == [[60]]
    assert sizes(pack(part(1), small=Small(MOST_PARTS, 1, 0))) == [[1]]
    assert sizes(pack(part(1), small=Small(1, 1, LIMITS.bytes))) == [[1]]


def test_the_bytes_of_a_batch_leave_room_for_other_custom_ids() -> None:
    half = LIMITS.bytes // 2
    assert sizes(pack(part(1, size=half), part(1, size=half), idle=True)) == [[1], [1]]
    fits = half - RENAMED
    assert sizes(pack(part(1, size=fits), part(1, size=fits), idle=True)) == [[1, 1]]
    # What is too large by itself goes by itself.
    assert sizes(pack(part(1, size=2 * LIMITS.bytes), part(1), idle=True)) == [[1], [1]]


def test_a_large_part_goes_alone_and_at_once() -> None:
    wide = Limits(requests=10_000, bytes=10**9, wait=5 * SECOND)
    large = part(LARGE + 1)
    assert sizes(pack(part(LARGE), large, part(1), limits=wide)) == [[LARGE + 1]]
    found = pack(part(LARGE, ago=6), large, part(1), limits=wide)
    assert sizes(found) == [[LARGE, 1], [LARGE + 1]]


def test_a_company_travels_together_and_unmixed_under_its_own_name() -> None:
    first, second = uuid4(), uuid4()
    parts = [part(company=first), part(), part(company=second), part(company=first)]
    found = pack(*parts, idle=True)
    assert [pack.company for pack in found] == [first, None, second]
    assert [pack.id for pack in found if pack.company] == [first, second]
    assert sizes(found) == [[10, 10], [10], [10]]
    assert [pack.company for pack in pack_busy(*parts)] == [first, second]


def pack_busy(*parts: WaitingPart) -> list[Pack]:
    return pack(*parts, idle=False)


def test_what_goes_again_waits_for_its_own_patience() -> None:
    assert pack(part(patient=1), idle=True) == []
    assert sizes(pack(part(patient=0))) == [[10]]
    # Others that may go take it along.
    assert sizes(pack(part(patient=1), part(ago=6))) == [[10, 10]]
    assert sizes(pack(part(60, patient=1), part(50, patient=1))) == [[60]]


def test_what_together_knows_by_its_own_names_travels_with_its_own_job_alone() -> None:
    one, two = uuid4(), uuid4()
    parts = [part(1, own_names=one), part(2), part(3, own_names=two), part(4, own_names=one)]
    assert sizes(pack(*parts, idle=True)) == [[1, 4], [2], [3]]


waiting = st.builds(
    part,
    st.integers(1, 120),
    size=st.integers(1, 60_000),
    ago=st.floats(0, 10),
    patient=st.none() | st.floats(-5, 5),
    own_names=st.none() | st.sampled_from([UUID(int=1), UUID(int=2)]),
)


@given(parts=st.lists(waiting, max_size=40), idle=st.booleans())
def test_no_batch_is_too_large_and_no_part_is_in_two(parts: list[WaitingPart], idle: bool) -> None:
    parts = sorted(parts, key=lambda one: one.since)
    found = pack(*parts, idle=idle)
    ids = [one.id for each in found for one in each.parts]
    assert len(ids) == len(set(ids))
    for each in found:
        assert each.requests == sum(one.requests for one in each.parts)
        if len(each.parts) > 1:
            assert each.requests <= LIMITS.requests
            assert each.bytes <= LIMITS.bytes
        assert len({one.own_names for one in each.parts}) == 1
        places = [parts.index(one) for one in each.parts]
        assert places == sorted(places)
    # Nothing that need not wait is left behind.
    left = [one for one in parts if one.id not in ids]
    assert not any(one.is_ripe(NOW, idle=idle, wait=LIMITS.wait) for one in left)
