"""What comes back."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

ENDED = frozenset({"completed", "cancelled", "rejected", "failed"})


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


@dataclass(frozen=True)
class Forecast:
    """By when a job ends with 50 % and with 90 %, or the reason why nobody can tell."""

    p50: datetime | None = None
    p90: datetime | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Job:
    """A job as it stood when it was asked for. `raw` is everything that the API shows of it."""

    id: UUID
    state: str
    endpoint: str
    account: str
    producer: str
    total: int
    succeeded: int
    failed: int
    pending: int
    usage: Usage
    created_at: datetime
    finished_at: datetime | None
    error: str | None
    metadata: dict[str, Any]
    raw: dict[str, Any] = field(repr=False, compare=False)

    @property
    def forecast(self) -> Forecast | None:
        """When the job will be done; None once it has ended."""
        shown = self.raw.get("forecast")
        if not isinstance(shown, dict):
            return None
        p50, p90 = (shown.get(name) for name in ("p50", "p90"))
        return Forecast(
            p50=datetime.fromisoformat(p50) if p50 else None,
            p90=datetime.fromisoformat(p90) if p90 else None,
            reason=shown.get("reason"),
        )

    @property
    def ended(self) -> bool:
        return self.state in ENDED


@dataclass(frozen=True)
class Failure:
    """A request that failed for good."""

    custom_id: str
    code: str
    message: str
    attempts: int


@dataclass(frozen=True)
class Result:
    """What became of one request: `body` is the model's answer, or `error` says why there is none.

    `text` is the answer's text: a chat's first choice, or a transcription. `tool_calls` are the
    calls of tools that the first choice makes, as they came.
    """

    custom_id: str
    body: dict[str, Any] | None
    error: Failure | None
    raw: dict[str, Any] = field(repr=False, compare=False)

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def answer(self) -> dict[str, Any] | None:
        """The answer that was paid for, if the request failed because of its job's `check`."""
        return self.raw.get("answer")

    @property
    def text(self) -> str | None:
        if not isinstance(self.body, dict):
            return None
        try:
            text = self.body["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            text = self.body.get("text")
        return text if isinstance(text, str) else None

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        try:
            calls = (self.body or {})["choices"][0]["message"]["tool_calls"]
        except (KeyError, IndexError, TypeError):
            return []
        return calls if isinstance(calls, list) else []


def read_job(shown: dict[str, Any]) -> Job:
    same = ("state", "endpoint", "account", "producer", "total", "succeeded", "failed", "pending")
    finished = shown.get("finished_at")
    return Job(
        id=UUID(shown["id"]),
        **{name: shown[name] for name in same},
        usage=Usage(**{name: shown["usage"].get(name, 0) for name in Usage.__annotations__}),
        created_at=datetime.fromisoformat(shown["created_at"]),
        finished_at=datetime.fromisoformat(finished) if finished else None,
        error=shown.get("error"),
        metadata=shown.get("metadata") or {},
        raw=shown,
    )


def read_failure(shown: dict[str, Any]) -> Failure:
    return Failure(shown["custom_id"], shown["code"], shown["message"], shown["attempts"])


def read_result(line: bytes) -> Result:
    raw = json.loads(line)
    custom_id, error = raw["custom_id"], raw.get("error")
    if error is not None:
        failure = Failure(
            custom_id, error.get("code", ""), error.get("message", ""), raw.get("attempts", 0)
        )
        return Result(custom_id, None, failure, raw)
    return Result(custom_id, raw["response"]["body"], None, raw)
