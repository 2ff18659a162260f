"""Walls between producers: every operation of the API's document is tried by the wrong one.

Whatever is added to the document is walked by itself.
"""

import json
import re
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest

from config.settings import Settings
from service.api.app import create_app
from service.api.health import OPEN_PATHS
from service.rules.credentials import id_of
from service.store.credentials import revoke_token
from service.store.engine import clock
from service.store.producers import add_credential, add_producer
from tests.api import Api, chat, problem

Operation = tuple[str, str]


def operations(settings: Settings) -> list[Operation]:
    """(method, path) of everything in the document that wants a token."""
    paths = create_app(settings).openapi()["paths"]
    closed = [(m.upper(), path) for path, item in paths.items() for m in item]
    return [found for found in closed if found[1] not in OPEN_PATHS]


def of_admins(api: Api, settings: Settings) -> set[Operation]:
    """Those that want the scope `admin`. One that wants no scope at all fails."""
    wanted = {}
    scopeless = add_credential(api.db, "stranger", scopes=[]).text
    with as_bearer(api, scopeless) as client:
        for method, path in operations(settings):
            answer = call(client, method, filled(path))
            problem(answer, 403)
            wanted[method, path] = answer.headers["www-authenticate"].rpartition("scope=")[2]
    return {found for found, scope in wanted.items() if scope == '"admin"'}


def filled(path: str, **known: str) -> str:
    """The path with a value for each of its parameters."""
    return re.sub(r"\{(\w+)(?::\w+)?\}", lambda found: known.get(found[1], "a"), path)


def as_bearer(api: Api, token: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=api.url, headers=headers, timeout=60, trust_env=False)


def call(client: httpx.Client, method: str, path: str) -> httpx.Response:
    """Only the beginning of the answer is waited for: it may be a stream without an end."""
    body: dict[str, Any] | None = None if method in {"GET", "DELETE", "HEAD"} else {}
    request = client.build_request(method, path, json=body)
    answer = client.send(request, stream=True)
    if answer.is_error or "event-stream" not in answer.headers.get("content-type", ""):
        answer.read()
    else:
        answer.close()
    return answer


def everything(url: str) -> dict[str, list[str]]:
    """Every row of every table, but for what is seen of who is there."""
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'haulier'"
            " AND tablename NOT IN ('heartbeats', 'chores', 'measured')"
        ).fetchall()
        return {
            table: sorted(
                str(row)
                for (row,) in connection.execute(
                    f"SELECT to_jsonb(t) - 'last_used_at' FROM haulier.{table} t"
                )
            )
            for (table,) in tables
        }


@pytest.fixture
def tokens(api: Api) -> tuple[str, str]:
    """Of two producers."""
    return add_producer(api.db, "owner").text, add_producer(api.db, "stranger").text


@pytest.fixture
def owned(api: Api, tokens: tuple[str, str]) -> UUID:
    """A running job of the owner."""
    with as_bearer(api, tokens[0]) as owner:
        answer = owner.post("/v1/jobs", json=chat("a", "b", metadata={"whose": "owner's"}))
        job_id = UUID(answer.json()["id"])
    api.harness.let_in()
    return job_id


def test_another_producers_job_is_not_there_on_any_operation(
    api: Api, api_settings: Settings, tokens: tuple[str, str], owned: UUID
) -> None:
    before = everything(api_settings.database_url or "")
    batch_id = api.harness.open_batches(owned)[0]
    known = {"job_id": str(owned), "batch_id": str(batch_id), "custom_id": "a"}
    # To give up batches is the operator's, and refused to both alike.
    owning = [
        found
        for found in operations(api_settings)
        if "{job_id}" in found[1] and not found[1].endswith("/abandon")
    ]
    assert len(owning) >= 7
    with as_bearer(api, tokens[1]) as stranger, as_bearer(api, tokens[0]) as owner:
        for method, path in owning:
            answer = call(stranger, method, filled(path, **known))
            assert problem(answer, 404)["detail"] == "there is no such job", path
            nowhere = call(stranger, method, filled(path, **{**known, "job_id": str(UUID(int=7))}))
            assert nowhere.content == answer.content, path
        assert everything(api_settings.database_url or "") == before
        for method, path in owning:
            assert call(owner, method, filled(path, **known)).status_code != 403, path


