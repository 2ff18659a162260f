"""`haulier producer` and `haulier token`."""

import re
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from service.cli.arguments import AsJson, Columns, DryRun
from service.cli.documents import Document
from service.cli.listing import listed
from service.cli.screen import notes, output
from service.cli.session import connected
from service.cli.tables import Column
from service.rules.credentials import DEFAULT_SCOPES, Scope

producer_app = typer.Typer(no_args_is_help=True, help="Producers: who may submit, and how much.")
token_app = typer.Typer(no_args_is_help=True, help="The tokens of producers.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A producer.", show_default=False)]
TokenId = Annotated[str, typer.Argument(metavar="ID", help="A token's id.", show_default=False)]

_ENTRIES = "May be repeated; '*' is all there is, '' none."
Accounts = Annotated[
    list[str] | None, typer.Option("--account", help=f"An account it may use. {_ENTRIES}")
]
Roots = Annotated[
    list[str] | None, typer.Option("--input-root", help=f"Where `input` may lie. {_ENTRIES}")
]
Tasks = Annotated[
    list[str] | None, typer.Option("--notice-task", help=f"A task for notices. {_ENTRIES}")
]
Queues = Annotated[
    list[str] | None, typer.Option("--notice-queue", help=f"A queue for notices. {_ENTRIES}")
]
Webhooks = Annotated[
    list[str] | None,
    typer.Option("--private-webhook", help=f"A private host or network for webhooks. {_ENTRIES}"),
]
BodyBytes = Annotated[
    int | None, typer.Option(min=0, help="Bytes of one submission; 0 is no limit.")
]
OpenRequests = Annotated[
    int | None, typer.Option(min=0, help="Requests of all unfinished jobs; 0 is no limit.")
]
UsdPerDay = Annotated[
    str | None, typer.Option(metavar="USD", help="What its jobs may cost a day; 0: no limit.")
]
UsdPerMonth = Annotated[
    str | None, typer.Option(metavar="USD", help="What its jobs may cost a month; 0: no limit.")
]
StoredBytes = Annotated[
    int | None, typer.Option(min=0, help="Bytes of its uploaded files; 0 is no limit.")
]
HeldCalls = Annotated[
    int | None,
    typer.Option(min=0, help="Calls that wait at one process of the API; 0 is the usual limit."),
]
PerDay = Annotated[int | None, typer.Option(min=0, help="Requests a UTC day; 0 is no limit.")]
Lowest = Annotated[int | None, typer.Option(help="The lowest priority of its jobs; 0 at first.")]
Highest = Annotated[int | None, typer.Option(help="The highest priority of its jobs; 9 at first.")]

PRODUCERS = "/v1/producers"


class Producer(msgspec.Struct, frozen=True):
    name: str
    accounts: list[str] | None
    input_roots: list[str] | None
    notice_tasks: list[str] | None
    notice_queues: list[str] | None
    private_webhooks: list[str] | None
    lowest_priority: int
    highest_priority: int
    body_bytes: int | None
    open_requests: int | None
    requests_per_day: int | None
    stored_bytes: int | None
    held_calls: int | None
    signing_secrets: int
    usd_per_day: str | None = None
    usd_per_month: str | None = None
    short_reason: str | None = None
    disabled_at: datetime | None = None


class Token(msgspec.Struct, frozen=True):
    id: str
    label: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None


class NewToken(msgspec.Struct, frozen=True):
    token: str


class Secret(msgspec.Struct, frozen=True):
    secret: str


@dataclass(frozen=True)
class Grants:
    """What a producer may use, as it was typed. None: not mentioned."""

    accounts: list[str] | None
    input_roots: list[str] | None
    notice_tasks: list[str] | None
    notice_queues: list[str] | None
    private_webhooks: list[str] | None
    body_bytes: int | None
    open_requests: int | None
    requests_per_day: int | None
    stored_bytes: int | None
    held_calls: int | None
    usd_per_day: str | None
    usd_per_month: str | None
    lowest_priority: int | None
    highest_priority: int | None

    @property
    def fields(self) -> dict[str, Any]:
        """As the API takes them."""
        return {
            name: value if name.endswith("_priority") else _meant(value)
            for name, value in asdict(self).items()
            if value is not None
        }


