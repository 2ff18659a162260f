"""Producers and their permissions, for operators."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from config.settings import Settings
from service.api import cursors
from service.api.acting import ActedBy
from service.api.auth import ADMIN, SHOWS_A_SECRET
from service.api.body import SMALL_BODY
from service.api.openapi import problem
from service.api.problems import NAME_TAKEN, NOT_FOUND, PRODUCER_IN_USE, HttpProblem
from service.api.services import Uses
from service.api.v1.amounts import Usd
from service.api.v1.filtering import PageQuery, legible
from service.api.v1.jobs import page
from service.api.v1.rehearsing import (
    PREVIEWED,
    DryRun,
    PreviewView,
    deleted,
    for_verb,
    preview,
)
from service.api.v1.schemas import NewProducerView, Page
from service.rules.addresses import reach_of
from service.rules.errors import BadInput, Conflict, Problem
from service.rules.permissions import may_read
from service.store import producers as store
from service.store.models import Producer
from service.store.views import View

router = APIRouter(dependencies=[ADMIN], max_body_size=SMALL_BODY)

NAME_BYTES = 255
"""Names from message headers need not match `Name`."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
_Entry = Annotated[
    str,
    StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00]+$"),
    AfterValidator(legible),
]
_Entries = Annotated[list[_Entry], Field(max_length=1000)]
_Limit = Annotated[int, Field(ge=1, le=2**63 - 1)]
_Priority = Annotated[int, Field(ge=-1000, le=1000)]


class ProducerFields(BaseModel):
    """The settings of a producer. A field that is left out keeps its value."""

    model_config = ConfigDict(extra="forbid")

    accounts: _Entries | None = Field(
        default=["default"], description="The accounts it may use; null allows all."
    )
    input_roots: _Entries | None = Field(
        default=[], description="Input roots within HAULIER_INPUT_ROOTS; null allows all of them."
    )
    notice_tasks: _Entries | None = Field(
        default=[], description="The Celery tasks it may name in notices; null allows any."
    )
    notice_queues: _Entries | None = Field(
        default=[], description="The queues it may name in notices; null allows any."
    )
    private_webhooks: _Entries | None = Field(
        default=[],
        description="Host names, addresses and networks (`10.1.0.0/16`) that its webhooks may go to"
        " although they are private, and over plain HTTP; null allows all.",
    )
    lowest_priority: _Priority = Field(default=0, description="The lowest priority of its jobs.")
    highest_priority: _Priority = Field(default=9, description="The highest priority of its jobs.")
    body_bytes: _Limit | None = Field(default=None, description="The most bytes of one submission.")
    open_requests: _Limit | None = Field(
        default=None, description="The most requests in its unfinished jobs."
    )
    requests_per_day: _Limit | None = Field(
        default=None, description="The most requests accepted on one UTC day."
    )

    stored_bytes: _Limit | None = Field(
        default=None, description="The most bytes of its uploaded files."
    )
    held_calls: _Limit | None = Field(
        default=None,
        description="The most of its calls that wait at one process of the API; null stands for"
        " HAULIER_MAX_CALLS_PER_PRODUCER.",
    )
    usd_per_day: Usd | None = Field(
        default=None, description="What its jobs may cost on one UTC day, in USD."
    )
    usd_per_month: Usd | None = Field(
        default=None, description="What its jobs may cost in one UTC month, in USD."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, sent: Any) -> Any:
        """A null that means nothing else means that the field was left out."""
        if not isinstance(sent, dict):
            return sent
        never_null = {"lowest_priority", "highest_priority"}
        return {k: v for k, v in sent.items() if v is not None or k not in never_null}

    def given(self, settings: Settings) -> dict[str, Any]:
        """Return the fields that were sent. Raises BadInput for what no producer can be given."""
        problems = [
            Problem(f"accounts: {name!r} is not configured")
            for name in self.accounts or []
            if name not in settings.account_names
        ]
        problems += [
            Problem(f"input_roots: {root!r} does not lie under one of HAULIER_INPUT_ROOTS")
            for root in self.input_roots or []
            if not may_read(root, settings.input_roots)
        ]
        try:
            reach_of(self.private_webhooks)
        except ValueError as error:
            problems.append(Problem(f"private_webhooks: {error}"))
        if self.lowest_priority > self.highest_priority:
            problems.append(Problem("lowest_priority lies above highest_priority"))
        if problems:
            raise BadInput(problems)
        return self.model_dump(exclude_unset=True, exclude={"name"})


class NewProducer(ProducerFields):
    name: Name


class ProducerView(View):
    name: str
    created_at: datetime
    disabled_at: datetime | None = Field(
        description="Set while it is disabled: it can submit nothing, and no token of it is valid."
    )
    accounts: Sequence[str] | None
    input_roots: Sequence[str] | None
    notice_tasks: Sequence[str] | None
    notice_queues: Sequence[str] | None
    private_webhooks: Sequence[str] | None
    lowest_priority: int
    highest_priority: int
    body_bytes: int | None
    open_requests: int | None
    requests_per_day: int | None
    stored_bytes: int | None
    held_calls: int | None
    usd_per_day: Usd | None
    usd_per_month: Usd | None
    short_until: datetime | None = Field(
        description="Until when nothing of it starts, because that would pass a budget."
    )
    short_reason: str | None
    counted_on: date | None = Field(description="The day (UTC) that `counted_requests` counts.")
    counted_requests: int = Field(description="Requests accepted on that day.")
    signing_secrets: int = Field(description="The number of valid signing secrets.")

    @classmethod
    def of(cls, producer: Producer) -> "ProducerView":
        fields = {name: getattr(producer, name) for name in cls.model_fields}
        return cls(**{**fields, "signing_secrets": len(producer.signing_secrets)})


