"""The batch spec: what a producer may ask for, checked to the last field."""

import hashlib
import re
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any

import msgspec

from service.rules.budgets import cost_problems
from service.rules.canary import canary_problems
from service.rules.checks import check_problem
from service.rules.deadlines import OnDeadline, deadline_problems
from service.rules.encoding import BOM, NotUtf8, check_utf8, json_trouble
from service.rules.errors import MOST_PROBLEMS, BadInput, Problem
from service.rules.kinds import HEAD, binary_kind, spec_kind
from service.rules.metadata import metadata_problems
from service.rules.names import trouble_with
from service.rules.notices import notice_problems
from service.rules.permissions import Permissions, may_read
from service.rules.prices import written
from service.rules.requests import ENDPOINTS

SPEC_BYTES = 32_000_000
"""A JSON spec's most bytes; more goes in as JSONL."""
SPEC_REQUESTS = 400_000
"""A JSON spec's most requests: with fewer bytes for each, they hardly ask anything."""
ENVELOPE_BYTES = 1_000_000
"""The most bytes of a spec as it was written, but for its requests."""
MOST_CANARY = 100_000


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A batch spec as JSON. `requests` are kept as they were written."""

    endpoint: str
    requests: list[msgspec.Raw] | None = None
    input: str | None = None
    idempotency_key: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None
    account: str = "default"
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    priority: Annotated[int, msgspec.Meta(ge=-1000, le=1000)] = 0
    metadata: dict[str, Any] = {}
    notify: list[dict[str, Any]] = []
    check: str | dict[str, Any] | list[Any] | None = None
    canary: Annotated[int, msgspec.Meta(ge=1, le=MOST_CANARY)] | None = None
    canary_failures: Annotated[int, msgspec.Meta(ge=0, lt=MOST_CANARY)] | None = None
    max_cost: Decimal | None = None
    deadline: str | float | None = None
    on_deadline: OnDeadline | None = None

    def envelope(self) -> bytes:
        """Everything but the requests, in one fixed form.

        A field that came later is left out where it is not given: the fingerprints of jobs that
        were submitted before it must not change.
        """
        fields = {k: v for k, v in msgspec.structs.asdict(self).items() if k != "requests"}
        del fields["idempotency_key"]
        for name in _LATER:
            if fields[name] is None:
                del fields[name]
        if self.max_cost is not None:
            fields["max_cost"] = written(self.max_cost)
        return msgspec.json.encode(fields, order="deterministic")


_LATER = ("check", "canary", "canary_failures", "max_cost", "deadline", "on_deadline")


_spec = msgspec.json.Decoder(Spec)

# A few bytes of JSON can become an object of a hundred. So a large spec is taken apart first: then
# all but its requests is small, and the requests are counted before there is an object for each.


class _Parts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of a spec as they were written."""

    endpoint: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    requests: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    idempotency_key: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    account: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    max_attempts: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    priority: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    metadata: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    notify: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    check: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    canary: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    canary_failures: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    max_cost: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    deadline: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    on_deadline: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Counted(msgspec.Struct, gc=False):
    """Stands for a request while they are counted."""

    def __post_init__(self) -> None:
        _counting.left -= 1
        if _counting.left < 0:
            raise ValueError(f"a JSON spec may have {SPEC_REQUESTS:,} requests")


class _Counting(threading.local):
    left = 0


_counting = _Counting()
_parts = msgspec.json.Decoder(_Parts)
_counted = msgspec.json.Decoder(list[_Counted] | None)
_requests = msgspec.json.Decoder(list[msgspec.Raw] | None)

_LINE_BREAK = re.compile(rb"[\r\n]")


def read_spec(data: bytes | bytearray, permissions: Permissions) -> Spec:
    """A spec with its requests or its input. Raises BadInput."""
    if len(data) > SPEC_BYTES:
        raise BadInput(
            [
                Problem(
                    f"a JSON spec may have {SPEC_BYTES:,} bytes; send the requests as JSONL"
                    " (application/x-ndjson), or point `input` at them"
                )
            ],
            too_large=True,
        )
    try:
        spec = _read(data.removeprefix(BOM) if data.startswith(BOM) else data)
    except msgspec.ValidationError as error:
        raise BadInput([Problem(f"the spec is not valid: {error}{_hint(data)}")]) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadInput([Problem(f"the spec {_trouble(data, error)}")]) from None
    problems = envelope_problems(spec, permissions)
    if spec.requests is None and spec.input is None:
        problems.append(Problem("`requests` or `input` is missing"))
    if spec.requests is not None and spec.input is not None:
        problems.append(Problem("give `requests` or `input`, not both"))
    if problems:
        raise BadInput(problems[:MOST_PROBLEMS])
    return spec


def _read(data: bytes | bytearray) -> Spec:
    """Raises BadInput and what msgspec raises."""
    if len(data) > ENVELOPE_BYTES:
        return _decoded(data)
    try:
        return _spec.decode(data)
    except msgspec.ValidationError:
        return _decoded(data)  # a field may be null


def _hint(data: bytes | bytearray) -> str:
    kind = spec_kind(bytes(data[:HEAD]))
    return "" if kind is None else f" (it is {kind})"


