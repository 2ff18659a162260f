"""The search for jobs: qualifiers such as `state:running producer:billing age:<2d`."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from service.rules.states import JobState
from service.store.search import Asked, Waiting

_WORD = re.compile(r'(?:[^\s"]|"[^"]*"?)+')
_AGE = re.compile(r"([<>])(\d{1,6})(min|[smhdw])", re.ASCII)
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_NUMBER = re.compile(r"(>=|<=|>|<|)(\d{1,12})", re.ASCII)
_ID = re.compile(r"[0-9a-f-]{4,36}")
LONGEST = 1000

QUALIFIERS = {
    "state": ", ".join(JobState),
    "producer": "whose it is",
    "model": "a part of the model's name",
    "account": "the account at Together",
    "failed": "failed requests: >0, <10, 3",
    "requests": "all requests: >1000",
    "age": "since it was submitted: <2d, >3h",
    "waiting": ", ".join(Waiting),
    "metadata.": "a mark that its producer gave it: metadata.team:search",
    "is": "call: jobs that came as ordinary calls",
    "id": "the beginning of its id",
}
"""What can be asked for, and how."""


@dataclass
class Search:
    """What was asked for. `problems` say which words could not be read; these are left out."""

    fields: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    problems: list[str] = field(default_factory=list)

    def asked(self, models: Sequence[str]) -> Asked:
        """Return it for the store, which knows models by their whole names."""
        if self.model is None:
            return Asked(**self.fields)
        part = self.model.lower()
        return Asked(**self.fields, models=[name for name in models if part in name.lower()])


def words_of(text: str) -> list[str]:
    """Split a search into its words; quotes hold a word together."""
    return _WORD.findall(text[:LONGEST].replace("\x00", ""))


def read_search(text: str, now: datetime | None = None) -> Search:
    """Return what a search asks for."""
    found = Search()
    for word in words_of(text):
        name, colon, value = word.partition(":")
        if not colon:
            name, value = "id", word
        trouble = _read(found, name, value.replace('"', ""), now or datetime.now(UTC))
        if trouble:
            found.problems.append(trouble)
    return found


def _read(found: Search, name: str, value: str, now: datetime) -> str | None:
    """Read one word. Returns what is wrong with it."""
    key = name.removeprefix("metadata.")
    if key != name and key:
        found.fields.setdefault("marks", []).append({key: value})
        return None
    if name not in _READERS:
        return f"there is no qualifier {name!r}; there are {', '.join(QUALIFIERS)}"
    fields = _READERS[name](value, now) if value else None
    if fields is not None:
        for field_name, read in fields.items():
            if isinstance(read, list):
                found.fields.setdefault(field_name, []).extend(read)
            elif field_name == "model":
                found.model = read
            else:
                found.fields[field_name] = read
        return None
    if name == "id":
        return f"{value!r} is no qualifier such as state:running, and no id begins so"
    return f"{name}:{value} cannot be read; write {name}: and one of {QUALIFIERS[name]}"


Fields = dict[str, Any] | None
"""Fields of `service.store.search.Asked`; None for a value that cannot be read."""


def _state(value: str, _now: datetime) -> Fields:
    return {"states": [JobState(value)]} if value in list(JobState) else None


def _waiting(value: str, _now: datetime) -> Fields:
    return {"waiting": [Waiting(value)]} if value in list(Waiting) else None


def _age(value: str, now: datetime) -> Fields:
    age = _AGE.fullmatch(value)
    if age is None:
        return None
    try:
        at = now - timedelta(seconds=int(age[2]) * _UNITS[age[3]])
    except OverflowError:
        return None
    return {"created_from" if age[1] == "<" else "created_before": at}


def _id(value: str, _now: datetime) -> Fields:
    digits = value.lower().replace("-", "")
    is_one = _ID.fullmatch(value.lower()) and 4 <= len(digits) <= 32
    return {"id_begins": digits} if is_one else None


def _number(field_name: str) -> Callable[[str, datetime], Fields]:
    def read(value: str, _now: datetime) -> Fields:
        bounds = _bounds(value)
        return None if bounds is None else {field_name: bounds}

    return read


def _text(field_name: str) -> Callable[[str, datetime], Fields]:
    return lambda value, _now: {field_name: value}


_READERS: dict[str, Callable[[str, datetime], Fields]] = {
    "state": _state,
    "producer": _text("producer"),
    "model": _text("model"),
    "account": _text("account"),
    "failed": _number("failed"),
    "requests": _number("total"),
    "age": _age,
    "waiting": _waiting,
    "is": lambda value, _now: {"calls": True} if value == "call" else None,
    "id": _id,
}


def _bounds(value: str) -> tuple[int, int | None] | None:
    read = _NUMBER.fullmatch(value)
    if read is None:
        return None
    number = int(read[2])
    match read[1]:
        case ">":
            return number + 1, None
        case ">=":
            return number, None
        case "<":
            return 0, number - 1
        case "<=":
            return 0, number
        case _:
            return number, number


# --- suggestions ---------------------------------------------------------------------------------

MOST = 12


@dataclass(frozen=True)
class Suggestion:
    """What the search would be, and what is shown of it."""

    completes: str
    word: str
    hint: str = ""


def suggest(
    text: str, values: Mapping[str, Sequence[str]], marks: Sequence[Mapping[str, Any]]
) -> list[Suggestion]:
    """Return how the last word of a search could go on.

    `values` are known ones by qualifier, `marks` the metadata of some jobs.
    """
    text = text[:LONGEST]
    words = words_of(text)
    last = words[-1] if words and not text[-1:].isspace() else ""
    before = text[: len(text) - len(last)] if last else text
    name, colon, begun = last.partition(":")
    if not colon:
        found = _names(name, marks)
    elif name.startswith("metadata."):
        some = {str(mark.get(name[9:])) for mark in marks if _is_plain(mark.get(name[9:]))}
        found = [(f"{name}:{_quoted(value)}", "") for value in sorted(some)]
    else:
        found = [(f"{name}:{_quoted(value)}", "") for value in values.get(name, ())]
    part = begun.strip('"').lower()
    return [
        Suggestion(before + word + ("" if word.endswith((":", ".")) else " "), word, hint)
        for word, hint in found
        if not colon or part in word.partition(":")[2].lower()
    ][:MOST]


def _names(begun: str, marks: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    if begun.startswith("metadata."):
        keys = sorted({key for mark in marks for key in mark if _can_be_named(key)})
        return [(f"metadata.{key}:", "") for key in keys if f"metadata.{key}".startswith(begun)]
    return [
        (name if name.endswith(".") else f"{name}:", hint)
        for name, hint in QUALIFIERS.items()
        if name.startswith(begun)
    ]


def _can_be_named(key: str) -> bool:
    return re.fullmatch(r'[^\s":]+', key) is not None


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) and '"' not in value and 0 < len(value) <= 60


def _quoted(value: str) -> str:
    return f'"{value}"' if re.search(r"\s", value) else value
