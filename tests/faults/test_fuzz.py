"""A short fuzz run."""

import pytest

from tests.faults.fuzz import run


@pytest.mark.parametrize("seconds", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_odd_things_from_all_sides_break_nothing(seconds: int) -> None:
    found = run(seconds, seed=3)

    print(found.table())
    assert not found.broken, found.table()
    assert found.figures["messages"]
