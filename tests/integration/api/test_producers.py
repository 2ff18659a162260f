"""Producers and their tokens over HTTP."""

import base64
import json
from typing import Any

import httpx
import pytest

from service.api.app import application
from service.rules.credentials import Scope
from service.store.producers import add_credential, producer
from tests.api import TOKEN, Api, chat, messages, post_lines, problem
from tests.factories import CHAT, chat_line


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
    reading = add_credential(api.db, "billing", scopes=[Scope.READ])
    with as_bearer(api, reading.text) as client:
        assert client.get("/v1/jobs").status_code == 200
        refused = client.post("/v1/jobs", json={})
        assert problem(refused, 403)["type"] == "urn:haulier:problem:insufficient-scope"
        assert 'scope="submit"' in refused.headers["www-authenticate"]
        problem(client.post("/v1/producers", json={"name": "x"}), 403)
        problem(client.get("/v1/status"), 403)


def accepts(api: Api, token: str) -> bool:
    with as_bearer(api, token) as client:
        return client.get("/v1/jobs").status_code == 200


def test_what_a_producer_may_use_is_set_and_shown(api: Api) -> None:
    created = {"name": "billing", "requests_per_day": 5, "notice_tasks": ["billing.done"]}
    assert api.http.post("/v1/producers", json=created).status_code == 201
    changed = {"accounts": None, "notice_queues": ["billing"], "requests_per_day": None}

    answer = api.http.patch("/v1/producers/billing", json=changed)

    shown = answer.json()
    assert (shown["accounts"], shown["requests_per_day"]) == (None, None)
    assert (shown["notice_tasks"], shown["notice_queues"]) == (["billing.done"], ["billing"])
    assert (shown["input_roots"], shown["signing_secrets"]) == ([], 0)
    assert api.http.get("/v1/producers/billing").json() == shown
    assert api.http.patch("/v1/producers/billing", json={}).json() == shown


def test_a_producers_priorities_are_bounded(api: Api) -> None:
    token = token_of(api, "billing")

    def submit(priority: int) -> httpx.Response:
        with as_bearer(api, token) as client:
            return client.post("/v1/jobs", json=chat("a", priority=priority))

    assert submit(9).status_code == 201
    assert "`priority` 10 is not yours; use 0 to 9" in submit(10).text
    assert "`priority` -1 is not yours; use 0 to 9" in submit(-1).text
    low = {"lowest_priority": -5, "highest_priority": -2}
    assert api.http.patch("/v1/producers/billing", json=low).status_code == 200
    above = api.http.patch("/v1/producers/billing", json={"lowest_priority": -1})
    assert "lies above" in above.text
    assert "use -5 to -2" in submit(0).text
    assert submit(-3).status_code == 201
    # The operator's own token may use every one.
    assert api.http.post("/v1/jobs", json=chat("a", priority=1000)).status_code == 201


def test_private_webhooks_are_each_producers_own(api: Api) -> None:
    inside = {"notify": [{"webhook": "http://10.1.2.3/hook"}]}
    billing, other = token_of(api, "billing"), token_of(api, "other")

    def submit(token: str) -> httpx.Response:
        with as_bearer(api, token) as client:
            return client.post("/v1/jobs", json=chat("a", **inside))

    for token in (billing, other, TOKEN):
        assert "must begin with https://" in messages(submit(token))[0][1]
    allowed = {"private_webhooks": ["10.1.0.0/16", "hooks.internal"]}
    answer = api.http.patch("/v1/producers/billing", json=allowed)
    assert answer.json()["private_webhooks"] == allowed["private_webhooks"]
    assert submit(billing).status_code == 201
    assert submit(other).status_code == submit(TOKEN).status_code == 422
    # Jobs of the admin token are those of `default`.
    api.http.patch("/v1/producers/default", json=allowed)
    assert submit(TOKEN).status_code == 201
    lines = {"endpoint": CHAT, "notify": json.dumps(inside["notify"])}
    assert post_lines(api, chat_line("a"), **lines).status_code == 201
    api.http.patch("/v1/producers/default", json={"private_webhooks": ["10.2.0.0/16"]})
    assert "10.1.2.3 is a private address" in messages(submit(TOKEN))[0][1]
    assert "10.1.2.3 is a private" in messages(post_lines(api, chat_line("a"), **lines))[0][1]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"accounts": ["default", "research"]}, "accounts: 'research' is not configured"),
        ({"input_roots": ["file:///etc"]}, "HAULIER_INPUT_ROOTS"),
        ({"input_roots": ["https://example.com"]}, "HAULIER_INPUT_ROOTS"),
        ({"open_requests": 0}, "greater than or equal to 1"),
        ({"body_bytes": 2**63}, "less than or equal to"),
        ({"notice_tasks": ["a\x00b"]}, "match pattern"),
        ({"notice_queues": ["a\u202eb"]}, "holds U+202E"),
        ({"lowest_priority": 10}, "lowest_priority lies above highest_priority"),
        ({"highest_priority": 1001}, "less than or equal to 1000"),
        ({"private_webhooks": ["10.0.0.1/8"]}, "'10.0.0.1/8' is no host name, address or network"),
        ({"private_webhooks": ["http://inside"]}, "is no host name, address or network"),
        ({"colour": "red"}, "there is no such parameter"),
    ],
)
def test_what_a_producer_cannot_be_given_is_refused(
    refusing_api: Api, fields: dict[str, Any], words: str
) -> None:
    found = messages(refusing_api.http.patch("/v1/producers/default", json=fields))
    assert words in found[0][1]
    added = refusing_api.http.post("/v1/producers", json={"name": "x", **fields})
    assert words in messages(added)[0][1]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "nobody"),
        ("PATCH", "nobody"),
        ("GET", "a%00b"),
        ("GET", "a%ffb"),
        ("POST", "nobody/signing-secret"),
        ("GET", "nobody/tokens"),
        ("POST", "nobody/tokens"),
        ("DELETE", "default/tokens/0000000000000000"),
        ("POST", "default/tokens/a%00b/rotate"),
    ],
)
def test_a_producer_or_token_that_is_not_there_is_a_404(
    refusing_api: Api, method: str, path: str
) -> None:
    body: dict[str, Any] | None = None if method in {"GET", "DELETE"} else {}
    problem(refusing_api.http.request(method, f"/v1/producers/{path}", json=body), 404)


