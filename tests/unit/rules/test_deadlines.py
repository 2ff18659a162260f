from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.rules.deadlines import (
    OnDeadline,
    Standing,
    deadline_at,
    deadline_problems,
    looked,
    past_problem,
    pause,
    read_deadline,
)

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("6h", 6 * HOUR),
        ("1d12h", 36 * HOUR),
        ("90m", 1.5 * HOUR),
        ("1.5h", 1.5 * HOUR),
        ("PT6H", 6 * HOUR),
        ("P1DT30M", 24.5 * HOUR),
        ("P2D", 48 * HOUR),
        ("3600", HOUR),
        (3600, HOUR),
        (0.5, timedelta(seconds=0.5)),
        ("2026-12-01T06:00:00Z", datetime(2026, 12, 1, 6, tzinfo=UTC)),
        ("2026-12-01t06:00z", datetime(2026, 12, 1, 6, tzinfo=UTC)),
        ("2026-12-01 07:00:00.25+01:00", datetime(2026, 12, 1, 6, 0, 0, 250_000, tzinfo=UTC)),
    ],
)
def test_a_deadline_is_an_instant_or_a_duration(
    written: str | float, meant: datetime | timedelta
) -> None:
    assert read_deadline(written) == meant
    assert list(deadline_problems(written, "priority")) == []
    assert deadline_at(written, NOW) == (NOW + meant if isinstance(meant, timedelta) else meant)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("", "is not an instant"),
        ("P", "is not an instant"),
        ("PT", "is not an instant"),
        ("P5M", "is not an instant"),  # months
        ("6", None),
        ("6x", "is not an instant"),
        ("six hours", "is not an instant"),
        ("1h2d", "is not an instant"),
        ("2026-12-01", "is not an instant"),
        ("2026-12-01T06:00:00", "is not an instant"),  # in which zone?
        ("2026-02-30T06:00:00Z", "no instant of the calendar"),
        ("0001-01-01T00:00:00+23:59", "no instant of the calendar"),
        (0, "above 0"),
        (-1, "above 0"),
        ("0h", "above 0"),
        ("366d", "365 days at most"),
        ("999999999d", "365 days at most"),
        (1e300, "365 days at most"),
        (float("inf"), "365 days at most"),
        (float("nan"), "365 days at most"),
    ],
)
def test_anything_else_is_refused_in_words(written: str | float, words: str | None) -> None:
    problems = list(deadline_problems(written, None))

    assert len(problems) == (0 if words is None else 1)
    assert words is None or words in problems[0]


def test_a_deadline_that_is_past_is_refused() -> None:
    assert past_problem(None, NOW) is None
    assert past_problem("1s", NOW) is None
    assert past_problem("2026-11-30T12:00:01Z", NOW) is None
    for late in ("2026-11-30T12:00:00Z", "2026-11-30T13:00:00+02:00"):
        problem = past_problem(late, NOW)
        assert problem is not None
        assert late in problem
        assert "it is 2026-11-30T12:00:00+00:00" in problem


def job(
    on_deadline: OnDeadline = OnDeadline.REPORT, *, asked: int = 2, highest: int = 9
) -> Standing:
    return Standing(
        deadline=NOW + 10 * HOUR,
        on_deadline=on_deadline,
        submitted=NOW,
        asked=asked,
        highest=highest,
    )


def test_a_job_is_at_risk_once_for_each_time_that_its_forecast_passes_the_deadline() -> None:
    found, since = job(), []
    for hours, likely in [(1, 9), (2, 10.5), (3, 9.9), (4, 10.1), (5, 9.9), (6, 9.2), (7, 10.5)]:
        found = looked(found, NOW + hours * HOUR, NOW + likely * HOUR)
        since.append(found.at_risk_since and (found.at_risk_since - NOW) // HOUR)

    # A tenth of the time that is left must be to spare before it is safe again.
    assert since == [None, 2, 2, 2, 2, None, 7]


def test_what_is_not_forecast_stays_as_it_was_until_it_is_missed_once() -> None:
    safe, at_risk = job(), looked(job(), NOW, NOW + 11 * HOUR)

    assert looked(safe, NOW + HOUR, None).at_risk_since is None
    assert looked(at_risk, NOW + HOUR, None).at_risk_since == NOW
    missed = looked(safe, safe.deadline, None)
    assert missed.missed_at == safe.deadline
    assert missed.at_risk_since is None
    assert looked(missed, safe.deadline + HOUR, safe.deadline + 2 * HOUR) == missed


def test_the_priority_rises_with_the_share_of_the_time_left_that_the_job_needs() -> None:
    urgent = job(OnDeadline.PRIORITY)

    def raised(likely: float) -> int | None:
        return looked(urgent, NOW, NOW + likely * HOUR).raised

    assert [raised(hours) for hours in (0, 5, 7.5, 10, 99)] == [None, None, 6, 9, 9]
    assert looked(job(), NOW, NOW + 99 * HOUR).raised is None
    # Without a forecast, by the time that is over.
    found = [looked(urgent, NOW + hours * HOUR, None).raised for hours in (0, 5, 7.5, 10, 20)]
    assert found == [None, None, 6, 9, 9]


HOURS = st.floats(min_value=0, max_value=30, allow_nan=False)
LOOKS = st.lists(st.tuples(HOURS, st.none() | HOURS), max_size=20)


@given(
    looks=LOOKS,
    asked=st.integers(-1000, 1000),
    highest=st.integers(-1000, 1000),
    kind=st.sampled_from(OnDeadline),
)
def test_a_raised_priority_stays_between_what_was_asked_and_what_is_allowed(
    looks: list[tuple[float, float | None]], asked: int, highest: int, kind: OnDeadline
) -> None:
    found = job(kind, asked=asked, highest=highest)
    for hours, needs in sorted(looks, key=lambda look: look[0]):
        now = NOW + hours * HOUR
        before, found = found, looked(found, now, None if needs is None else now + needs * HOUR)
        assert found.raised is None or asked < found.raised <= highest
        assert kind is OnDeadline.PRIORITY or found.raised is None
        assert before.missed_at in {None, found.missed_at}
        assert (found.missed_at is None) == (now < found.deadline)
        assert timedelta(0) < pause(found, now) <= timedelta(minutes=5)
        if found.missed_at is None and needs is not None and now + needs * HOUR > found.deadline:
            assert found.at_risk_since is not None


@given(steps=st.lists(st.floats(min_value=-0.04, max_value=0.04), min_size=1, max_size=30))
def test_a_forecast_that_wavers_a_little_does_not_make_the_priority_waver(
    steps: list[float],
) -> None:
    """Within a twentieth of the time left, it may rise a step, and never falls."""
    found, has = job(OnDeadline.PRIORITY), []
    for wavers in steps:
        found = looked(found, NOW, NOW + (7.5 + wavers * 10) * HOUR)
        has.append(found.raised or 0)

    assert has == sorted(has)
