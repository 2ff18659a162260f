"""Producers and their tokens over HTTP."""

import httpx

from service.store.producers import add_token
from service.tokens import Scope
from tests.api import Api, problem


def token_of(api: Api, name: str) -> str:
    answer = api.http.post("/v1/producers", json={"name": name})
    assert answer.status_code == 201, answer.text
    token: str = answer.json()["token"]
    return token


def as_bearer(api: Api, token: str) -> httpx.Client:
    return httpx.Client(
        base_url=api.url, headers={"Authorization": f"Bearer {token}"}, trust_env=False
    )


def test_a_producer_sees_its_own_jobs_and_no_others(api: Api) -> None:
    with as_bearer(api, token_of(api, "billing")) as billing:
        own = billing.post(
            "/v1/jobs",
            json={
                "endpoint": "/v1/chat/completions",
                "requests": [{"custom_id": "a", "body": {"model": "m", "messages": []}}],
            },
        )
        assert own.status_code == 201, own.text
        assert own.json()["producer"] == "billing"
        other = api.submit("a")
        problem(billing.get(f"/v1/jobs/{other}"), 404)
        assert [job["id"] for job in billing.get("/v1/jobs").json()["data"]] == [own.json()["id"]]
    assert len(api.http.get("/v1/jobs").json()["data"]) == 2


def test_a_name_is_given_once(api: Api) -> None:
    token_of(api, "billing")
    found = problem(api.http.post("/v1/producers", json={"name": "billing"}), 409)
    assert found["type"] == "urn:haulier:problem:name-taken"


def test_a_token_does_what_its_scopes_allow(api: Api) -> None:
    token_of(api, "billing")
    reading = add_token(api.db, "billing", scopes=[Scope.READ])
    with as_bearer(api, reading.text) as client:
        assert client.get("/v1/jobs").status_code == 200
        refused = client.post("/v1/jobs", json={})
        assert problem(refused, 403)["type"] == "urn:haulier:problem:insufficient-scope"
        assert 'scope="submit"' in refused.headers["www-authenticate"]
        problem(client.post("/v1/producers", json={"name": "x"}), 403)
        problem(client.get("/v1/status"), 403)
