"""The fields of a batch spec: what each means, and how JSONL submissions give them in the query.

Everything here follows from the fields of `Spec`; a new field needs its description and no more.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.inspect import (
    DictType,
    Field,
    FloatType,
    IntType,
    ListType,
    NoneType,
    StrType,
    StructType,
    UnionType,
    type_info,
)
from starlette.datastructures import QueryParams

from service.api.problems import invalid
from service.api.v1 import examples
from service.rules.errors import BadInput, Problem
from service.rules.permissions import Permissions
from service.rules.spec import Spec, envelope_problems

DESCRIPTIONS: Mapping[str, str] = {
    "endpoint": "The Together endpoint that serves the requests, such as `/v1/chat/completions`.",
    "requests": "The requests, each with a `custom_id` that is unique in the job, and its `body`.",
    "input": "The URL of a JSONL file with the requests, below one of the allowed input roots.",
    "idempotency_key": "A second submission with the same key and content returns the first job.",
    "account": "The Together account that runs the job.",
    "max_attempts": "The most attempts that each request gets.",
    "priority": "Jobs with a higher priority run first.",
    "metadata": "Your own data about the job: at most 16,384 bytes as JSON.",
    "notify": "The Celery tasks and webhooks that receive the job's notices.",
    "check": "What every answer must pass, or else count as a failed attempt: `complete`,"
    " `nonempty`, `json`, an object with a `json_schema` or a `regex`, or a list of these.",
    "canary": "So many requests go first; the others go when they fare well.",
    "canary_failures": "If more of the canary's requests fail, the others are held until"
    " somebody decides. By default half of them may fail.",
    "max_cost": "No attempt starts that would make the job cost more than so many USD, by the"
    " estimate from `HAULIER_PRICES`.",
    "deadline": "When the job should be done: an instant (`2026-12-01T06:00:00Z`), or a duration"
    " from the submission on (`6h`, `PT6H`, or seconds).",
    "on_deadline": "`report` (the default): notices go out when the deadline is at risk, and when"
    " it is missed. `priority`: besides, the job's priority rises as the deadline comes nearer.",
}


def _kind(field: Field) -> type:
    """Return the class of the field's type, without `| None`; a UnionType if it has several."""
    kind = field.type
    if isinstance(kind, UnionType):
        kinds = [one for one in kind.types if not isinstance(one, NoneType)]
        if all(isinstance(one, StrType | FloatType) for one in kinds):
            kinds = kinds[:1]  # a query has text alone
        kind = kinds[0] if len(kinds) == 1 else kind
    return type(kind)


def _query_fields() -> dict[str, type]:
    spec = type_info(Spec)
    assert isinstance(spec, StructType)
    in_the_body = {"requests", "input"}
    return {field.name: _kind(field) for field in spec.fields if field.name not in in_the_body}


_QUERY_FIELDS = _query_fields()
_LEFT_OUT = "null"
"""How clients write a parameter that has no value. As text it could name nothing that exists."""
_FORMS: Mapping[type, str] = {
    DictType: "A JSON object.",
    ListType: "A JSON array.",
    UnionType: "A word, or a JSON object or array.",
}


def query_parameters() -> list[dict[str, Any]]:
    """Return the query parameters of a JSONL submission, for the OpenAPI document."""
    return [_parameter(name, kind) for name, kind in _QUERY_FIELDS.items()]


def _parameter(name: str, kind: type) -> dict[str, Any]:
    use = "Required with JSONL" if name == "endpoint" else "With JSONL only"
    words = [DESCRIPTIONS[name], _FORMS.get(kind, ""), f"{use}; a JSON spec has it in the body."]
    parameter = {
        "name": name,
        "in": "query",
        "required": False,
        "schema": {"type": "integer" if kind is IntType else "string"},
        "description": " ".join(filter(None, words)),
    }
    example = examples.SPEC_FIELDS[name]
    if example is not None:
        parameter["example"] = _written(example) if kind in _FORMS else example
    return parameter


def _written(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def read_query(query: QueryParams, permissions: Permissions) -> Spec:
    """Return the spec, without requests, that query parameters describe. Raises BadInput."""
    known = ", ".join(sorted(_QUERY_FIELDS))
    problems = [
        Problem(f"query {name}: there is no such parameter; use {known}")
        for name in sorted(set(query) - set(_QUERY_FIELDS))
    ]
    problems += [
        Problem(f"query {name}: is given more than once; give it once")
        for name in sorted(_QUERY_FIELDS)
        if len(query.getlist(name)) > 1
    ]
    given = {name: text for name, text in query.items() if text != _LEFT_OUT}
    if "endpoint" not in given:
        problems.append(Problem("query endpoint: is missing"))
    if problems:
        raise BadInput(problems)
    try:
        spec = msgspec.convert({name: _value(name, text) for name, text in given.items()}, Spec)
    except msgspec.ValidationError as error:
        raise BadInput([Problem(f"the query is not valid: {error}")]) from None
    if problems := envelope_problems(spec, permissions):
        raise BadInput(problems)
    return spec


def _value(name: str, text: str) -> Any:
    kind = _QUERY_FIELDS[name]
    try:
        if kind is IntType:
            return int(text)
        if kind in _FORMS and not (kind is UnionType and text.isidentifier()):
            return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        needed = "a whole number" if kind is IntType else "JSON"
        raise invalid(f"query {name}: is not {needed}") from None
    return text
