"""What requests and answers look like, for the OpenAPI document. Real ones; a test sends them."""

from typing import Any

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

LINES = (
    '{"custom_id": "one", "body": {"model": "meta-llama/Llama-3.3-70B-Instruct-Turbo", '
    '"messages": [{"role": "user", "content": "Say one"}]}}\n'
    '{"custom_id": "two", "body": {"model": "meta-llama/Llama-3.3-70B-Instruct-Turbo", '
    '"messages": [{"role": "user", "content": "Say two"}]}}\n'
)

RESULTS = (
    '{"custom_id": "one", "response": {"status_code": 200, "body": {"choices": [{"index": 0, '
    '"message": {"role": "assistant", "content": "One"}, "finish_reason": "stop"}]}}}\n'
    '{"custom_id": "two", "error": {"code": "invalid_request", "message": "Invalid model"}, '
    '"attempts": 1}\n'
)

JOB: dict[str, Any] = {
    "id": "9638ae03-6e0d-4714-8760-1238658ee075",
    "state": "completed",
    "endpoint": "/v1/chat/completions",
    "account": "default",
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
    "metadata": {"team": "search"},
    "priority": 0,
    "max_attempts": 3,
    "input": None,
    "idempotency_key": "nightly-2026-11-22",
    "problems": None,
    "cancel_requested_at": None,
    "results_generation": 1,
    "parked_at": None,
    "last_error": None,
}

BODIES: dict[str, Any] = {
    "application/json": SPEC,
    "application/x-ndjson": LINES,
}

SCHEMAS: dict[str, Any] = {
    "JobView": JOB,
    "Retry": {"custom_ids": ["two"]},
    "NewProducer": {"name": "search"},
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
    "endpoint": "/v1/chat/completions",
    "account": "default",
    "max_attempts": 3,
    "priority": 0,
    "idempotency_key": "nightly-2026-11-22",
    "metadata": '{"team": "search"}',
    "notify": "[]",
    "Idempotency-Key": "nightly-2026-11-22",
}
"""By the name of the parameter."""
