"""Usage and estimated cost over HTTP."""

from collections.abc import Iterator
from typing import Any

import pytest

from config.settings import Settings
from service.rules.outcomes import Usage
from tests.api import Api, messages, problem, serving
from tests.factories import MODEL, settlement
from tests.integration.api.test_producers import as_bearer, token_of

PRICES = {MODEL: [{"from": "2026-01-01", "input": "0.88", "output": "0.88"}]}
MILLION = Usage(1_000_000, 500_000, 1_500_000)


@pytest.fixture
def priced(api_settings: Settings) -> Iterator[Api]:
    fields = {"DATABASE_URL": api_settings.database_url, "blob_url": api_settings.blob_url}
    settings = Settings.model_validate(
        {**fields, "admin_token": api_settings.admin_token, "prices": PRICES}
    )
    with serving(settings) as running:
        yield running


def settle(api: Api, *, producer: str = "default", usage: Usage = MILLION) -> str:
    """A job of three requests whose batch is done; gives its id."""
    batch = api.harness.queued(3, producer=producer)
    api.harness.settle(batch, settlement(2, dead=[2], usage=usage))
    return str(api.harness.part(batch).job_id)


def used(api: Api, **query: Any) -> list[dict[str, Any]]:
    answer = api.http.get("/v1/usage", params=query)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["data"]
    return rows


def test_what_was_used_is_added_up_with_its_cost(priced: Api) -> None:
    settle(priced)
    settle(priced)
    answer = priced.http.get("/v1/usage").json()

    (row,) = answer["data"]
    assert row["model"] == MODEL
    assert row["day"] == answer["to"]
    assert row["producer"] is None
    assert (row["batches"], row["succeeded"], row["dead"]) == (2, 4, 2)
    assert row["total_tokens"] == 3_000_000
    assert row["estimated_cost"] == answer["total"]["estimated_cost"] == "1.32"
    assert row["unknown_models"] == []


def test_usage_is_told_apart_by_what_is_asked_for(priced: Api) -> None:
    token_of(priced, "billing")
    settle(priced)
    settle(priced, producer="billing")

    assert [row["producer"] for row in used(priced, by="producer")] == ["billing", "default"]
    (row,) = used(priced, by="account,producer", producer="billing")
    assert (row["account"], row["producer"], row["day"]) == ("default", "billing", None)
    assert used(priced, by="day", to="2001-01-01") == []


def test_a_producer_sees_its_own_usage_only(priced: Api) -> None:
    token = token_of(priced, "billing")
    other = settle(priced)
    own = settle(priced, producer="billing")
    with as_bearer(priced, token) as billing:
        rows = billing.get("/v1/usage", params={"by": "producer"}).json()["data"]
        assert [row["producer"] for row in rows] == ["billing"]
        found = billing.get("/v1/usage", params={"producer": "default"}).json()
        assert found["data"] == []
        assert found["total"]["batches"] == 0
        assert billing.get(f"/v1/jobs/{own}/usage").status_code == 200
        problem(billing.get(f"/v1/jobs/{other}/usage"), 404)


def test_usage_stays_when_its_job_is_gone(priced: Api) -> None:
    job = settle(priced)
    priced.harness.run("DELETE FROM haulier.jobs WHERE id = CAST(:job AS uuid)", job=job)

    (row,) = used(priced)
    assert row["estimated_cost"] == "0.66"


def test_a_model_without_a_price_is_shown_as_unknown(api: Api) -> None:
    job = settle(api)

    (row,) = used(api)
    assert row["estimated_cost"] is None
    assert row["unknown_models"] == [MODEL]
    total = api.http.get(f"/v1/jobs/{job}/usage").json()["total"]
    assert total["estimated_cost"] is None
    assert total["unknown_models"] == [MODEL]


def test_a_job_shows_what_its_settled_batches_have_used(priced: Api) -> None:
    first, _second = priced.harness.split(3, 3)
    priced.harness.settle(first, settlement(3, usage=MILLION))
    job = priced.harness.part(first).job_id
    shown = priced.http.get(f"/v1/jobs/{job}/usage").json()

    assert shown["job_id"] == str(job)
    (row,) = shown["data"]
    assert (row["model"], row["batches"], row["succeeded"]) == (MODEL, 1, 3)
    assert row["estimated_cost"] == shown["total"]["estimated_cost"] == "0.66"


@pytest.mark.parametrize(
    "query",
    [
        {"from": "yesterday"},
        {"from": "2026-02-30"},
        {"to": "20260101"},
        {"to": "1700000000"},
        {"from": "2026-02-02", "to": "2026-02-01"},
        {"from": "2020-01-01", "to": "2026-02-01"},
        {"from": "0001-01-01"},
        {"by": "colour"},
        {"by": "day,day"},
        {"by": ""},
        {"since": "2026-01-01"},
    ],
)
def test_a_span_that_makes_no_sense_is_refused(refusing_api: Api, query: dict[str, str]) -> None:
    assert messages(refusing_api.http.get("/v1/usage", params=query))


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
def test_the_ends_of_the_calendar_are_days_as_others(refusing_api: Api, day: str) -> None:
    answer = refusing_api.http.get("/v1/usage", params={"from": day, "to": day})
    assert answer.json()["data"] == []
    assert refusing_api.http.get("/v1/usage", params={"to": day}).status_code in {200, 422}
