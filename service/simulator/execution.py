"""Executing a batch: an input file goes in, output and error files come out, and the books.

Runs in a thread and keeps no lines: it holds where each begins, takes them in a shuffled order
from the mapped file, and writes what they come to.
"""

import mmap
import random
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from service.simulator import answers, wire
from service.simulator.outages import Outage, lasting
from service.simulator.rows import LineBooking
from service.simulator.scenario import LineRule, Scenario
from service.simulator.validation import model_of

BUFFER = 1 << 20


class _Answered(msgspec.Struct, gc=False, omit_defaults=True, kw_only=True):
    id: str | None = None
    custom_id: str
    response: dict[str, Any]


class _Failed(msgspec.Struct, gc=False, omit_defaults=True, kw_only=True):
    id: str | None = None
    custom_id: str
    error: dict[str, str]


@dataclass(frozen=True)
class Product:
    """What executing a batch left. `output` and `errors` tell whether those files have a line."""

    output: bool
    errors: bool
    bookings: list[LineBooking]


@dataclass
class _Run:
    """One execution under way."""

    batch_id: str
    endpoint: str
    scenario: Scenario
    executions: Callable[[str], int]
    output: BinaryIO
    errors: BinaryIO
    bookings: list[LineBooking] = field(default_factory=list)
    encoder: msgspec.json.Encoder = field(default_factory=msgspec.json.Encoder)
    refused_models: frozenset[str] = frozenset()
    outages: tuple[Outage, ...] = ()


def execute(
    *,
    batch_id: str,
    endpoint: str,
    share: float,
    scenario: Scenario,
    executions: Callable[[str], int],
    source: Path,
    output: Path,
    errors: Path,
) -> Product:
    """Execute a share of a file's lines, the first of the shuffled order.

    `executions` tells how often a custom_id was executed before. Both result files are written,
    empty where they have no line.
    """
    with (
        source.open("rb") as opened,
        output.open("wb", BUFFER) as good,
        errors.open("wb", BUFFER) as bad,
    ):
        run = _Run(batch_id, endpoint, scenario, executions, good, bad)
        run.outages = lasting(scenario.outages, "lines", wire.now())
        run.refused_models = frozenset(scenario.switches.refused_models)
        if source.stat().st_size > 0:
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
                for line in _shuffled(content, batch_id, share):
                    _execute_line(run, line)
        sizes = good.tell(), bad.tell()
    if not scenario.switches.trailing_newline:
        for path, size in zip((output, errors), sizes, strict=True):
            if size:
                with path.open("r+b") as file:
                    file.truncate(size - 1)
    return Product(sizes[0] > 0, sizes[1] > 0, run.bookings)


def _shuffled(content: mmap.mmap, batch_id: str, share: float) -> Iterator[bytes]:
    starts = array("q")
    position, size = 0, len(content)
    while position < size:
        starts.append(position)
        end = content.find(b"\n", position)
        position = size if end < 0 else end + 1
    random.Random(batch_id).shuffle(starts)  # noqa: S311 - an order, no secret
    for start in starts[: round(share * len(starts))]:
        end = content.find(b"\n", start)
        line = content[start : size if end < 0 else end]
        if line.strip():
            yield line


def _execute_line(run: _Run, line: bytes) -> None:
    custom_id = msgspec.json.decode(line, type=_CustomId).custom_id
    for outage in run.outages:
        if outage.hits_line(custom_id, line) and outage.hits_model(model_of(line)):
            return _fail(run, custom_id, answers.CLIENT_ERROR, outage.message)
    rule = _rule(run, custom_id, line)
    if rule is not None and rule.effect == "error":
        return _fail(run, custom_id, rule.code, rule.message)
    if rule is not None and rule.effect == "missing":
        run.bookings.append(LineBooking(custom_id, 0, 0))
        return None
    try:
        answer = answers.respond(
            answers.read(line), run.endpoint, refused_models=run.refused_models
        )
    except answers.Refused as refusal:
        return _fail(run, custom_id, answers.CLIENT_ERROR, str(refusal))
    if rule is None:
        return _succeed(run, custom_id, _output_line(run, custom_id, answer))
    return _misbehave(run, custom_id, answer, rule)


