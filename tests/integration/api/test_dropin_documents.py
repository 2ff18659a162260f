"""What the OpenAPI documents of the drop-ins say: schemathesis asks it, and who may not tries it.

Whatever is added to a document is tried by itself.
"""

import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig
from schemathesis.generation.modes import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.routing import Mount

from service.api.app import application
from service.api.dropin import app as dropin
from service.api.dropin import openapi
from service.store import producers
from tests.api import Api
from tests.eventually import eventually
from tests.factories import MODEL
from tests.integration.api.test_walls import everything
from tests.together_by_hand import CHAT, chat_line, jsonl

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
AT_ONCE = {"Prefer": "respond-async"}
"""So that no call waits for its batch: nothing works on it here."""
BASES = (f"{dropin.TOGETHER}/v1", dropin.OPENAI)
OPEN = ("put", "/files/{file_id}/bytes")
"""Its URL holds a secret: no token is asked for."""


def document(base: str) -> dict[str, Any]:
    (mounted,) = (
        route for route in application().routes if isinstance(route, Mount) and route.path == base
    )
    return openapi.document(mounted.app)  # type: ignore[arg-type]


DOCUMENTS = {base: document(base) for base in BASES}
OPERATIONS = [
    (base, method, path)
    for base in BASES
    for path, item in DOCUMENTS[base]["paths"].items()
    for method in item
]
CLOSED = [found for found in OPERATIONS if found[1:] != OPEN]


class Owner:
    """A producer with a file, a batch of it, and results."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.token = producers.add_producer(api.db, f"owner-{uuid4()}").text
        with as_bearer(api, self.token) as client:
            form = {"data": {"purpose": "batch"}, "files": {"file": jsonl([chat_line("a")])}}
            self.file_id = client.post(f"{dropin.OPENAI}/files", **form).json()["id"]  # type: ignore[arg-type]
            asked = {"input_file_id": self.file_id, "endpoint": CHAT, "completion_window": "24h"}
            made = client.post(f"{dropin.OPENAI}/batches", json=asked)
            self.batch_id = made.json()["id"]
            call = {"model": MODEL, "messages": []}
            made = client.post(f"{dropin.OPENAI}/chat/completions", json=call, headers=AT_ONCE)
            self.call_id = made.json()["id"]
        self.ids = {
            "file_id": [self.file_id, f"file-output-{self.batch_id}-1"],
            "batch_id": [self.batch_id],
            "call_id": [self.call_id],
        }

    def paths(self, path: str) -> Iterator[str]:
        """The path with each of the owner's ids that fit."""
        name = re.search(r"\{(\w+)\}", path)
        for known in self.ids[name[1]] if name else ():
            yield re.sub(r"\{\w+\}", known, path)


def as_bearer(api: Api, token: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=api.url, headers=headers, timeout=60, trust_env=False)


@pytest.fixture(scope="module")
def owner(refusing_api: Api) -> Owner:
    return Owner(refusing_api)


@pytest.mark.parametrize(("base", "method", "path"), OPERATIONS)
def test_whatever_is_sent_the_answer_is_a_documented_one(
    owner: Owner, base: str, method: str, path: str
) -> None:
    config = SchemathesisConfig(
        projects=ProjectsConfig(
            default=ProjectConfig(
                base_url=owner.api.url + base,
                generation=GenerationConfig(deterministic=True, database="none"),
            )
        )
    )
    schema = schemathesis.openapi.from_dict(DOCUMENTS[base], config=config)
    operation = schema[path][method.upper()]
    modes = [GenerationMode.POSITIVE]
    if {"parameters", "requestBody"} & set(DOCUMENTS[base]["paths"][path][method]):
        modes.append(GenerationMode.NEGATIVE)
    for mode in modes:

        @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
        @settings(
            max_examples=8,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def ask(case: Any, known: bool) -> None:
            if known and method != "delete":
                case.path_parameters.update({name: ids[0] for name, ids in owner.ids.items()})
            case.call_and_validate(
                headers={"Authorization": f"Bearer {owner.token}", **AT_ONCE}, checks=CHECKS
            )

        ask()


def test_another_producers_files_and_batches_are_not_there_on_any_operation(
    api: Api, runtime_url: str
) -> None:
    owner = Owner(api)
    stranger = producers.add_producer(api.db, "stranger").text
    # Who is told where to look has its call; that is written down a moment later.
    eventually(lambda: "'delivered_at': None" not in str(everything(runtime_url)["calls"]))
    before = everything(runtime_url)
    tried = 0
    with as_bearer(api, stranger) as client:
        for base, method, path in OPERATIONS:
            for known in owner.paths(path):
                answer = client.request(method, base + known)
                assert answer.status_code == 404, (base, method, known, answer.text)
                nowhere = client.request(method, re.sub(r"\{\w+\}", str(uuid4()), base + path))
                assert nowhere.status_code == answer.status_code
                tried += 1
        for base, method, path in OPERATIONS:
            if method == "get" and "{" not in path and "whoami" not in path:
                shown = client.get(base + path).text
                assert owner.batch_id not in shown
                assert owner.file_id not in shown
    assert tried >= 15
    assert everything(runtime_url) == before


def test_no_operation_can_be_had_without_a_token_and_a_scope(owner: Owner) -> None:
    scopeless = producers.add_credential(owner.api.db, owner_name(owner), scopes=[]).text
    for token, status in (("", 401), ("wrong", 401), (scopeless, 403)):
        with as_bearer(owner.api, token or "x") as client:
            if not token:
                del client.headers["authorization"]
            for base, method, path in CLOSED:
                for known in ("a", "a%0Ab"):
                    answer = client.request(method, base + re.sub(r"\{\w+\}", known, path))
                    assert answer.status_code == status, (base, method, path)
                    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def owner_name(owner: Owner) -> str:
    with as_bearer(owner.api, owner.token) as client:
        name: str = client.get("/together/v3/whoami").json()["organization"]["id"]
    return name


@pytest.mark.parametrize("base", BASES)
def test_the_document_is_served_to_who_has_a_token(owner: Owner, base: str) -> None:
    with as_bearer(owner.api, owner.token) as client:
        assert client.get(f"{base}/openapi.json").json() == DOCUMENTS[base]
    assert httpx.get(f"{owner.api.url}{base}/openapi.json", trust_env=False).status_code == 401