class SecretView(View):
    secret: str = Field(
        description="The secret (`whsec_…`, as in Standard Webhooks). It is shown only once."
    )


async def named(name: str) -> str:
    """Return the name in the path. Raises HttpProblem if no producer can have it."""
    if "\x00" in name or len(name) > NAME_BYTES:
        raise unknown_producer()
    return name


def unknown_producer() -> HttpProblem:
    return HttpProblem(NOT_FOUND, "there is no such producer")


Named = Annotated[str, Depends(named)]
UNKNOWN: dict[int | str, dict[str, Any]] = {404: problem("No such producer or token")}


@router.post(
    "/producers",
    status_code=201,
    dependencies=[SHOWS_A_SECRET],
    responses={409: problem("There is a producer of this name")},
)
def add_producer(
    services: Uses, asked: NewProducer, by: ActedBy, dry_run: DryRun = False
) -> NewProducerView | PreviewView:
    """Add a producer. Its first token is shown only in this answer."""
    db = for_verb(services.db, dry_run=dry_run)
    try:
        fields = asked.given(services.settings)
        token = store.add_producer(db, asked.name, by, **fields)
    except Conflict as error:
        raise HttpProblem(NAME_TAKEN, str(error)) from None
    return preview(db) or NewProducerView(name=asked.name, token=token.text)


@router.get("/producers")
def list_producers(services: Uses, asked: Annotated[PageQuery, Query()]) -> Page[ProducerView]:
    """List the producers, by name."""
    after = cursors.read(asked.cursor, cursors.AfterProducer).name if asked.cursor else ""
    found = store.producers(services.db, after=after, limit=asked.limit + 1)
    return page(found, asked.limit, ProducerView.of, lambda row: cursors.AfterProducer(row.name))


@router.get("/producers/{name}", responses=UNKNOWN)
def show_producer(services: Uses, name: Named) -> ProducerView:
    """Show a producer, its permissions and its limits."""
    return _shown(store.producer(services.db, name))


@router.patch("/producers/{name}", responses=UNKNOWN)
def change_producer(
    services: Uses, name: Named, asked: ProducerFields, by: ActedBy, dry_run: DryRun = False
) -> ProducerView | PreviewView:
    """Change a producer's settings. A field that is left out keeps its value."""
    db = for_verb(services.db, dry_run=dry_run)
    shown = _shown(store.set_producer(db, name, asked.given(services.settings), by=by))
    return preview(db) or shown


@router.post(
    "/producers/{name}/signing-secret",
    status_code=201,
    dependencies=[SHOWS_A_SECRET],
    responses=UNKNOWN,
)
def make_signing_secret(
    services: Uses, name: Named, by: ActedBy, dry_run: DryRun = False
) -> SecretView | PreviewView:
    """Make a new signing secret, shown only in this answer. The previous one stays valid."""
    db = for_verb(services.db, dry_run=dry_run)
    secret = store.add_secret(db, name, by=by)
    if secret is None:
        raise unknown_producer()
    return preview(db) or SecretView(secret=secret)


@router.post("/producers/{name}/disable", responses=UNKNOWN)
def disable_producer(
    services: Uses, name: Named, by: ActedBy, dry_run: DryRun = False
) -> ProducerView | PreviewView:
    """Refuse all tokens, uploads and submissions of a producer at once. Its jobs go on."""
    db = for_verb(services.db, dry_run=dry_run)
    shown = _shown(store.disable(db, name, by=by))
    return preview(db) or shown


@router.post("/producers/{name}/enable", responses=UNKNOWN)
def enable_producer(
    services: Uses, name: Named, by: ActedBy, dry_run: DryRun = False
) -> ProducerView | PreviewView:
    """Enable a producer again, with the tokens that it has."""
    db = for_verb(services.db, dry_run=dry_run)
    shown = _shown(store.enable(db, name, by=by))
    return preview(db) or shown


@router.delete(
    "/producers/{name}",
    status_code=204,
    responses={
        **UNKNOWN,
        **PREVIEWED,
        409: problem("The producer has jobs or files, or is `default`"),
    },
)
def remove_producer(services: Uses, name: Named, by: ActedBy, dry_run: DryRun = False) -> Response:
    """Delete a producer that has neither jobs nor files, and its tokens."""
    db = for_verb(services.db, dry_run=dry_run)
    try:
        if not store.remove_producer(db, name, by=by):
            raise unknown_producer()
    except Conflict as error:
        raise HttpProblem(PRODUCER_IN_USE, str(error)) from None
    return deleted(db)


def _shown(producer: Producer | None) -> ProducerView:
    if producer is None:
        raise unknown_producer()
    return ProducerView.of(producer)
