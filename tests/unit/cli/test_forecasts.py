"""Forecasts in words, and as haulier-client reads them."""

from datetime import timedelta

import haulier_client
import pytest
from haulier_client.views import read_job

from service.api.v1.examples import JOB
from service.cli.documents import Forecast
from service.cli.screen import local
from service.cli.show.forecasts import ending
from tests.factories import NOW

LATE = NOW + timedelta(hours=1)


@pytest.mark.parametrize(
    ("forecast", "words"),
    [
        (None, None),
        (Forecast(p50=NOW, p90=LATE), f"by {local(NOW)} (50 %), by {local(LATE)} (90 %)"),
        (Forecast(reason="it waits for an operator"), "nobody can tell: it waits for an operator"),
    ],
)
def test_an_end_is_told_or_why_it_is_not(forecast: Forecast | None, words: str | None) -> None:
    assert ending(forecast) == words


@pytest.mark.parametrize(
    ("shown", "read"),
    [
        (None, None),
        (
            {"p50": NOW.isoformat(), "p90": LATE.isoformat(), "basis": 20, "reason": None},
            haulier_client.Forecast(p50=NOW, p90=LATE),
        ),
        (
            {"p50": None, "p90": None, "code": "history", "reason": "too few"},
            haulier_client.Forecast(reason="too few"),
        ),
    ],
)
def test_the_client_reads_what_the_api_shows(
    shown: dict[str, object] | None, read: haulier_client.Forecast | None
) -> None:
    assert read_job({**JOB, "forecast": shown}).forecast == read
    assert read_job({k: v for k, v in JOB.items() if k != "forecast"}).forecast is None
