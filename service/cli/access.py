"""Who may use Haulier: producers and their tokens, as an operator sees them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import msgspec

from service.cli.listing import listed
from service.cli.screen import Column, notes, output
from service.cli.session import connected
from service.rules.credentials import Scope

PRODUCERS = "/v1/producers"


class Producer(msgspec.Struct, frozen=True):
    name: str
    accounts: list[str] | None
    input_roots: list[str] | None
    notice_tasks: list[str] | None
    notice_queues: list[str] | None
    body_bytes: int | None
    open_requests: int | None
    requests_per_day: int | None
    signing_secrets: int


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
    body_bytes: int | None
    open_requests: int | None
    requests_per_day: int | None

    @property
    def fields(self) -> dict[str, Any]:
        """As the API takes them."""
        return {name: _meant(value) for name, value in asdict(self).items() if value is not None}


def _meant(value: list[str] | int) -> list[str] | int | None:
    """`*` is all there is, an empty text nothing, 0 no limit."""
    if isinstance(value, int):
        return value or None
    return None if "*" in value else [entry for entry in value if entry]


def add_producer(name: str, grants: Grants, *, as_json: bool) -> None:
    """The command: a new producer's first token."""
    with connected() as client:
        made = client.send("POST", PRODUCERS, NewToken, {"name": name, **grants.fields})
    output().line(made.line if as_json else made.value.token)


def set_producer(name: str, grants: Grants, *, as_json: bool) -> None:
    """The command: the producer as it is then."""
    with connected() as client:
        shown = client.send("PATCH", _path(name), Producer, grants.fields)
    if as_json:
        output().line(shown.line)
        return
    output().fields(
        (field.replace("_", " "), _cell(getattr(shown.value, field)))
        for field in Producer.__struct_fields__
    )


def list_producers(*, as_json: bool) -> None:
    """The command."""
    with connected() as client:
        listed(
            client.items(PRODUCERS, Producer),
            (
                *(Column("producer"), Column("accounts"), Column("body bytes", number=True)),
                *(Column("open requests", number=True), Column("requests a day", number=True)),
                *(Column("input roots", wrap=True), Column("notices", wrap=True)),
            ),
            lambda one: (
                *(one.name, _cell(one.accounts), one.body_bytes, one.open_requests),
                *(one.requests_per_day, _cell(one.input_roots)),
                f"{_cell(one.notice_tasks)} on {_cell(one.notice_queues)}",
            ),
            as_json=as_json,
        )


def make_secret(name: str, *, as_json: bool) -> None:
    """The command: a new signing secret."""
    with connected() as client:
        made = client.send("POST", _path(name, "signing-secret"), Secret)
    output().line(made.line if as_json else made.value.secret)


def add_token(
    name: str,
    *,
    scopes: Sequence[Scope] | None,
    label: str,
    expires_in: timedelta | None,
    as_json: bool,
) -> None:
    """The command: a new token."""
    asked: dict[str, Any] = {"label": label, **_expiry(expires_in)}
    if scopes:
        asked["scopes"] = list(scopes)
    with connected() as client:
        made = client.send("POST", _path(name, "tokens"), NewToken, asked)
    output().line(made.line if as_json else made.value.token)


def list_tokens(name: str, *, as_json: bool) -> None:
    """The command."""
    with connected() as client:
        listed(
            client.items(_path(name, "tokens"), Token),
            (
                *(Column("token"), Column("label", wrap=True), Column("scopes")),
                *(Column("made"), Column("ends"), Column("revoked"), Column("last used")),
            ),
            lambda one: (
                *(one.id, one.label, ", ".join(one.scopes)),
                *(one.created_at, one.expires_at, one.revoked_at, one.last_used_at),
            ),
            as_json=as_json,
        )


def rotate_token(
    name: str,
    token: str,
    *,
    grace: timedelta | None,
    expires_in: timedelta | None,
    as_json: bool,
) -> None:
    """The command: the new token."""
    asked = {"grace_seconds": (grace or timedelta()).total_seconds(), **_expiry(expires_in)}
    with connected() as client:
        made = client.send("POST", _path(name, "tokens", token, "rotate"), NewToken, asked)
    output().line(made.line if as_json else made.value.token)


def revoke_token(name: str, token: str) -> None:
    """The command."""
    with connected() as client:
        client.delete(_path(name, "tokens", token))
    notes().line(f"revoked: {token}")


def _path(*parts: str) -> str:
    return "/".join((PRODUCERS, *(quote(part, safe="") for part in parts)))


def _expiry(expires_in: timedelta | None) -> dict[str, float]:
    return {} if expires_in is None else {"expires_in_seconds": expires_in.total_seconds()}


def _cell(value: object) -> object:
    """A list as people read it; None is everything there is."""
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return "any" if value is None else value
