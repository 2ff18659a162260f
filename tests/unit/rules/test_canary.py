"""When the rest of a job goes, and when it stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.rules.canary import Fate, canary_problems, fate, most_failures


@pytest.mark.parametrize(("canary", "asked", "most"), [(1, None, 0), (20, None, 10), (21, 3, 3)])
def test_half_of_a_canary_may_fail_by_default(canary: int, asked: int | None, most: int) -> None:
    assert most_failures(canary, asked) == most


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.data())
def test_a_canary_is_decided_once_and_at_its_end_at_the_latest(
    outcomes: list[bool], data: st.DataObject
) -> None:
    """In whatever order its requests end, the verdict is that of all of them together."""
    canary = len(outcomes)
    failures = data.draw(st.integers(0, canary - 1))
    expected = Fate.STAYS if outcomes.count(False) > failures else Fate.GOES
    found = {
        fate(canary, failures, succeeded=done.count(True), failed=done.count(False))
        for done in (outcomes[:end] for end in range(canary + 1))
    }
    assert found - {None} == {expected}
    whole = fate(canary, failures, succeeded=outcomes.count(True), failed=outcomes.count(False))
    assert whole is expected


@pytest.mark.parametrize(
    ("canary", "failures", "words"),
    [(None, None, ""), (5, None, ""), (5, 4, ""), (5, 5, "4 at most"), (None, 1, "without")],
)
def test_fields_that_say_nothing_are_refused(
    canary: int | None, failures: int | None, words: str
) -> None:
    problems = list(canary_problems(canary, failures))
    assert len(problems) == bool(words)
    assert words in "".join(problems)