def _meant(value: list[str] | int | str) -> list[str] | int | str | None:
    """`*` is all there is, an empty text nothing, 0 no limit."""
    if isinstance(value, str):
        return None if value == "0" else value
    if isinstance(value, int):
        return value or None
    return None if "*" in value else [entry for entry in value if entry]


_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def _span(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if found is None:
        raise typer.BadParameter("is a number with s, m, h or d, such as 90d")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


ExpiresIn = Annotated[
    timedelta | None, typer.Option(parser=_span, metavar="SPAN", help="Ends after that: 90d, 12h.")
]


@producer_app.command("add")
def add_producer(
    *,
    name: Name,
    account: Accounts = None,
    input_root: Roots = None,
    notice_task: Tasks = None,
    notice_queue: Queues = None,
    private_webhook: Webhooks = None,
    body_bytes: BodyBytes = None,
    open_requests: OpenRequests = None,
    requests_per_day: PerDay = None,
    stored_bytes: StoredBytes = None,
    held_calls: HeldCalls = None,
    usd_per_day: UsdPerDay = None,
    usd_per_month: UsdPerMonth = None,
    lowest_priority: Lowest = None,
    highest_priority: Highest = None,
    dry_run: DryRun = False,
    json: AsJson = False,
) -> None:
    """Add a producer, and print its first token. It is shown this once."""
    lists = (account, input_root, notice_task, notice_queue, private_webhook)
    limits = (body_bytes, open_requests, requests_per_day, stored_bytes, held_calls)
    budgets = (usd_per_day, usd_per_month)
    grants = Grants(*lists, *limits, *budgets, lowest_priority, highest_priority)
    with connected(dry_run=dry_run, as_json=json) as api:
        made = api.send("POST", PRODUCERS, NewToken, {"name": name, **grants.fields})
    output().line(made.line if json else made.value.token)


@producer_app.command("set")
def set_producer(
    *,
    name: Name,
    account: Accounts = None,
    input_root: Roots = None,
    notice_task: Tasks = None,
    notice_queue: Queues = None,
    private_webhook: Webhooks = None,
    body_bytes: BodyBytes = None,
    open_requests: OpenRequests = None,
    requests_per_day: PerDay = None,
    stored_bytes: StoredBytes = None,
    held_calls: HeldCalls = None,
    usd_per_day: UsdPerDay = None,
    usd_per_month: UsdPerMonth = None,
    lowest_priority: Lowest = None,
    highest_priority: Highest = None,
    dry_run: DryRun = False,
    json: AsJson = False,
) -> None:
    """Change what a producer may use; what is left out stays as it is."""
    lists = (account, input_root, notice_task, notice_queue, private_webhook)
    limits = (body_bytes, open_requests, requests_per_day, stored_bytes, held_calls)
    budgets = (usd_per_day, usd_per_month)
    grants = Grants(*lists, *limits, *budgets, lowest_priority, highest_priority)
    with connected(dry_run=dry_run, as_json=json) as api:
        shown = api.send("PATCH", _path(name), Producer, grants.fields)
    _show(shown, as_json=json)


@producer_app.command("disable")
def disable_producer(name: Name, dry_run: DryRun = False, json: AsJson = False) -> None:
    """Refuse all tokens, uploads and submissions of a producer at once. Its jobs go on."""
    with connected(dry_run=dry_run, as_json=json) as api:
        shown = api.send("POST", _path(name, "disable"), Producer)
    _show(shown, as_json=json)


@producer_app.command("enable")
def enable_producer(name: Name, dry_run: DryRun = False, json: AsJson = False) -> None:
    """Enable a producer again, with the tokens that it has."""
    with connected(dry_run=dry_run, as_json=json) as api:
        shown = api.send("POST", _path(name, "enable"), Producer)
    _show(shown, as_json=json)


@producer_app.command("remove")
def remove_producer(name: Name, dry_run: DryRun = False) -> None:
    """Delete a producer that has neither jobs nor files, and its tokens."""
    with connected(dry_run=dry_run) as api:
        api.delete(_path(name))
    notes().line(f"removed: {name}")


@producer_app.command("list")
def list_producers(json: AsJson = False, columns: Columns = None) -> None:
    """List the producers, what they may use, and how much."""
    with connected() as api:
        listed(
            api.items(PRODUCERS, Producer),
            (
                *(
                    Column("producer"),
                    Column("accounts"),
                    Column("body bytes", number=True, rank=2),
                ),
                *(Column("open requests", number=True), Column("requests a day", number=True)),
                Column("stored bytes", number=True, rank=2),
                Column("held calls", number=True, rank=2),
                *(Column("USD a day", number=True), Column("USD a month", number=True)),
                Column("input roots", wrap=True, rank=2),
                Column("notices", wrap=True, rank=2),
                Column("disabled", rank=0),
            ),
            lambda one: (
                *(one.name, _cell(one.accounts), one.body_bytes, one.open_requests),
                *(one.requests_per_day, one.stored_bytes, one.held_calls),
                *(one.usd_per_day, one.usd_per_month),
                _cell(one.input_roots),
                f"{_cell(one.notice_tasks)} on {_cell(one.notice_queues)}",
                one.disabled_at,
            ),
            as_json=json,
            chosen=columns,
        )


@producer_app.command("secret")
def make_secret(name: Name, dry_run: DryRun = False, json: AsJson = False) -> None:
    """Make a new signing secret, and print it. The one before it stays valid."""
    with connected(dry_run=dry_run, as_json=json) as api:
        made = api.send("POST", _path(name, "signing-secret"), Secret)
    output().line(made.line if json else made.value.secret)


@token_app.command("add")
def add_token(
    *,
    name: Name,
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help=f"May be repeated; {', '.join(DEFAULT_SCOPES)} if left out."),
    ] = None,
    label: Annotated[str, typer.Option(help="What it is for.")] = "",
    expires_in: ExpiresIn = None,
    dry_run: DryRun = False,
    json: AsJson = False,
) -> None:
    """Add a token of a producer, and print it. It is shown this once."""
    asked: dict[str, Any] = {"label": label, **_expiry(expires_in)}
    if scope:
        asked["scopes"] = list(scope)
    with connected(dry_run=dry_run, as_json=json) as api:
        made = api.send("POST", _path(name, "tokens"), NewToken, asked)
    output().line(made.line if json else made.value.token)


