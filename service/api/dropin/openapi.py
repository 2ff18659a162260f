"""The OpenAPI documents of these applications. Their errors have a form of their own."""

from collections.abc import Collection
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

_REF = "#/components/schemas/"
_TEXT = {"type": "string"}
_MAYBE_TEXT = {"type": ["string", "null"]}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": _MAYBE_TEXT,
                "code": {**_TEXT, "description": "The end of the `type` of the problem."},
            },
        }
    },
}


def json_body(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """What an endpoint that reads its body itself says of it, for `openapi_extra`."""
    (_,), schemas = msgspec.json.schema_components((kind,), ref_template=f"{_REF}{{name}}")
    return _body("application/json", schemas[kind.__name__])


def form(required: Collection[str], **fields: str) -> dict[str, Any]:
    """Likewise for a form; the fields with what they are for. `file` is the file itself."""
    properties: dict[str, Any] = {
        name: {**_TEXT, "description": words} for name, words in fields.items()
    }
    if "file" in properties:
        properties["file"]["format"] = "binary"
    schema = {"type": "object", "required": list(required), "properties": properties}
    return _body("multipart/form-data", schema)


def _body(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


_LINES = {"application/jsonl": {"schema": _TEXT}}
CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The lines of the file", "content": _LINES},
    206: {"description": "The requested range of them", "content": _LINES},
}
"""What an endpoint answers that gives the content of a file, for `responses`."""


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of one of these applications."""
    made = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schemas = made["components"].setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Error"] = _ERROR
    error = {"application/json": {"schema": {"$ref": f"{_REF}Error"}}}
    for operations in made["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = {"description": "An error", "content": error}
    return made
