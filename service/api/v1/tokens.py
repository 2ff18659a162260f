"""The bearer tokens of producers, for operators. A token is shown only when it is made."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from service.api import cursors
from service.api.acting import ActedBy
from service.api.auth import ADMIN, SHOWS_A_SECRET
from service.api.body import SMALL_BODY
from service.api.openapi import problem
from service.api.problems import NOT_FOUND, TOKEN_ENDED, HttpProblem, invalid
from service.api.services import Uses
from service.api.v1.filtering import PageQuery, legible
from service.api.v1.jobs import page
from service.api.v1.producers import UNKNOWN, Named, unknown_producer
from service.api.v1.rehearsing import (
    PREVIEWED,
    DryRun,
    PreviewView,
    deleted,
    for_verb,
    preview,
)
from service.api.v1.schemas import Page
from service.rules.credentials import DEFAULT_SCOPES, NewCredential, Scope, is_id
from service.rules.errors import Conflict
from service.store import credentials as store
from service.store.engine import Database, clock
from service.store.models import Credential
from service.store.producers import add_credential as add
from service.store.producers import producer
from service.store.views import View

router = APIRouter(
    prefix="/producers/{name}/tokens",
    dependencies=[ADMIN],
    responses=UNKNOWN,
    max_body_size=SMALL_BODY,
)

LONGEST = 100 * 366 * 86_400
"""Seconds. A longer life needs no end at all."""

_Seconds = Annotated[float, Field(gt=0, le=LONGEST, allow_inf_nan=False)]


class Expiry(BaseModel):
    """When a new token expires. Without either field it never does."""

    model_config = ConfigDict(extra="forbid")

    expires_in_seconds: _Seconds | None = None
    expires_at: AwareDatetime | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, sent: Any) -> Any:
        """A null means that a field was left out."""
        if not isinstance(sent, dict):
            return sent
        return {name: value for name, value in sent.items() if value is not None}

    def instant(self, db: Database) -> datetime | None:
        """Return the expiry by the database's clock, or None. Raises HttpProblem."""
        if self.expires_in_seconds is not None and self.expires_at is not None:
            raise invalid("give `expires_in_seconds` or `expires_at`, not both")
        if self.expires_in_seconds is not None:
            return clock(db) + timedelta(seconds=self.expires_in_seconds)
        now = clock(db)
        if self.expires_at is not None and self.expires_at <= now:
            raise invalid("`expires_at` is in the past; give a later time")
        if self.expires_at is not None and self.expires_at > now + timedelta(seconds=LONGEST):
            raise invalid("`expires_at` is more than a hundred years away: leave it out")
        return self.expires_at


class TokenAsked(Expiry):
    scopes: list[Scope] = Field(default=list(DEFAULT_SCOPES), min_length=1, max_length=len(Scope))
    label: Annotated[str, StringConstraints(max_length=200), AfterValidator(legible)] = ""


class Rotation(Expiry):
    grace_seconds: Annotated[float, Field(ge=0, le=LONGEST, allow_inf_nan=False)] = Field(
        default=0, description="How long the old token stays valid, in seconds."
    )


class TokenView(View):
    """A token without its secret."""

    id: str
    producer: str
    label: str
    scopes: Sequence[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(
        description="When the token was last used, to the minute."
    )

    @classmethod
    def of(cls, token: Credential) -> "TokenView":
        return cls.model_validate(token)


class NewTokenView(TokenView):
    token: str = Field(
        description="The bearer token. It is shown only once; Haulier keeps only its hash."
    )


@router.post("", status_code=201, dependencies=[SHOWS_A_SECRET])
def add_token(
    services: Uses, name: Named, asked: TokenAsked, by: ActedBy, dry_run: DryRun = False
) -> NewTokenView | PreviewView:
    """Add a token. It is shown only in this answer."""
    expires_at = asked.instant(services.db)
    if producer(services.db, name) is None:
        raise unknown_producer()
    scopes = [scope for scope in Scope if scope in asked.scopes]
    db = for_verb(services.db, dry_run=dry_run)
    made = add(db, name, scopes=scopes, label=asked.label, expires_at=expires_at, by=by)
    return preview(db) or _made(services.db, made)


@router.get("")
def list_tokens(
    services: Uses, name: Named, asked: Annotated[PageQuery, Query()]
) -> Page[TokenView]:
    """List the producer's tokens, oldest first, including expired and revoked ones."""
    if producer(services.db, name) is None:
        raise unknown_producer()
    after = cursors.read(asked.cursor, cursors.AfterToken) if asked.cursor else None
    found = store.tokens(
        services.db,
        name,
        after=(after.created_at, after.id) if after else None,
        limit=asked.limit + 1,
    )
    return page(
        found, asked.limit, TokenView.of, lambda row: cursors.AfterToken(row.created_at, row.id)
    )


@router.post(
    "/{token_id}/rotate",
    status_code=201,
    dependencies=[SHOWS_A_SECRET],
    responses={409: problem("The token has ended")},
)
def rotate_token(
    *,
    services: Uses,
    name: Named,
    token_id: str,
    by: ActedBy,
    asked: Rotation | None = None,
    dry_run: DryRun = False,
) -> NewTokenView | PreviewView:
    """Replace a token with a new one that has the same scopes and label."""
    asked, db = asked or Rotation(), for_verb(services.db, dry_run=dry_run)
    made = None
    if is_id(token_id):
        grace = timedelta(seconds=asked.grace_seconds)
        expires_at = asked.instant(services.db)
        try:
            made = store.rotate_token(db, name, token_id, grace=grace, expires_at=expires_at, by=by)
        except Conflict as error:
            raise HttpProblem(TOKEN_ENDED, str(error)) from None
    if made is None:
        raise _unknown()
    return preview(db) or _made(services.db, made)


@router.delete("/{token_id}", status_code=204, responses=PREVIEWED)
def revoke_token(
    services: Uses, name: Named, token_id: str, by: ActedBy, dry_run: DryRun = False
) -> Response:
    """Revoke a token at once. Revoking it again changes nothing."""
    db = for_verb(services.db, dry_run=dry_run)
    if not (is_id(token_id) and store.revoke_token(db, name, token_id, by=by)):
        raise _unknown()
    return deleted(db)


def _unknown() -> HttpProblem:
    return HttpProblem(NOT_FOUND, "the producer has no such token")


def _made(db: Database, made: NewCredential) -> NewTokenView:
    row = store.token(db, made.id)
    assert row is not None
    return NewTokenView(**TokenView.of(row).model_dump(), token=made.text)
