"""Lists: a table for people, documents one a line for programs."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from service.cli.documents import Document
from service.cli.screen import output
from service.cli.tables import Column

T = TypeVar("T")


def listed(
    documents: Iterable[Document[T]],
    columns: Sequence[Column],
    cells: Callable[[T], Sequence[object]],
    *,
    as_json: bool,
    chosen: Sequence[str] | None = None,
) -> None:
    """Write all of them to standard output; `cells` gives one row's, in the columns' order."""
    screen = output()
    if as_json:
        for document in documents:
            screen.line(document.line)
    else:
        screen.table(columns, (cells(document.value) for document in documents), chosen)