def test_producers_and_tokens_are_listed_page_by_page(api: Api) -> None:
    for name in ("b", "a", "c"):
        token_of(api, name)
    names: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    while True:
        page = api.http.get("/v1/producers", params=query).json()
        names += [one["name"] for one in page["data"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert names == ["a", "b", "c", "default"]
    for label in ("first", "second"):
        made = api.http.post("/v1/producers/a/tokens", json={"label": label}).json()
        assert accepts(api, made["token"])
    one = api.http.get("/v1/producers/a/tokens", params={"limit": 2}).json()
    rest = {"cursor": one["next_cursor"]}
    two = api.http.get("/v1/producers/a/tokens", params=rest).json()
    assert [token["label"] for token in (*one["data"], *two["data"])] == ["", "first", "second"]
    assert all("token" not in token for token in one["data"])


def test_a_token_is_rotated_with_grace_and_revoked(api: Api) -> None:
    first = token_of(api, "billing")
    tokens = "/v1/producers/billing/tokens"
    asked = {"scopes": ["read"], "label": "nightly", "expires_in_seconds": 3600}
    old = api.http.post(tokens, json=asked).json()

    new = api.http.post(f"{tokens}/{old['id']}/rotate", json={"grace_seconds": 60}).json()

    assert accepts(api, old["token"])
    assert accepts(api, new["token"])
    assert (new["scopes"], new["label"]) == (["read"], "nightly")
    assert new["expires_at"] > old["expires_at"]
    last = api.http.post(f"{tokens}/{new['id']}/rotate").json()
    assert not accepts(api, new["token"])
    ended = problem(api.http.post(f"{tokens}/{new['id']}/rotate"), 409)
    assert ended["type"] == "urn:haulier:problem:token-ended"
    for _ in range(2):
        assert api.http.delete(f"{tokens}/{last['id']}").status_code == 204
    assert not accepts(api, last["token"])
    assert accepts(api, first)
    problem(api.http.delete(f"/v1/producers/default/tokens/{old['id']}"), 404)


@pytest.mark.parametrize(
    "asked",
    [
        {"expires_in_seconds": 0},
        {"expires_in_seconds": 1e300},
        {"expires_at": "2001-01-01T00:00:00Z"},
        {"expires_at": "2101-01-01T00:00:00"},
        {"expires_at": "2101-01-01T00:00:00Z", "expires_in_seconds": 5},
        {"scopes": []},
        {"scopes": ["everything"]},
        {"label": "two\nlines"},
        {"label": "back\u202ewards"},
    ],
)
def test_a_token_that_cannot_be_made_is_refused(refusing_api: Api, asked: dict[str, Any]) -> None:
    assert messages(refusing_api.http.post("/v1/producers/default/tokens", json=asked))


def _shows_a_secret(operation: dict[str, Any], schemas: dict[str, Any]) -> bool:
    """Whether its answer has a field for a token or a secret."""
    answers = [answer for status, answer in operation["responses"].items() if status < "300"]
    named = [one.get("content", {}).get("application/json", {}).get("schema") for one in answers]
    # Of a verb that can be tried first, one of two: what it shows, or what it would change.
    each = [ref for schema in named if schema for ref in schema.get("anyOf", [schema])]
    shown = [schemas[ref["$ref"].rpartition("/")[2]] for ref in each if "$ref" in ref]
    return any({"token", "secret"} & set(schema["properties"]) for schema in shown)


def test_no_cache_keeps_an_answer_that_shows_a_secret(api: Api) -> None:
    token_id = api.http.post("/v1/producers/default/tokens", json={}).json()["id"]
    document = application().openapi()
    showing = [
        (method, path.replace("{name}", "default").replace("{token_id}", token_id))
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if _shows_a_secret(operation, document["components"]["schemas"])
    ]
    assert len(showing) >= 4
    for method, path in showing:
        body = {"name": "billing"} if path == "/v1/producers" else {}
        answer = api.http.request(method, path, json=body)
        assert answer.status_code == 201, answer.text
        assert answer.headers["cache-control"] == "no-store", path


def test_a_new_signing_secret_keeps_the_one_before_it(api: Api) -> None:
    made = [
        api.http.post("/v1/producers/default/signing-secret").json()["secret"] for _ in range(3)
    ]
    assert all(secret.startswith("whsec_") for secret in made)
    assert all(len(base64.b64decode(secret.removeprefix("whsec_"))) >= 24 for secret in made)
    row = producer(api.db, "default")
    assert row is not None
    assert row.signing_secrets == made[:0:-1]
    shown = api.http.get("/v1/producers/default")
    assert shown.json()["signing_secrets"] == 2
    assert not any(secret in shown.text for secret in made)


def test_null_for_a_priority_means_that_it_was_left_out(api: Api) -> None:
    sent = {"name": "billing", "lowest_priority": None, "highest_priority": None}
    made = api.http.post("/v1/producers", json=sent)
    assert made.status_code == 201, made.text
    changed = api.http.patch(
        "/v1/producers/billing", json={"lowest_priority": None, "highest_priority": 5}
    ).json()
    assert (changed["lowest_priority"], changed["highest_priority"]) == (0, 5)
