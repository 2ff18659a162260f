"""A few days, and a month, of the year that `make year` lives through."""

from datetime import timedelta
from pathlib import Path

import pytest

from tests.virtual_time.clock import works_here
from tests.virtual_time.measuring import slope
from tests.virtual_time.year import run

needs_clock = pytest.mark.skipif(not works_here(), reason="needs Linux and a C compiler")


def test_a_slope_is_that_of_the_line_through_the_points() -> None:
    assert slope([(0, 1), (1, 3), (2, 5)]) == pytest.approx(2)
    assert slope([(0, 1)]) == 0


@needs_clock
@pytest.mark.slow
def test_nothing_is_lost_or_doubled_in_three_days(tmp_path: Path) -> None:
    year = run(timedelta(days=3), out=tmp_path, probes=0)
    assert not any(year.violations), year.findings[-1].table()
    assert year.findings[-1].figures["jobs"]


@needs_clock
@pytest.mark.slow
def test_nothing_is_lost_or_doubled_in_a_month(tmp_path: Path) -> None:
    year = run(timedelta(days=28), out=tmp_path)
    assert not any(year.violations), year.findings[-1].table()
    assert year.deploys == 4
