"""When the files of an ended batch are believed, and when they are looked at again."""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.rules.outcomes import Wait
from service.rules.work import BatchClaim
from service.stages.settling import LOOKS, Look, illegible, look_again
from tests.factories import NOW, batch_claim

PATIENCE = timedelta(hours=1)
POLL = timedelta(seconds=30)


def seen(missing: int = 0, **fields: object) -> Look:
    look = Look(
        status="COMPLETED",
        missing=tuple(range(missing)),
        requests=1000,
        files=1,
        whole=True,
        readable=1000 - missing,
        unreadable=0,
    )
    return replace(look, **fields)  # type: ignore[arg-type]


def looks(*shown: Look) -> list[timedelta]:
    """When each look was taken, from the first; the last of `shown` goes on for ever."""
    claim = batch_claim(now=NOW)
    times: list[timedelta] = []
    while True:
        look = shown[min(len(times), len(shown) - 1)]
        times.append(claim.now - NOW)
        outcome = look_again(claim, look, PATIENCE, POLL)
        if outcome is None:
            return times
        assert len(times) < 100
        claim = _later(claim, outcome)


def _later(claim: BatchClaim, wait: Wait) -> BatchClaim:
    return replace(
        claim,
        now=claim.now + wait.delay,
        unsettled_since=wait.changes.unsettled_since,
        look=wait.changes.look,
        look_since=wait.changes.look_since,
    )


def test_what_accounts_for_every_request_is_believed_at_once() -> None:
    assert looks(seen()) == [timedelta(0)]
    assert looks(seen(unreadable=3, whole=False)) == [timedelta(0)]


def test_a_failed_batch_is_divided_at_once() -> None:
    assert looks(seen(1000, status="FAILED", files=0)) == [timedelta(0)]


def test_a_little_that_is_missing_twice_is_missing() -> None:
    times = looks(seen(9))
    assert times[-1] == PATIENCE / 20


@pytest.mark.parametrize(
    "look",
    [
        seen(10),
        seen(1000, files=0),
        seen(9, whole=False),
        seen(1000, files=1, readable=0),
    ],
)
def test_much_that_is_missing_is_looked_for_longer_and_longer(look: Look) -> None:
    times = looks(look)
    assert times[-1] >= PATIENCE
    pauses = [after - before for before, after in pairwise(times)]
    assert pauses[:-1] == sorted(pauses[:-1])
    assert len(times) < 12


def test_two_looks_far_apart_do_not_settle_what_is_not_clear() -> None:
    """As where a worker or Together was away for all of the patience."""
    claim, look = batch_claim(now=NOW), seen(500)
    for _ in range(LOOKS - 1):
        outcome = look_again(claim, look, PATIENCE, POLL)
        assert outcome is not None
        claim = replace(_later(claim, outcome), now=claim.now + PATIENCE)
    assert look_again(claim, look, PATIENCE, POLL) is None


def test_what_comes_at_last_is_believed_when_it_comes() -> None:
    late = [seen(1000, files=0)] * 3
    assert len(looks(*late, seen())) == 4


def test_only_what_two_equal_looks_say_is_missing_is_missing() -> None:
    changing = [seen(n) for n in (500, 400, 300, 200, 100, 90, 80, 70, 60, 50)]
    assert len(looks(*changing)) > len(changing)


@pytest.mark.parametrize("status", ["EXPIRED", "CANCELLED"])
def test_a_batch_given_back_unfinished_is_looked_at_for_a_few_polls(status: str) -> None:
    times = looks(seen(600, status=status))
    assert times[-1] == POLL * 4
    assert len(times) > 2


@pytest.mark.parametrize("status", ["COMPLETED", "EXPIRED", "CANCELLED"])
def test_a_file_that_is_short_is_looked_at_for_all_of_the_patience(status: str) -> None:
    assert looks(seen(600, status=status, whole=False))[-1] >= PATIENCE


def test_most_that_cannot_be_read_parks_the_batch_after_two_equal_looks() -> None:
    look = seen(600, readable=400, unreadable=600)
    assert looks(look)[-1] == PATIENCE / 20
    assert illegible(look) is not None
    assert illegible(seen(400, readable=600, unreadable=400)) is None
    assert illegible(seen(0, readable=1, unreadable=600)) is None


def test_the_line_of_a_request_alone_is_no_reason_to_wait_for_an_operator() -> None:
    look = seen(1, requests=1, readable=0, unreadable=1)
    assert looks(look)[-1] >= PATIENCE
    assert illegible(look) is None
    assert illegible(seen(2, requests=2, readable=0, unreadable=1)) is not None


@given(
    st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 2), st.booleans()), min_size=1),
    st.sampled_from(["COMPLETED", "EXPIRED", "CANCELLED"]),
)
def test_looking_ends_and_never_with_the_first_look(
    shown: list[tuple[int, int, bool]], status: str
) -> None:
    assert len(looks(*(seen(n, files=files, whole=w, status=status) for n, files, w in shown))) >= 2