class _CustomId(msgspec.Struct, gc=False):
    custom_id: str


def _rule(run: _Run, custom_id: str, line: bytes) -> LineRule | None:
    for rule in run.scenario.lines:
        if rule.effect == "poison" or not rule.matches(custom_id, line):
            continue
        if rule.times is None or run.executions(custom_id) < rule.times:
            return rule
    return None


def _misbehave(
    run: _Run,
    custom_id: str,
    answer: answers.ChatCompletion | answers.Transcript,
    rule: LineRule,
) -> None:
    """Write a good answer in a bad way."""
    good = _output_line(run, custom_id, answer)
    match rule.effect:
        case "duplicate":
            _succeed(run, custom_id, good + b"\n" + good)
        case "broken":
            _succeed(run, custom_id, good.replace(b'"response":', b'"response" ', 1))
        case "truncated":
            _succeed(run, custom_id, good[: len(good) // 2])
        case "stranger":
            _succeed(run, custom_id, good)
            stranger = f"stranger-{answers.fingerprint(run.batch_id, custom_id)}"
            run.output.write(_output_line(run, stranger, answer) + b"\n")
        case "error_in_output":
            run.output.write(_error_line(run, custom_id, rule.code, rule.message) + b"\n")
            run.bookings.append(LineBooking(custom_id, 0, 1))
        case "bad_status":
            error = {"message": rule.message, "code": rule.code}
            body = {"status_code": rule.status, "body": {"error": error}}
            run.output.write(_encoded_answer(run, custom_id, body) + b"\n")
            run.bookings.append(LineBooking(custom_id, 0, 1))
        case "both_files":
            _succeed(run, custom_id, good)
            run.errors.write(_error_line(run, custom_id, rule.code, rule.message) + b"\n")
        case "empty_length" | "tool_call" | "no_choices":
            if isinstance(answer, answers.ChatCompletion):
                choices = answers.CHOICES[rule.effect]
                good = _output_line(run, custom_id, answers.with_choices(answer, choices))
            _succeed(run, custom_id, good)


def _succeed(run: _Run, custom_id: str, line: bytes) -> None:
    run.output.write(line + b"\n")
    run.bookings.append(LineBooking(custom_id, 1, 0))


def _fail(run: _Run, custom_id: str, code: str, message: str) -> None:
    run.errors.write(_error_line(run, custom_id, code, message) + b"\n")
    run.bookings.append(LineBooking(custom_id, 0, 1))


def _output_line(
    run: _Run, custom_id: str, answer: answers.ChatCompletion | answers.Transcript
) -> bytes:
    if not run.scenario.switches.odd_types:
        return _encoded_answer(run, custom_id, {"status_code": 200, "body": answer})
    body = msgspec.to_builtins(answer)
    if "usage" in body:
        body["usage"] = {name: str(tokens) for name, tokens in body["usage"].items()}
    return _encoded_answer(run, custom_id, {"status_code": "200", "body": body})


def _encoded_answer(run: _Run, custom_id: str, response: dict[str, Any]) -> bytes:
    line_id = _line_id(run, custom_id)
    return run.encoder.encode(_Answered(id=line_id, custom_id=custom_id, response=response))


def _error_line(run: _Run, custom_id: str, code: str, message: str) -> bytes:
    error = {"code": code, "message": message}
    line_id = _line_id(run, custom_id)
    return run.encoder.encode(_Failed(id=line_id, custom_id=custom_id, error=error))


def _line_id(run: _Run, custom_id: str) -> str | None:
    if not run.scenario.switches.line_ids:
        return None
    return f"br_{answers.fingerprint(run.batch_id, custom_id)}"
