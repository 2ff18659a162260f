"""Forecasts: what they promise whatever the history is, and how many of a lane's come true."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.rules.forecast import (
    LEAST,
    LEAST_STRETCH,
    LONGEST,
    MOST_STRETCH,
    NOT_YET,
    OVERDUE,
    TOO_LITTLE,
    Experience,
    Forecast,
    Kind,
    Past,
    ahead,
    corrected,
    half_time,
    last,
    not_past,
)
from tests.factories import NOW
from tests.forecast_world import DAY, HOUR, Climate, play

SECOND = timedelta(seconds=1)
sizes = st.integers(0, 10**7)
kinds = st.builds(
    Kind,
    requests=sizes,
    ahead=sizes,
    since=st.integers(-(10**6), 10**4).map(lambda seconds: NOW + seconds * SECOND),
)
pasts = st.builds(
    lambda kind, took: Past(**vars(kind), took=took), kinds, st.floats(0, 10**6, allow_nan=False)
)
histories = st.lists(pasts, max_size=60)
stretches = st.floats(LEAST_STRETCH, MOST_STRETCH)


def equal(jobs: int, took: float = 600, requests: int = 100, before: int = 0) -> list[Past]:
    since = NOW - timedelta(days=1)
    return [
        Past(requests=requests, ahead=before, since=since, took=took * (1 + n / jobs))
        for n in range(jobs)
    ]


@given(histories, kinds, stretches)
def test_no_instant_lies_in_the_past_and_half_never_after_most(
    history: list[Past], kind: Kind, stretch: float
) -> None:
    found = Experience(history).forecast(kind, NOW, stretch)
    if isinstance(found, Forecast):
        assert found.p90 >= found.p50 >= NOW
        assert len(history) >= LEAST
        assert 0 < found.basis <= len(history)
        assert half_time(kind.since, found) <= found.p50
        later = not_past(found, found.p50 + SECOND)
        assert found.p50 + SECOND <= later.p50 <= later.p90
    else:
        assert found in {TOO_LITTLE, OVERDUE}


def test_a_history_that_makes_no_sense_breaks_no_calendar() -> None:
    # Time goes by what is ahead alone, so a small job that took a year is far from its guess.
    odd = [replace(past, ahead=0, requests=0, took=10.0**8) for past in equal(LEAST)]
    history = [*odd, *equal(200, took=10.0**6, requests=0, before=1)]
    found = Experience(history).forecast(
        Kind(requests=10**12, ahead=10**9, since=NOW), NOW, MOST_STRETCH
    )
    assert isinstance(found, Forecast)
    assert found.p90 - NOW <= timedelta(seconds=LONGEST)


@given(st.floats(0.1, 1000), st.integers(LEAST, 40))
def test_if_all_takes_so_many_times_as_long_so_does_the_next(factor: float, jobs: int) -> None:
    kind = Kind(requests=100, ahead=0, since=NOW)
    one, other = (Experience(equal(jobs, took)).forecast(kind, NOW) for took in (60, 60 * factor))
    assert isinstance(one, Forecast)
    assert isinstance(other, Forecast)
    for near, far in ((one.p50, other.p50), (one.p90, other.p90)):
        assert (far - NOW) / (near - NOW) == pytest.approx(factor, rel=1e-3)


def test_larger_jobs_and_those_behind_others_take_longer_than_any_before() -> None:
    history = [
        Past(requests=n * 100, ahead=m * 100, since=NOW - timedelta(days=1), took=60 + n * 10 + m)
        for n in range(1, 9)
        for m in range(1, 9)
    ]
    known = Experience(history)
    small, large, behind = (
        known.forecast(Kind(requests=requests, ahead=before, since=NOW), NOW)
        for requests, before in ((100, 0), (100_000, 0), (100, 100_000))
    )
    assert isinstance(small, Forecast)
    assert isinstance(large, Forecast)
    assert isinstance(behind, Forecast)
    assert small.p90 - NOW < timedelta(minutes=2)
    assert large.p50 - NOW > timedelta(hours=2)
    assert timedelta(minutes=10) < behind.p50 - NOW < large.p50 - NOW


def test_a_job_that_goes_on_ends_later_until_nothing_took_so_long() -> None:
    known, kind = Experience(equal(40)), Kind(requests=100, ahead=0, since=NOW)
    before = NOW
    for minutes in (0, 5, 12, 15, 17):
        found = known.forecast(kind, NOW + timedelta(minutes=minutes))
        assert isinstance(found, Forecast)
        assert before <= found.p50
        before = found.p50
    assert known.forecast(kind, NOW + timedelta(minutes=20)) is OVERDUE
    assert Experience(equal(LEAST - 1)).forecast(kind, NOW) is TOO_LITTLE


def test_what_was_said_too_early_stretches_what_is_said_next() -> None:
    stretch = 1.0
    for n in range(1000):
        stretch = corrected(stretch, in_time=n % 10 != 0)
    assert stretch == pytest.approx(1, abs=0.1)  # nine of ten came true: so it stays
    assert corrected(1.0, in_time=True) < 1 < corrected(1.0, in_time=False)
    for in_time, bound in ((True, LEAST_STRETCH), (False, MOST_STRETCH)):
        for _ in range(1000):
            stretch = corrected(stretch, in_time=in_time)
        assert stretch == bound


def test_what_goes_before_a_job() -> None:
    waiting = {(5, "other"): 10, (0, "me"): 30, (0, "large"): 1000, (0, "small"): 7, (-1, "x"): 99}
    # Under way, of higher priority, its producer's own, and of the others as much as of its own.
    mine = ahead(waiting, 100, producer="me", priority=0, own=20)
    assert mine == 100 + 10 + 10 + 30 + 7
    assert ahead({}, 0, producer="me", priority=0, own=20) == 0


def test_of_several_the_last_counts_and_one_without_an_end_has_none() -> None:
    early = Forecast(p50=NOW, p90=NOW + SECOND, basis=30)
    late = replace(early, p90=NOW + 2 * SECOND, basis=20)
    assert last([early, late]) == replace(late, basis=20)
    assert last([early, OVERDUE]) is OVERDUE
    assert last([]) is NOT_YET


OUTAGES = ((2 * DAY, 2 * DAY + 2 * HOUR),)


@pytest.mark.parametrize(
    "climate",
    [
        Climate(days=7, between=900),
        Climate(days=7, between=900, slots=8),
        Climate(days=7, between=900, outages=OUTAGES),
    ],
    ids=["a daily rhythm and a drift", "too few slots by day", "an outage"],
)
def test_nine_of_ten_forecasts_come_true(climate: Climate) -> None:
    told = play(climate, seed=7)

    assert told.ended > 0.95 * told.jobs
    assert told.coverage == pytest.approx(0.9, abs=0.05)
    assert told.half_coverage == pytest.approx(0.9, abs=0.05)
    assert told.by_median / told.ended == pytest.approx(0.5, abs=0.1)
