"""What `check` in a spec asks of every answer: reading it, and refusing what cannot be checked.

A check is a name, a JSON Schema, a regular expression, or a list of these, all of which must hold.
What a schema or an expression costs cannot be known from its text: two references to the same
definition, nested forty times, take years. So they are compiled here, which is cheap, and run in a
process of their own, which can be stopped (`service.stages.checker`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import jsonschema_rs
import msgspec

CHECK_BYTES = 32_768
"""The most bytes of a check as JSON."""
CHECK_DEPTH = 64
"""The most levels of containers in it."""
MOST_CHECKS = 10
REGEX_BYTES = 100_000
"""The most bytes of a compiled expression."""
LARGEST = 1e300
"""The largest number in a schema."""
REASON = 300
"""The most characters of the reason why an answer fails."""

FAILED = "check_failed"
"""The code of an answer that fails its check."""
UNCHECKED = "check_stopped"
"""The code of an answer whose check takes too long."""


class Named(StrEnum):
    """The checks that need no parameter."""

    COMPLETE = "complete"  # the token limit did not cut it
    NONEMPTY = "nonempty"  # it says something, or calls a tool
    JSON = "json"


JSON_SCHEMA = "json_schema"
REGEX = "regex"
NOT_JSON = "it is not JSON"
FORMS = '"complete", "nonempty", "json", {"json_schema": {…}}, {"regex": "…"} or a list of these'
WHY = {
    Named.COMPLETE: "it was cut by the token limit",
    Named.NONEMPTY: "it is empty",
    Named.JSON: NOT_JSON,
}


@dataclass(frozen=True)
class Said:
    """What an answer says, as far as a check looks at it.

    `texts` holds one text for each choice: its content, or, where it calls tools, the arguments of
    each call.
    """

    texts: tuple[str, ...]
    is_cut: bool = False
    is_empty: bool = False


@dataclass(frozen=True)
class Costly:
    """A schema or an expression."""

    kind: str
    value: Any


@dataclass(frozen=True)
class Check:
    """A check that was read: its names, and what must run in a process of its own."""

    names: frozenset[Named]
    costly: tuple[Costly, ...] = ()

    def reason(self, said: Said) -> str | None:
        """Return why an answer fails the names, or None if it does not."""
        if Named.COMPLETE in self.names and said.is_cut:
            return WHY[Named.COMPLETE]
        if Named.NONEMPTY in self.names and said.is_empty:
            return WHY[Named.NONEMPTY]
        if Named.JSON in self.names and not all(map(is_json, said.texts)):
            return WHY[Named.JSON]
        return None


class BadCheck(ValueError):
    """Says what is wrong with a check, for the person who wrote it."""


def check_problem(value: Any) -> str | None:
    """Return what is wrong with the `check` of a spec, or None."""
    try:
        read_check(value)
    except BadCheck as error:
        return f"`check` {error}"
    return None


def read_check(value: Any) -> Check:
    """Read the `check` of a spec. Raises BadCheck."""
    _bound(value)
    asked = value if isinstance(value, list) else [value]
    if not asked or len(asked) > MOST_CHECKS:
        raise BadCheck(f"takes 1 to {MOST_CHECKS} checks; leave it out to have none")
    names, costly = set(), []
    for one in asked:
        if isinstance(one, dict):
            costly.append(_costly(one))
        else:
            names.add(_named(one))
    for each in costly:
        compiled(each)
    return Check(frozenset(names), tuple(costly))


def _bound(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > CHECK_DEPTH:
            raise BadCheck(f"may nest {CHECK_DEPTH} levels deep; make it flatter")
        for number in level:
            if isinstance(number, int | float) and not -LARGEST <= number <= LARGEST:
                raise BadCheck("holds a number that is out of range; use one below 1e300")
        level = [inner for outer in level for inner in _inner(outer)]
    size = len(msgspec.json.encode(value))
    if size > CHECK_BYTES:
        raise BadCheck(f"has {size:,} bytes as JSON; it may have {CHECK_BYTES:,}")


def _inner(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()


def _named(value: Any) -> Named:
    try:
        return Named(value)
    except ValueError:
        raise BadCheck(f"{str(value)[:100]!r} is unknown; use {FORMS}") from None


def _costly(value: dict[str, Any]) -> Costly:
    if set(value) == {REGEX} and isinstance(value[REGEX], str):
        return Costly(REGEX, value[REGEX])
    if set(value) == {JSON_SCHEMA} and isinstance(value[JSON_SCHEMA], dict | bool):
        for reference in _references(value[JSON_SCHEMA]):
            if not reference.startswith("#"):
                words = f"refers to {reference[:100]!r}; nothing is fetched, so use #/$defs/…"
                raise BadCheck(words)
        return Costly(JSON_SCHEMA, value[JSON_SCHEMA])
    raise BadCheck(f"has an object with {sorted(value)[:5]}; use {FORMS}")


def _references(schema: Any) -> Iterator[str]:
    """Yield what a schema refers to."""
    level = [schema]
    while level:
        for each in level:
            if isinstance(each, dict):
                for name in ("$ref", "$dynamicRef", "$recursiveRef"):
                    if isinstance(each.get(name), str):
                        yield each[name]
        level = [inner for outer in level for inner in _inner(outer)]


def _nothing(uri: str) -> Any:
    raise BadCheck(f"refers to {uri[:100]!r}; nothing is fetched, so use #/$defs/…")


_validator_for = partial(
    jsonschema_rs.validator_for,
    # An engine whose time is linear in the text. It knows no lookaround and no backreferences.
    pattern_options=jsonschema_rs.RegexOptions(size_limit=REGEX_BYTES),
    retriever=_nothing,
    validate_formats=False,
)


def compiled(costly: Costly) -> jsonschema_rs.Validator:
    """Compile a schema or an expression. Raises BadCheck."""
    schema = costly.value
    if costly.kind == REGEX:
        schema = {"type": "string", "pattern": schema}
    try:
        return _validator_for(schema)
    except jsonschema_rs.ValidationError as error:
        where = "/".join(map(str, error.instance_path))
        words = error.message[:REASON]
        if "regex" in words:
            words += "; it may have no lookaround, no backreference and no large repetition"
        kind = "`regex`" if costly.kind == REGEX else f"`json_schema` (/{where})"
        raise BadCheck(f"{kind} cannot be used: {words}") from None
    except (ValueError, RecursionError) as error:
        raise BadCheck(f"`{costly.kind}` cannot be used: {str(error)[:REASON]}") from None


def is_json(text: str) -> bool:
    """Whether all of a text is JSON."""
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False
    return True


def canonical_check(value: Any) -> bytes:
    """Return a check as JSON that is equal for equal checks."""
    return msgspec.json.encode(value, order="deterministic")