def _trouble(data: bytes | bytearray, error: Exception) -> str:
    """Return what keeps data from being a spec."""
    kind = binary_kind(bytes(data[:HEAD]))
    if kind is not None:
        return f"is {kind}"
    try:
        check_utf8(data)
    except NotUtf8 as fault:
        return str(fault)
    if not data.strip():
        return "is not JSON: the body is empty"
    text = data.removeprefix(BOM)
    return json_trouble(text, error, skipped=len(data) - len(text)) + _hint(data)


def _decoded(data: bytes | bytearray) -> Spec:
    """A large spec, or one with a null that means a field was left out.

    Raises BadInput and what msgspec raises.
    """
    parts = _parts.decode(data)
    left_out = {
        name: msgspec.UNSET
        for name, written in msgspec.structs.asdict(parts).items()
        if isinstance(written, msgspec.Raw) and bytes(memoryview(written)[:5]) == b"null"
    }
    parts = msgspec.structs.replace(parts, **left_out)
    envelope = msgspec.json.encode(msgspec.structs.replace(parts, requests=msgspec.UNSET))
    if len(envelope) > ENVELOPE_BYTES:
        words = f"a spec without its requests may have {ENVELOPE_BYTES:,} bytes"
        raise BadInput([Problem(f"{words}; shorten `metadata` or `notify`")], too_large=True)
    spec = _spec.decode(envelope)
    if isinstance(parts.requests, msgspec.UnsetType):
        return spec
    written = memoryview(parts.requests)
    try:
        if data.count(b",") >= SPEC_REQUESTS:
            _counting.left = SPEC_REQUESTS
            _counted.decode(written)
        return msgspec.structs.replace(spec, requests=_requests.decode(written))
    except msgspec.ValidationError as error:
        raise BadInput([Problem(f"the spec is not valid: `requests`: {error}")]) from None


def envelope_problems(spec: Spec, permissions: Permissions) -> list[Problem]:
    """Return what is wrong with a spec, requests aside."""
    problems = []
    if spec.endpoint not in ENDPOINTS:
        problems.append(
            Problem(f"endpoint {spec.endpoint!r} cannot be batched; use {', '.join(ENDPOINTS)}")
        )
    if spec.account not in permissions.accounts:
        problems.append(Problem(f"account {spec.account!r} is not yours or does not exist"))
    if spec.input is not None and not may_read(spec.input, permissions.input_roots):
        problems.append(
            Problem(f"input {spec.input!r} does not lie under one of the allowed input roots")
        )
    if permissions.priorities is not None:
        lowest, highest = permissions.priorities
        if not lowest <= spec.priority <= highest:
            words = f"`priority` {spec.priority} is not yours; use {lowest} to {highest}"
            problems.append(Problem(words))
    problems += map(
        Problem,
        notice_problems(
            spec.notify,
            tasks=permissions.notice_tasks,
            queues=permissions.notice_queues,
            private=permissions.private_webhooks,
        ),
    )
    problems += _answer_problems(spec)
    problems += _name_problems(spec)
    problems += map(Problem, metadata_problems(spec.metadata))
    problems += map(Problem, deadline_problems(spec.deadline, spec.on_deadline))
    try:
        if _has_nul(msgspec.structs.replace(spec, requests=None)):
            problems.append(Problem("the spec holds a NUL character (\\u0000)"))
    except RecursionError:
        problems.append(Problem("the spec nests too deep"))
    return problems


def _answer_problems(spec: Spec) -> Iterator[Problem]:
    """Yield what is wrong with what a spec asks of answers."""
    if spec.check is not None and (trouble := check_problem(spec.check)) is not None:
        yield Problem(trouble)
    yield from map(Problem, canary_problems(spec.canary, spec.canary_failures))
    yield from map(Problem, cost_problems(spec.max_cost))


def _name_problems(spec: Spec) -> Iterator[Problem]:
    for what in ("idempotency_key", "account", "input"):
        if trouble := trouble_with(getattr(spec, what) or ""):
            yield Problem(f"`{what}` {trouble}")


def _has_nul(spec: Spec) -> bool:
    """Postgres cannot keep it in text or JSON."""
    return b"\\u0000" in msgspec.json.encode(spec)


def request_lines(spec: Spec) -> Iterator[bytes]:
    """The requests of a JSON spec, one line each, as they were written but for line breaks.

    Raises BadInput.
    """
    for line, raw in enumerate(spec.requests or [], start=1):
        data = bytes(raw)
        try:
            yield msgspec.json.format(data, indent=-1) if _LINE_BREAK.search(data) else data
        except RecursionError:
            raise BadInput([Problem("nests too deep", line)]) from None


def fingerprint(spec: Spec, lines_sha256: str) -> str:
    """Return the fingerprint of a submission: of its envelope and its request lines."""
    return hashlib.sha256(spec.envelope() + b"\n" + lines_sha256.encode()).hexdigest()


def canonical(line: bytes) -> bytes:
    """A request of a JSON spec with its keys in a fixed order."""
    try:
        return msgspec.json.encode(msgspec.json.decode(line), order="deterministic")
    except (msgspec.DecodeError, RecursionError):
        # JSON that no number or stack of ours can hold (1e999): as it was written.
        return line
