"""The audit log: what operators did, for operators."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field, StringConstraints

from service.api import cursors
from service.api.auth import ADMIN
from service.api.services import Uses
from service.api.v1.filtering import Instant, PageQuery
from service.api.v1.jobs import page
from service.api.v1.schemas import Page
from service.store import audit
from service.store.models import Audit
from service.store.views import View

router = APIRouter()

_Name = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^\x00]+$")]


class AuditQuery(PageQuery):
    actor: _Name | None = Field(default=None, description="Only what this actor did.")
    verb: _Name | None = Field(default=None, description="Only deeds of this kind.")
    object: _Name | None = Field(
        default=None, description="Only deeds on this object, or on what belongs to it."
    )
    since: Instant | None = Field(default=None, description="Only deeds at this time or later.")
    until: Instant | None = Field(default=None, description="Only deeds before this time.")


class AuditView(View):
    """Something that an operator did."""

    id: int
    at: datetime
    actor: str = Field(
        description="`admin` (the admin token), `producer:<name>` (a token with the scope `admin`),"
        " or `os:<user>` (a command on the database itself)."
    )
    credential: str | None = Field(description="The id of the token that was shown.")
    origin: str | None = Field(
        description="The address of the client, or `role@host` of a command on the database."
    )
    request_id: str | None = Field(description="The `X-Request-ID` of the request.")
    verb: str = Field(description="`add`, `change`, `revoke`, `cancel` …")
    object: str = Field(description="Its path without `/v1/`: `producers/billing`, `jobs/<id>`.")
    before: dict[str, Any] | None = Field(description="What was changed, as it was before.")
    after: dict[str, Any] | None = Field(description="What was changed, as it was afterwards.")

    @classmethod
    def of(cls, line: Audit) -> "AuditView":
        return cls.model_validate(line)


@router.get("/audit", dependencies=[ADMIN])
def list_audit(services: Uses, asked: Annotated[AuditQuery, Query()]) -> Page[AuditView]:
    """List what operators did, newest first."""
    found = audit.lines(
        services.db,
        actor=asked.actor,
        verb=asked.verb,
        object=asked.object,
        since=asked.since,
        until=asked.until,
        before=cursors.read(asked.cursor, cursors.AfterAudit).id if asked.cursor else None,
        limit=asked.limit + 1,
    )
    return page(found, asked.limit, AuditView.of, lambda row: cursors.AfterAudit(row.id))
