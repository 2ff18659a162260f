"""The OpenAPI document: what FastAPI reads from the endpoints, and what follows from how they are
made. An endpoint gets its tag, its scope, its problems and its examples from here."""

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
from service.rules.credentials import Scope
from service.rules.requests import AudioLine, ChatLine
from service.rules.spec import Spec

_REF = "#/components/schemas/"
_TEXT = {"type": "string"}
_NUMBER = {"type": "integer"}
_JSONL = "The request lines. The spec's other fields are query parameters."

KINDS = tuple(kind for kind in vars(problems).values() if isinstance(kind, Kind))
"""Every problem that there is."""

DESCRIPTION = """\
Bearer tokens have scopes: `submit` (new jobs, and running failed requests again), `read`,
`cancel`, and `admin` (everything, with every producer's jobs). Each operation says which one it
needs. Errors are problem documents (RFC 9457); programs should go by their `type`.
"""

_SCOPES = {
    needed.dependency: scope
    for needed, scope in zip((auth.SUBMIT, auth.READ, auth.CANCEL, auth.ADMIN), Scope, strict=True)
}


_FIELDS = {
    "endpoint": "What is asked of Together, such as `/v1/chat/completions`.",
    "requests": "The requests: each with a `custom_id` that is unique in the job, and its `body`.",
    "input": "Where the requests lie as JSONL instead: below one of the allowed input roots.",
    "idempotency_key": "The same key and content find the job that is there.",
    "account": "The Together account to use.",
    "max_attempts": "How often each request may be tried.",
    "priority": "Higher goes first.",
    "metadata": "Anything of yours; 16,384 bytes as JSON.",
    "notify": "Who is to be told what becomes of it.",
}
"""Of a spec."""


def _parameter(name: str, place: str, schema: dict[str, str], description: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": False,
        "schema": schema,
        "description": description,
    }


SUBMIT: dict[str, Any] = {
    "parameters": [
        _parameter("Idempotency-Key", "header", _TEXT, "The same as `idempotency_key`."),
        _parameter("endpoint", "query", _TEXT, "With JSONL only, and required there."),
        _parameter("account", "query", _TEXT, "With JSONL only."),
        _parameter("max_attempts", "query", _NUMBER, "With JSONL only."),
        _parameter("priority", "query", _NUMBER, "With JSONL only."),
        _parameter("idempotency_key", "query", _TEXT, "With JSONL only."),
        _parameter("metadata", "query", _TEXT, "With JSONL only: a JSON object."),
        _parameter("notify", "query", _TEXT, "With JSONL only: a JSON array."),
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
    """A response that is a problem document."""
    schema = {"$ref": f"{_REF}{ProblemDocument.__name__}"}
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema}}}


def document(app: FastAPI) -> dict[str, Any]:
    """The whole document."""
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
    """Names a client's function: the room and what is done there."""
    return f"{_room(route)}_{route.name}"


def _room(route: Any) -> str:
    return str(route.endpoint.__module__).rpartition(".")[2]


def _tags(routes: Sequence[RouteContext]) -> list[dict[str, str]]:
    """The rooms that the endpoints live in, with what those say of themselves."""
    rooms = {_room(route): inspect.getmodule(route.endpoint) for route in routes}
    return [
        {"name": name, "description": (inspect.getdoc(room) or "").partition("\n\n")[0]}
        for name, room in rooms.items()
    ]


def _complete(operation: dict[str, Any], route: RouteContext) -> None:
    """Add to an operation what follows from its path, its body and its dependencies."""
    operation["tags"] = [_room(route)]
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
    """Whether it is the framework's own form of what is wrong, which nobody is sent."""
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    return bool(schema == {"$ref": f"{_REF}HTTPValidationError"})


def _statuses(operation: dict[str, Any], route: RouteContext, scopes: set[Scope]) -> Iterator[int]:
    """The errors that any such endpoint can answer with; its own stand with it."""
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
    """One for each kind of that status."""
    return {
        kind.slug: {
            "value": {
                "type": kind.type,
                "title": kind.title,
                "status": kind.status,
                "detail": "what is the matter here, for people",
            }
        }
        for kind in KINDS
        if kind.status == status
    }


def _problem_schemas() -> dict[str, Any]:
    """The problem document, with every `type` that there is."""
    _, made = models_json_schema(
        [(ProblemDocument, "serialization")], ref_template=f"{_REF}{{model}}"
    )
    schemas: dict[str, Any] = made["$defs"]
    schemas[ProblemDocument.__name__]["properties"]["type"]["enum"] = sorted(
        kind.type for kind in KINDS
    )
    return schemas


def _spec_schemas() -> dict[str, Any]:
    """The batch spec and its lines."""
    _, schemas = msgspec.json.schema_components(
        (Spec, ChatLine, AudioLine), ref_template=f"{_REF}{{name}}"
    )
    lines = [{"$ref": f"{_REF}{line.__name__}"} for line in (ChatLine, AudioLine)]
    schemas["Spec"]["properties"]["requests"] = {"type": "array", "items": {"anyOf": lines}}
    for name, words in _FIELDS.items():
        schemas["Spec"]["properties"][name]["description"] = words
    schemas["Spec"]["oneOf"] = [{"required": ["requests"]}, {"required": ["input"]}]
    return schemas
