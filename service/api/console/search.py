"""The search for jobs: qualifiers such as `state:running producer:billing age:<2d`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from service.rules.states import JobState

_WORD = re.compile(r'(?:[^\s"]|"[^"]*")+')
_AGE = re.compile(r"([<>])(\d{1,6})(min|[smhdw])")
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_ID = re.compile(r"[0-9a-f-]{4,36}")
LONGEST = 1000


@dataclass
class Search:
    """What was asked for. `problems` say which words could not be read; these are left out."""

    producer: str | None = None
    states: list[JobState] = field(default_factory=list)
    marks: list[Mapping[str, Any]] = field(default_factory=list)
    created_from: datetime | None = None
    created_before: datetime | None = None
    calls: bool = False
    id_begins: str | None = None
    problems: list[str] = field(default_factory=list)


def words_of(text: str) -> Sequence[str]:
    """Split a search into its words; quotes hold a word together."""
    return _WORD.findall(text[:LONGEST].replace("\x00", ""))


def read_search(text: str, now: datetime | None = None) -> Search:
    """Return what a search asks for."""
    found = Search()
    for word in words_of(text):
        name, colon, value = word.partition(":")
        _read(found, name if colon else "id", (value if colon else word).replace('"', ""), now)
    return found


def _read(found: Search, name: str, value: str, now: datetime | None) -> None:
    match name:
        case "state":
            states = [one for one in JobState if one.value == value]
            found.states.extend(states)
            if not states:
                some = ", ".join(JobState)
                found.problems.append(f"There is no state {value!r}. The states are {some}.")
        case "producer":
            found.producer = value
        case "age":
            _read_age(found, value, now or datetime.now(UTC))
        case "is" if value == "call":
            found.calls = True
        case "id" if _ID.fullmatch(value.lower()):
            found.id_begins = value.lower().replace("-", "")[:32]
        case _ if name.startswith("metadata.") and len(name) > len("metadata."):
            found.marks.append({name.removeprefix("metadata."): value})
        case "id":
            found.problems.append(
                f"{value!r} is neither a qualifier such as state:running nor the beginning of an id"
            )
        case _:
            found.problems.append(f"There is no qualifier {name}:{value}")


def _read_age(found: Search, value: str, now: datetime) -> None:
    read = _AGE.fullmatch(value)
    if read is None:
        found.problems.append(f"age:{value} is not read; write age:<2d or age:>3h")
        return
    at = now - timedelta(seconds=int(read[2]) * _UNITS[read[3]])
    if read[1] == "<":
        found.created_from = at
    else:
        found.created_before = at
