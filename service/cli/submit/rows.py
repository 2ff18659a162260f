"""Chat requests made of a table's rows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from service.cli.submit.tables import BadInput, Row
from service.cli.submit.template import Template
from service.rules.names import trouble_with
from service.rules.requests import LINE_BYTES

ID_LENGTH = 64
RESERVED = ("messages", "model")


@dataclass(frozen=True)
class Recipe:
    """What a row becomes."""

    model: str
    prompt: Template
    system: str | None = None
    id_column: str | None = None
    """Whose cells are the custom_ids; without one they are `row-1`, `row-2`, …"""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of each body."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it needs."""
        return (*self.prompt.columns, *([self.id_column] if self.id_column is not None else []))

    def line(self, row: Row) -> bytes:
        """A request line with its end. Raises BadInput."""
        prompt = self.prompt.filled(row.cells)
        if not prompt.strip():
            raise BadInput(f"{row.where}: the prompt is empty; fill it in or leave the row out")
        messages = [{"role": "user", "content": prompt}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        body = {"model": self.model, "messages": messages, **self.params}
        line = msgspec.json.encode({"custom_id": self._custom_id(row), "body": body})
        if len(line) > LINE_BYTES:
            raise BadInput(f"{row.where}: makes a request of more than {LINE_BYTES:,} bytes")
        return line + b"\n"

    def _custom_id(self, row: Row) -> str:
        if self.id_column is None:
            return f"row-{row.number}"
        custom_id = row.cells[self.id_column]
        if not 0 < len(custom_id) <= ID_LENGTH:
            raise BadInput(
                f"{row.where}: the id in column {self.id_column!r} has {len(custom_id)} characters;"
                f" it may have 1 to {ID_LENGTH}"
            )
        if trouble := trouble_with(custom_id):
            raise BadInput(f"{row.where}: the id {custom_id!r} {trouble}")
        return custom_id


def lines_of(rows: Iterable[Row], recipe: Recipe) -> Iterator[bytes]:
    """The request lines. Raises BadInput, also where there is no row at all."""
    row = None
    for row in rows:
        yield recipe.line(row)
    if row is None:
        raise BadInput("has no rows, only a header")


def params_of(pairs: Sequence[str]) -> dict[str, Any]:
    """`temperature=0`: a name and a JSON value; what is no JSON is text. Raises ValueError."""
    params: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise ValueError(f"{pair!r} is no NAME=VALUE, as in temperature=0")
        if name in RESERVED:
            raise ValueError(f"{name} is made from the other options")
        try:
            params[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            params[name] = value
    return params
