"""What holds for every endpoint: tokens, problem documents, and servers that are away."""

import re
import shutil
from itertools import product
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from pydantic import SecretStr

from config.settings import Settings, SettingsError
from service.api import problems
from service.api.app import create_app
from service.api.health import OPEN_PATHS
from tests.api import TOKEN, Api, chat, post_lines, problem, serving
from tests.eventually import eventually
from tests.factories import chat_line
from tests.servers import Databases, Servers

ROOT = Path(__file__).parents[3]


def endpoints(settings: Settings) -> list[tuple[str, str]]:
    """(method, path) of everything that is served."""
    documented = create_app(settings).openapi()["paths"]
    found = [(method.upper(), path) for path, item in documented.items() for method in item]
    return [*found, ("GET", "/v1/openapi.json")]


# --- tokens ------------------------------------------------------------------------------------


def test_no_endpoint_but_those_of_health_can_be_had_without_the_token(
    refusing_api: Api, api_settings: Settings
) -> None:
    closed = [found for found in endpoints(api_settings) if found[1] not in OPEN_PATHS]
    assert len(closed) >= 10
    bad = [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"]
    with httpx.Client(base_url=refusing_api.url, trust_env=False, verify=False) as stranger:
        for (method, path), header in product(closed, bad):
            answer = stranger.request(
                method,
                path.replace("{job_id}", str(uuid4())),
                headers={} if header is None else {"Authorization": header},
            )
            assert problem(answer, 401)["type"] == "urn:haulier:problem:unauthorized"
            assert answer.headers["www-authenticate"].startswith("Bearer")


def test_the_document_knows_every_route(api_settings: Settings) -> None:
    app = create_app(api_settings.model_copy(update={"console": False}))
    served = {
        (method, (route.path or "").replace(":path}", "}"))
        for route in iter_route_contexts(app.routes)
        for method in route.methods or ()
    }

    assert len(served) > 10
    assert served <= set(endpoints(api_settings))


def test_a_refused_body_is_not_even_read(refusing_api: Api) -> None:
    answer = post_lines(refusing_api, chat_line("a"), endpoint="x")
    assert answer.status_code == 422
    answer = httpx.post(f"{refusing_api.url}/v1/jobs", json=chat("a"), trust_env=False)

    problem(answer, 401)
    assert refusing_api.http.get("/v1/jobs").json()["data"] == []


def test_a_token_in_other_letters_is_no_error(refusing_api: Api) -> None:
    header = "Bearer tökén".encode()

    answer = httpx.get(
        f"{refusing_api.url}/v1/jobs", headers=[(b"Authorization", header)], trust_env=False
    )

    problem(answer, 401)


@pytest.mark.parametrize("path", sorted(OPEN_PATHS - {"/metrics"}))
def test_health_needs_no_token(refusing_api: Api, path: str) -> None:
    assert httpx.get(refusing_api.url + path, trust_env=False).json() == {"status": "ok"}


@pytest.mark.parametrize("token", [None, SecretStr(""), SecretStr("  ")])
def test_an_api_without_a_token_is_not_made(
    api_settings: Settings, token: SecretStr | None
) -> None:
    with pytest.raises(SettingsError, match="HAULIER_ADMIN_TOKEN"):
        create_app(api_settings.model_copy(update={"admin_token": token}))


# --- problem documents -------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1", "/v2/jobs", "/v1/jobs/", "/docs", "/openapi.json"])
def test_a_path_that_is_not_there_is_a_problem(refusing_api: Api, path: str) -> None:
    assert problem(refusing_api.http.get(path), 404)["type"] == "urn:haulier:problem:not-found"


def test_a_method_that_a_path_does_not_take_is_a_problem(refusing_api: Api) -> None:
    answer = refusing_api.http.delete("/v1/jobs")

    problem(answer, 405)
    assert answer.headers["allow"]


def test_a_database_without_our_schema_is_a_problem_that_says_what_to_do(
    api_settings: Settings, empty_database_url: str
) -> None:
    settings = api_settings.model_copy(update={"database_url": empty_database_url})
    with serving(settings) as api:
        for answer in (
            api.http.get("/readyz"),
            api.http.get("/v1/jobs"),
            api.http.post("/v1/jobs", json=chat("a")),
        ):
            document = problem(answer, 503)
            assert document["type"] == "urn:haulier:problem:database-not-migrated"
            assert "haulier migrate" in document["detail"]
        assert api.http.get("/healthz").status_code == 200


def test_while_postgres_is_away_callers_are_told_to_come_back(
    api_settings: Settings, private_servers: Servers
) -> None:
    url = Databases(private_servers.postgres.url).create()
    with serving(api_settings.model_copy(update={"database_url": url})) as api:
        api.submit("a")
        private_servers.postgres.kill()

        for answer in (
            api.http.get("/v1/jobs"),
            api.http.post("/v1/jobs", json=chat("b")),
            post_lines(api, chat_line("c")),
            api.http.get("/readyz"),
        ):
            document = problem(answer, 503)
            assert document["type"] == "urn:haulier:problem:database-unavailable"
            assert int(answer.headers["retry-after"]) > 0
            assert url.rpartition("/")[2] not in str(document)
        assert api.http.get("/healthz").status_code == 200

        private_servers.postgres.start()
        eventually(lambda: api.http.get("/readyz").status_code == 200)
        assert len(api.http.get("/v1/jobs").json()["data"]) == 1


def test_while_storage_does_not_work_nothing_is_accepted(api: Api, api_settings: Settings) -> None:
    root = Path(unquote(urlsplit(api_settings.blobs).path))
    shutil.rmtree(root)
    root.write_text("no folder")

    for answer in (api.http.post("/v1/jobs", json=chat("a")), post_lines(api, chat_line("b"))):
        assert problem(answer, 503)["type"] == "urn:haulier:problem:storage-unavailable"
    assert api.http.get("/v1/jobs").json()["data"] == []


# --- documents ---------------------------------------------------------------------------------


def test_every_reference_in_the_openapi_document_leads_somewhere(refusing_api: Api) -> None:
    answer = refusing_api.http.get("/v1/openapi.json")
    document = answer.json()

    references = set(re.findall(r'"\$ref":\s*"#/components/schemas/([^"]+)"', answer.text))
    assert references
    assert references <= set(document["components"]["schemas"])
    assert answer.text.count('"$ref"') == answer.text.count('"#/components/schemas/')
    assert set(document["paths"]["/v1/jobs"]["post"]["responses"]) >= {"201", "401", "422"}


def test_the_reference_names_every_endpoint_and_every_problem(api_settings: Settings) -> None:
    reference = (ROOT / "docs" / "api.md").read_text()
    kinds = [kind for kind in vars(problems).values() if isinstance(kind, problems.Kind)]

    for method, path in endpoints(api_settings):
        assert f"`{method} {path.replace('job_id', 'id')}`" in reference
    assert len(kinds) > 10
    for kind in kinds:
        assert re.search(rf"`{kind.slug}` \| {kind.status} \|", reference), kind
