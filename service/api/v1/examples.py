"""Examples for the OpenAPI document. A test sends them to the API."""

import json
from typing import Any

import msgspec

from service.rules.spec import Spec
from service.store.views import JobView

MODEL = "meta-llama/Llama-3.3-70B-Instruct-Turbo"


def _request(custom_id: str, content: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {"custom_id": custom_id, "body": {"model": MODEL, "messages": messages}}


SPEC: dict[str, Any] = {
    "endpoint": "/v1/chat/completions",
    "requests": [_request("one", "Say one"), _request("two", "Say two")],
    "idempotency_key": "nightly-2026-11-22",
    "metadata": {"team": "search"},
}

SPEC_FIELDS: dict[str, Any] = msgspec.structs.asdict(
    msgspec.convert({name: SPEC[name] for name in SPEC if name != "requests"}, Spec)
)
"""Every field of the spec above, defaults included, without its requests."""

LINES = "".join(f"{json.dumps(request)}\n" for request in SPEC["requests"])

JOB: dict[str, Any] = JobView.model_validate(
    {
        # A job shows the fields of its spec, and these of its own.
        **SPEC_FIELDS,
        "id": "9638ae03-6e0d-4714-8760-1238658ee075",
        "state": "completed",
        "producer": "search",
        "total": 2,
        "succeeded": 1,
        "failed": 1,
        "pending": 0,
        "attempts": 2,
        "usage": {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17},
        "created_at": "2026-11-22T02:00:00Z",
        "started_at": "2026-11-22T02:00:01Z",
        "finished_at": "2026-11-22T02:31:07Z",
        "error": None,
        "problems": None,
        "cancel_requested_at": None,
        "results_generation": 1,
        "held_at": None,
        "deadline_at_risk_since": None,
        "deadline_missed_at": None,
        "raised_priority": None,
        "parked_at": None,
        "last_error": None,
    }
).model_dump(mode="json")

SCHEMAS: dict[str, Any] = {
    "JobView": JOB,
    "Retry": {"custom_ids": ["two"]},
    "NewProducer": {"name": "search", "stored_bytes": 50_000_000_000},
    "ProducerFields": {"requests_per_day": 2_000_000, "stored_bytes": 50_000_000_000},
    "FailureView": {
        "custom_id": "two",
        "code": "invalid_request",
        "message": "Invalid model",
        "attempts": 1,
    },
}
"""By the name of the schema."""

PARAMETERS: dict[str, Any] = {
    "job_id": JOB["id"],
    "limit": 100,
    "cursor": "WyJldmVudCIsMTJd",
    "state": ["running"],
    "partial": True,
    "account": SPEC_FIELDS["account"],
    "Idempotency-Key": SPEC_FIELDS["idempotency_key"],
}
"""By the name of the parameter. `spec_fields` adds those that follow from a spec's fields."""
