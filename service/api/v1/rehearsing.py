"""Dry runs: a verb answers what it would change, and changes nothing."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from fastapi import Query
from pydantic import Field
from starlette.responses import JSONResponse, Response

from service.store.engine import Database
from service.store.rehearsal import Rehearsal
from service.store.views import View

DryRun = Annotated[
    bool, Query(description="Answer what would change, and change nothing.", alias="dry_run")
]


class ChangeView(View):
    """One change that a verb would make: the line of the audit log that it would write."""

    verb: str
    object: str = Field(description="The path of what changes, below /v1.")
    before: dict[str, Any] | None = Field(description="What would change, as it is.")
    after: dict[str, Any] | None = Field(description="The same as it would be.")


class PreviewView(View):
    """The answer to a dry run."""

    dry_run: Literal[True] = True
    changes: Sequence[ChangeView]

    @classmethod
    def of(cls, rehearsed: Rehearsal) -> Self:
        return cls(changes=[ChangeView.model_validate(line) for line in rehearsed.lines])


PREVIEWED: dict[int | str, dict[str, Any]] = {
    200: {"model": PreviewView, "description": "The answer to a dry run"}
}
"""For `responses` of endpoints whose answer has no body otherwise."""


def for_verb(db: Database, *, dry_run: bool) -> Database:
    """Return the database for a verb to work on: that of a rehearsal, if it is a dry run."""
    return Rehearsal(db) if dry_run else db


def preview(db: Database) -> PreviewView | None:
    """Return what the verb would have changed; None if it was no dry run."""
    return PreviewView.of(db) if isinstance(db, Rehearsal) else None


def deleted(db: Database) -> Response:
    """Return the answer to a DELETE: nothing, or what it would have deleted."""
    would = preview(db)
    return Response(status_code=204) if would is None else JSONResponse(would.model_dump())