@token_app.command("list")
def list_tokens(name: Name, json: AsJson = False, columns: Columns = None) -> None:
    """List a producer's tokens, those that have ended too."""
    with connected() as api:
        listed(
            api.items(_path(name, "tokens"), Token),
            (
                *(Column("token"), Column("label", wrap=True), Column("scopes")),
                *(Column("made", rank=2), Column("ends"), Column("revoked", rank=0)),
                Column("last used", rank=2),
            ),
            lambda one: (
                *(one.id, one.label, ", ".join(one.scopes)),
                *(one.created_at, one.expires_at, one.revoked_at, one.last_used_at),
            ),
            as_json=json,
            chosen=columns,
        )


@token_app.command("rotate")
def rotate_token(
    *,
    name: Name,
    token: TokenId,
    grace: Annotated[
        timedelta | None,
        typer.Option(parser=_span, metavar="SPAN", help="How long the old one stays valid: 1h."),
    ] = None,
    expires_in: ExpiresIn = None,
    dry_run: DryRun = False,
    json: AsJson = False,
) -> None:
    """Replace a token by a new one with the same scopes and label, and print that."""
    asked = {"grace_seconds": (grace or timedelta()).total_seconds(), **_expiry(expires_in)}
    with connected(dry_run=dry_run, as_json=json) as api:
        made = api.send("POST", _path(name, "tokens", token, "rotate"), NewToken, asked)
    output().line(made.line if json else made.value.token)


@token_app.command("revoke")
def revoke_token(name: Name, token: TokenId, dry_run: DryRun = False) -> None:
    """End a token at once."""
    with connected(dry_run=dry_run) as api:
        api.delete(_path(name, "tokens", token))
    notes().line(f"revoked: {token}")


def _show(shown: Document[Producer], *, as_json: bool) -> None:
    if as_json:
        output().line(shown.line)
        return
    cells = {name: _cell(value) for name, value in msgspec.structs.asdict(shown.value).items()}
    cells["disabled_at"] = shown.value.disabled_at or "no"
    output().fields((name.replace("_", " "), cell) for name, cell in cells.items())


def _path(*parts: str) -> str:
    return "/".join((PRODUCERS, *(quote(part, safe="") for part in parts)))


def _expiry(expires_in: timedelta | None) -> dict[str, float]:
    return {} if expires_in is None else {"expires_in_seconds": expires_in.total_seconds()}


def _cell(value: object) -> object:
    """A list as people read it; None is everything there is."""
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return "any" if value is None else value
