"""The OpenAPI document says what the API does; schemathesis asks it."""

import subprocess
from typing import Any

import msgspec
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

from service.api.app import application
from service.api.openapi import KINDS
from service.api.v1 import examples
from service.store.views import JobView
from tests.api import TOKEN, Api, post_lines, problem
from tests.processes import HAULIER

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
DOCUMENT = application().openapi()
OPERATIONS = [(method, path) for path, item in DOCUMENT["paths"].items() for method in item]
ASKED = [
    (method, path, mode)
    for method, path in OPERATIONS
    for mode in GenerationMode
    # Where nothing can be said, nothing wrong can be said either.
    if mode is GenerationMode.POSITIVE
    or {"parameters", "requestBody"} & set(DOCUMENT["paths"][path][method])
]
EXAMPLES = 12
"""Of what fits the document, and of what does not, for each operation."""


@pytest.fixture(scope="module")
def asked(refusing_api: Api) -> tuple[Any, Api]:
    """The document as schemathesis reads it, and the API it is held against."""
    config = SchemathesisConfig(
        projects=ProjectsConfig(
            default=ProjectConfig(
                base_url=refusing_api.url,
                generation=GenerationConfig(deterministic=True, database="none"),
            )
        )
    )
    return schemathesis.openapi.from_dict(DOCUMENT, config=config), refusing_api


@pytest.mark.parametrize(("method", "path", "mode"), ASKED)
def test_whatever_is_sent_the_answer_is_a_documented_one(
    asked: tuple[Any, Api], method: str, path: str, mode: GenerationMode
) -> None:
    schema, api = asked
    # A stream of a job that never ends would only be waited for.
    is_asked_for = "{job_id}" in path and not path.endswith("/progress")
    there = str(api.submit("a")) if is_asked_for else ""
    operation = schema[path][method.upper()]

    @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any, known: bool) -> None:
        if known and there:
            case.path_parameters["job_id"] = there
        case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"}, checks=CHECKS)

    ask()


@pytest.mark.parametrize(
    "job_id", ["%00", "a%2Fb", "%ED%A0%80", "%FF", "..%2F..", "%2e%2e", "x" * 5000, "%F0%9F%98%80"]
)
@pytest.mark.parametrize("path", [path for method, path in OPERATIONS if "{job_id}" in path])
def test_odd_ids_in_a_path_are_not_found(refusing_api: Api, path: str, job_id: str) -> None:
    method = next(method for method, other in OPERATIONS if other == path)

    answer = refusing_api.http.request(method.upper(), path.replace("{job_id}", job_id))

    problem(answer, 404)


def test_the_examples_of_bodies_are_taken(api: Api) -> None:
    spec = api.http.post("/v1/jobs", json=examples.SPEC)
    lines = post_lines(api, examples.LINES.encode())

    assert (spec.status_code, lines.status_code) == (201, 201)
    JobView.model_validate(examples.JOB)
    assert set(examples.JOB) == set(spec.json())


def test_a_body_that_cannot_be_read_is_a_problem(api: Api) -> None:
    path = f"/v1/jobs/{api.submit('a')}/retry"

    for content in (
        b"{",
        b"\xff",
        b"[" * 100_000,
        rb'{"custom_ids": ["\ud800"]}',
        rb'{"custom_ids": ["\u0000"]}',
    ):
        answer = api.http.post(path, content=content, headers={"Content-Type": "application/json"})
        problem(answer, 422)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_error_is_a_problem_document_with_its_kinds(method: str, path: str) -> None:
    operation = DOCUMENT["paths"][path][method]
    errors = {status: one for status, one in operation["responses"].items() if status >= "400"}

    assert {"400", "500"} <= set(errors)
    if path.startswith("/v1"):
        assert {"401", "403", "503"} <= set(errors)
        assert "Needs the scope" in operation["description"]
    for status, response in errors.items():
        (media_type,) = response["content"]
        assert media_type == "application/problem+json"
        assert set(response["content"][media_type]["examples"]) == {
            kind.slug for kind in KINDS if str(kind.status) == status
        }


def test_the_types_of_problems_are_listed() -> None:
    listed = DOCUMENT["components"]["schemas"]["ProblemDocument"]["properties"]["type"]["enum"]

    assert listed == sorted(kind.type for kind in KINDS)
    assert not [name for name in DOCUMENT["components"]["schemas"] if "ValidationError" in name]


def test_the_document_can_be_had_without_a_database() -> None:
    printed = subprocess.run([*HAULIER, "openapi"], capture_output=True, check=True)

    assert msgspec.json.decode(printed.stdout) == DOCUMENT