def test_no_operation_with_the_ids_of_another_tells_or_changes_anything(
    api: Api, api_settings: Settings, tokens: tuple[str, str], owned: UUID
) -> None:
    """Whatever the parameters of a path are called: the owner's ids are tried for each."""
    before = everything(api_settings.database_url or "")
    ids = [str(owned), str(api.harness.open_batches(owned)[0])]
    by_path = [found for found in operations(api_settings) if "{" in found[1]]
    with as_bearer(api, tokens[1]) as stranger:
        for method, path in by_path:
            for known in ids:
                answer = call(stranger, method, re.sub(r"\{[^}]+\}", known, path))
                assert answer.status_code in {403, 404, 405, 422}, (method, path, answer.text)
    assert everything(api_settings.database_url or "") == before


def test_operators_operations_are_not_for_producers(
    api: Api, api_settings: Settings, tokens: tuple[str, str], owned: UUID
) -> None:
    closed = of_admins(api, api_settings)
    before = everything(api_settings.database_url or "")
    assert len(closed) >= 8
    with as_bearer(api, tokens[1]) as stranger:
        for method, path in sorted(closed):
            answer = call(stranger, method, filled(path, name="owner", job_id=str(owned)))
            kind = problem(answer, 403)["type"]
            assert kind == "urn:haulier:problem:insufficient-scope", path
    assert everything(api_settings.database_url or "") == before


def test_every_list_shows_a_producer_its_own_alone(
    api: Api, api_settings: Settings, tokens: tuple[str, str], owned: UUID
) -> None:
    admins = of_admins(api, api_settings)
    lists = [
        path
        for method, path in operations(api_settings)
        if method == "GET" and "{" not in path and (method, path) not in admins
    ]
    assert "/v1/jobs" in lists
    with as_bearer(api, tokens[1]) as stranger:
        own = stranger.post("/v1/jobs", json=chat("a")).json()["id"]
        for path in lists:
            text = call(stranger, "GET", path).text
            assert str(owned) not in text, path
            assert "owner" not in text, path
        assert [job["id"] for job in stranger.get("/v1/jobs").json()["data"]] == [own]


def test_no_operation_takes_a_missing_wrong_expired_or_revoked_token(
    api: Api, api_settings: Settings, tokens: tuple[str, str], owned: UUID
) -> None:
    expired = add_credential(api.db, "owner", expires_at=clock(api.db) - timedelta(seconds=1))
    revoked = add_credential(api.db, "owner")
    assert revoke_token(api.db, "owner", revoked.id)
    before = everything(api_settings.database_url or "")
    true = tokens[0]
    wrong = true[:-1] + ("A" if true[-1] != "A" else "B")
    bad = [
        "nothing",
        wrong,
        expired.text,
        revoked.text,
        true + "x",
        f"haulier_{'0' * 16}_{'x' * 43}",
    ]
    for token in bad:
        with as_bearer(api, token) as client:
            for method, path in operations(api_settings):
                answer = call(client, method, filled(path, name="owner", job_id=str(owned)))
                assert problem(answer, 401)["type"] == "urn:haulier:problem:unauthorized", path
                assert answer.headers["www-authenticate"].startswith("Bearer")
    with httpx.Client(base_url=api.url, trust_env=False) as client:
        for method, path in operations(api_settings):
            problem(call(client, method, filled(path, job_id=str(owned))), 401)
    assert everything(api_settings.database_url or "") == before


def test_no_token_and_no_secret_is_in_the_logs_and_no_token_in_the_database(
    api: Api, api_settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    first = api.http.post("/v1/producers", json={"name": "billing"}).json()["token"]
    path = "/v1/producers/billing"
    second = api.http.post(f"{path}/tokens", json={"label": "x"}).json()
    third = api.http.post(f"{path}/tokens/{second['id']}/rotate").json()
    secret = api.http.post(f"{path}/signing-secret").json()["secret"]
    shown = [first, second["token"], third["token"]]
    for token in (*shown, f"{first}x"):
        with as_bearer(api, token) as client:
            client.get("/v1/jobs")
            client.post("/v1/jobs", json=chat("a"))

    stored = json.dumps(everything(api_settings.database_url or ""))
    listed = api.http.get(f"{path}/tokens").text + api.http.get("/v1/producers").text
    logged = "".join(capfd.readouterr())
    assert "request_answered" in logged
    for text in shown:
        assert id_of(text) is not None
        private = text.split("_", 2)[2]
        assert private not in stored
        assert private not in listed
        assert private not in logged
    assert secret not in logged
    assert secret not in listed
