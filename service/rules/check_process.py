"""The process in which schemas and expressions are run: `python -m service.rules.check_process`.

Nothing can interrupt a schema that takes years but the end of its process. So each answer has so
much processor time, and then the kernel ends the process: the answer without a reply is the one
that took too long. No clock on the wall is involved, so a busy machine fails no answer.
"""

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Sequence

import jsonschema_rs
import msgspec

from service.rules.checks import JSON_SCHEMA, NOT_JSON, REASON, REGEX, Costly, compiled

SECONDS = 1.0
"""The most processor time for one answer."""
MEMORY = 2 << 30
"""The most bytes of address space."""


class Asked(msgspec.Struct, array_like=True):
    """An answer's texts, and the number of its check. `costly` is given with the first of each."""

    check: int
    texts: list[str]
    costly: list[tuple[str, bytes]] | None = None


class Reply(msgspec.Struct, array_like=True):
    """Why the answer fails; None if it does not. It is `stopped` if that is not known."""

    reason: str | None = None
    stopped: bool = False


Validators = Sequence[tuple[str, jsonschema_rs.Validator]]


def main() -> None:
    """Answer on stdout, one by one, what comes in on stdin."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    known: dict[int, Validators] = {}
    read = sys.stdin.buffer.read
    while head := read(4):
        asked = msgspec.msgpack.decode(read(int.from_bytes(head)), type=Asked)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            if asked.costly is not None:
                known[asked.check] = [_validator(*each) for each in asked.costly]
            reply = Reply(_reason(known[asked.check], asked.texts))
        except (MemoryError, RecursionError, ValueError):
            reply = Reply(stopped=True)
        signal.setitimer(signal.ITIMER_PROF, 0)
        data = msgspec.msgpack.encode(reply)
        os.write(sys.stdout.fileno(), len(data).to_bytes(4) + data)


def _validator(kind: str, value: bytes) -> tuple[str, jsonschema_rs.Validator]:
    return kind, compiled(Costly(kind, msgspec.json.decode(value)))


def _reason(validators: Validators, texts: Sequence[str]) -> str | None:
    """Return why an answer fails. It never quotes the answer."""
    for number, text in enumerate(texts, start=1):
        for kind, validator in validators:
            reason = _broken(kind, validator, text)
            if reason is not None:
                where = f"text {number}: " if len(texts) > 1 else ""
                return f"{where}{reason}"[:REASON]
    return None


def _broken(kind: str, validator: jsonschema_rs.Validator, text: str) -> str | None:
    if kind == REGEX:
        return None if validator.is_valid(text) else "it does not match `regex`"
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return NOT_JSON
    if validator.is_valid(value):
        return None
    try:
        validator.validate(value)
    except jsonschema_rs.ValidationError as error:
        paths = (error.instance_path, error.schema_path)
        where, rule = ("/".join(map(str, path)) for path in paths)
        return f"its /{where} breaks the rule /{rule} of `{JSON_SCHEMA}`"
    raise ValueError("the schema says one thing and the other")


if __name__ == "__main__":
    main()
