"""Forecasts as they are shown: of jobs and lanes, in streams, notices and metrics."""

import pytest

from service.api.v1 import progress
from service.notices.content import content
from service.store.foresee import look
from service.store.lane_verbs import id_of
from service.store.models import Lane
from service.store.notices import claim
from tests.api import Api
from tests.factories import LEASE, MODEL
from tests.integration.api.test_metrics import scraped
from tests.integration.api.test_progress import streaming
from tests.integration.store.test_forecasts import LANE, age, finish, history


def test_a_forecast_is_shown_wherever_its_job_is(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.05)
    harness = api.harness
    webhook = {"webhook": "https://hooks.example/x", "progress": 10}
    job = harness.submitted(3, 3, notify=[webhook])
    account, endpoint, model = LANE
    lane = Lane(account=account, endpoint=endpoint, model=model)
    with harness.db.begin() as session:
        session.merge(lane)
    history(harness, 40)

    with streaming(api.http, job) as told:
        assert next(told)[1]["forecast"]["code"] == "not_yet"
        look(harness.db)
        _, streamed = next(told)
    shown = api.http.get(f"/v1/jobs/{job}").json()["forecast"]
    (listed,) = api.http.get("/v1/jobs").json()["data"]
    (lanes,) = api.http.get("/v1/lanes").json()["data"]
    assert shown["basis"] == 40
    assert shown["p50"] < shown["p90"]
    assert shown["code"] is shown["reason"] is None
    assert shown == listed["forecast"] == lanes["forecast"] == streamed["forecast"]

    harness.run("UPDATE haulier.lanes SET paused_at = now()")
    for path in (f"/v1/jobs/{job}", "/v1/jobs"):
        found = api.http.get(path).json()
        one = found["data"][0] if "data" in found else found
        assert one["forecast"]["code"] == "lane_paused", path
    (lanes,) = api.http.get("/v1/lanes").json()["data"]
    assert lanes["forecast"]["code"] == "lane_paused"
    harness.run("UPDATE haulier.lanes SET paused_at = NULL")

    finish(harness, job, most=1)
    (sending,) = claim(harness.db, limit=1, share=1, lease_for=LEASE)
    assert content(sending, None)["job"]["forecast"] == shown

    age(harness, 60)
    finish(harness, job)
    look(harness.db)
    assert api.http.get(f"/v1/jobs/{job}").json()["forecast"] is None
    (lanes,) = api.http.get("/v1/lanes").json()["data"]
    assert lanes["forecast"] is None
    found = scraped(api)
    key = (id_of(lane), "submission")
    assert found["haulier_forecasts_ended_total", *key] == 1
    assert found["haulier_forecasts_in_time_total", *key] == 0
    assert MODEL not in str(found)
