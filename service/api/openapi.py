"""What FastAPI cannot read from the endpoints themselves."""

from typing import Any

from service.api.problems import MEDIA_TYPE
from service.api.schemas import ProblemDocument

_TEXT = {"type": "string"}
_NUMBER = {"type": "integer"}
_JSONL = "The request lines. The spec's other fields are query parameters."


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
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["endpoint"],
                    "additionalProperties": False,
                    "properties": {
                        "endpoint": _TEXT,
                        "requests": {"type": "array", "items": {"type": "object"}},
                        "input": _TEXT,
                        "idempotency_key": _TEXT,
                        "account": _TEXT,
                        "max_attempts": _NUMBER,
                        "priority": _NUMBER,
                        "metadata": {"type": "object"},
                        "notify": {"type": "array", "items": {"type": "object"}},
                    },
                }
            },
            "application/x-ndjson": {"schema": {**_TEXT, "description": _JSONL}},
        },
    },
}


def problem(description: str) -> dict[str, Any]:
    """A response that is a problem document."""
    return {"description": description, "content": {MEDIA_TYPE: {"schema": _problem_schema()}}}


def _problem_schema() -> dict[str, Any]:
    schema = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
    del schema["$defs"]  # they are among the components, since a job shows them too
    return schema
