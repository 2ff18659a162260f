"""The OpenAPI document.

FastAPI derives most of it from the endpoints. This module adds tags, scopes, problems and examples.
"""

import inspect
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from pydantic.json_schema import models_json_schema

from service.api import auth, problems
from service.api.problems import MEDIA_TYPE, Kind
from service.api.v1 import examples
from service.api.v1.schemas import ProblemDocument
from service.api.v1.spec_fields import DESCRIPTIONS, query_parameters
from service.rules.credentials import Scope
from service.rules.requests import AudioLine, ChatLine
from service.rules.spec import Spec

_REF = "#/components/schemas/"
_TEXT = {"type": "string"}
_URL = "As OpenAI's Batch API takes it: the path of the job's endpoint. It is not sent on."
_WITH_DEFAULT = ("account", "max_attempts", "priority", "metadata", "notify")
_KIND = {"type", "items", "additionalProperties", "minimum", "maximum", "minLength", "maxLength"}
_JSONL = "The request lines. The other fields of the spec are query parameters."

KINDS = tuple(kind for kind in vars(problems).values() if isinstance(kind, Kind))
"""Every kind of problem that the API answers with."""

DESCRIPTION = """\
Bearer tokens have scopes: `submit` (submit jobs and retry failed requests), `read`, `cancel`, and
`admin` (everything, for the jobs of all producers). Each operation names the scope that it needs.
Errors are problem documents (RFC 9457); programs should rely on their `type`.
"""

_SCOPES = {
    needed.dependency: scope
    for needed, scope in zip((auth.SUBMIT, auth.READ, auth.CANCEL, auth.ADMIN), Scope, strict=True)
}

SUBMIT: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "schema": _TEXT,
            "description": "Another way to give `idempotency_key`.",
        },
        *query_parameters(),
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": f"{_REF}Spec"}, "example": examples.SPEC},
            "application/x-ndjson": {
                "schema": {**_TEXT, "description": _JSONL},
                "example": examples.LINES,
            },
        },
    },
}


def problem(description: str) -> dict[str, Any]:
    """Return the description of a response that is a problem document."""
    schema = {"$ref": f"{_REF}{ProblemDocument.__name__}"}
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema}}}


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of the application."""
    routes = [route for route in iter_route_contexts(app.routes) if _is_shown(route)]
    made = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=DESCRIPTION,
        routes=app.routes,
        tags=_tags(routes),
    )
    schemas = made["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas |= _problem_schemas() | _spec_schemas()
    for name, example in examples.SCHEMAS.items():
        if name in schemas:
            schemas[name]["examples"] = [example]
    for route in routes:
        for method in route.methods or ():
            _complete(made["paths"][route.path_format][method.lower()], route)
    return made


def _is_shown(route: RouteContext) -> bool:
    return isinstance(route.original_route, APIRoute) and bool(route.include_in_schema)


def operation_id(route: APIRoute) -> str:
    """Return the operation's id, such as `jobs_list_jobs`, for generated clients."""
    return f"{_subject(route)}_{route.name}"


def _subject(route: Any) -> str:
    """Return the name of the endpoint's module."""
    return str(route.endpoint.__module__).rpartition(".")[2]


def _tags(routes: Sequence[RouteContext]) -> list[dict[str, str]]:
    """Return a tag for each module with endpoints, described by the module's docstring."""
    subjects = {_subject(route): inspect.getmodule(route.endpoint) for route in routes}
    return [
        {"name": name, "description": (inspect.getdoc(module) or "").partition("\n\n")[0]}
        for name, module in subjects.items()
    ]


def _complete(operation: dict[str, Any], route: RouteContext) -> None:
    """Add the tag, scope, errors and examples to an operation."""
    operation["tags"] = [_subject(route)]
    scopes = set(_scopes(route.dependant))
    for scope in sorted(scopes):
        needs = f"Needs the scope `{scope}`."
        operation["description"] = f"{operation.get('description', '')}\n\n{needs}".strip()
    responses = operation["responses"]
    if _is_fastapis(responses.get("422", {})):
        del responses["422"]
    for status in _statuses(operation, route, scopes):
        responses.setdefault(str(status), problem(HTTPStatus(status).phrase))
    for status, response in responses.items():
        if MEDIA_TYPE in response.get("content", {}):
            response["content"][MEDIA_TYPE]["examples"] = _problem_examples(int(status))
    operation["responses"] = dict(sorted(responses.items()))
    for parameter in operation.get("parameters", ()):
        if parameter["name"] in examples.PARAMETERS:
            parameter.setdefault("example", examples.PARAMETERS[parameter["name"]])


def _is_fastapis(response: dict[str, Any]) -> bool:
    """Whether this is FastAPI's own validation error, which the API never sends."""
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    return bool(schema == {"$ref": f"{_REF}HTTPValidationError"})


def _statuses(operation: dict[str, Any], route: RouteContext, scopes: set[Scope]) -> Iterator[int]:
    """Yield the error statuses that follow from the kind of endpoint."""
    yield from (400, 500)
    if operation.get("security"):
        yield from (401, 503)
    if scopes:
        yield 403
    if "{" in (route.path or ""):
        yield 404
    if "requestBody" in operation:
        yield from (408, 413, 415)
    if operation.get("parameters") or "requestBody" in operation:
        yield 422
    if Scope.SUBMIT in scopes:
        yield 429


def _scopes(dependant: Dependant) -> Iterator[Scope]:
    for needed in dependant.dependencies:
        if needed.call in _SCOPES:
            yield _SCOPES[needed.call]
        yield from _scopes(needed)


def _problem_examples(status: int) -> dict[str, Any]:
    """Return an example for each kind of problem with this status."""
    return {
        kind.slug: {
            "value": {
                "type": kind.type,
                "title": kind.title,
                "status": kind.status,
                "detail": "An explanation for people.",
            }
        }
        for kind in KINDS
        if kind.status == status
    }


def _problem_schemas() -> dict[str, Any]:
    """Return the schema of problem documents, with every `type`."""
    _, made = models_json_schema(
        [(ProblemDocument, "serialization")], ref_template=f"{_REF}{{model}}"
    )
    schemas: dict[str, Any] = made["$defs"]
    schemas[ProblemDocument.__name__]["properties"]["type"]["enum"] = sorted(
        kind.type for kind in KINDS
    )
    return schemas


def _spec_schemas() -> dict[str, Any]:
    """Return the schemas of the batch spec and its request lines."""
    _, schemas = msgspec.json.schema_components(
        (Spec, ChatLine, AudioLine), ref_template=f"{_REF}{{name}}"
    )
    lines = [{"$ref": f"{_REF}{line.__name__}"} for line in (ChatLine, AudioLine)]
    for line in (ChatLine, AudioLine):
        properties = schemas[line.__name__]["properties"]
        properties["url"] = {"anyOf": [_TEXT, {"type": "null"}], "description": _URL}
    chat = schemas[ChatLine.__name__]["properties"]
    chat["method"] = {"enum": ["POST", None], "description": "It is not sent on."}
    schemas["Spec"]["properties"]["requests"] = {"type": "array", "items": {"anyOf": lines}}
    for name, words in DESCRIPTIONS.items():
        field = schemas["Spec"]["properties"][name]
        field["description"] = words
        if name in _WITH_DEFAULT:
            kind = {key: field.pop(key) for key in _KIND & field.keys()}
            field["anyOf"] = [kind, {"type": "null"}]
    schemas["Spec"]["oneOf"] = [{"required": ["requests"]}, {"required": ["input"]}]
    return schemas
