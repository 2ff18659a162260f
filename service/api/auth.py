"""Who is calling, and what for."""

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

import anyio.to_thread
from fastapi import Depends, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import Request
from starlette.responses import Response

from config.settings import Settings
from service.api.problems import FORBIDDEN, UNAUTHORIZED, HttpProblem
from service.rules.credentials import Scope, digest, id_of, same
from service.rules.permissions import Permissions
from service.store.engine import Database
from service.store.models import Credential, Producer
from service.store.permissions import permissions_of
from service.store.producers import holder, note_use, used_last

_NOBODY = digest("")
_REMEMBERED = 10_000
OF_THE_ADMIN = "admin"
"""Stands in the place of a token's id for the admin token, which has none."""


@dataclass(frozen=True)
class Caller:
    """A producer. `sees` is whose jobs exist for it (None: everybody's).

    `credential` is the id of its token, or `admin`: the admin token has none.
    """

    producer: str
    credential: str
    sees: str | None
    permissions: Permissions
    scopes: frozenset[Scope]
    body_bytes: int | None = None
    held_calls: int | None = None

    @property
    def token_id(self) -> str | None:
        return None if self.credential == OF_THE_ADMIN else self.credential

    @property
    def account(self) -> str:
        """The account of what names none: `default`, or else the first that it may use."""
        allowed = sorted(self.permissions.accounts)
        return allowed[0] if allowed and "default" not in allowed else "default"


class Authenticator:
    """Which token stands for whom."""

    def __init__(self, settings: Settings, db: Database) -> None:
        assert settings.admin_token is not None
        self._settings = settings
        self._db = db
        self._proved: dict[bytes, str] = {}
        """Producers by the digests of their tokens: nobody else can take a producer's turns."""
        self._admin_digest = digest(settings.admin_token.get_secret_value())
        self._admin = Caller(
            producer="default",
            credential=OF_THE_ADMIN,
            sees=None,
            permissions=permissions_of(None, settings),
            scopes=frozenset(Scope),
        )

    def expected(self, token: str) -> str:
        """The producer whose this token was when it was seen last, or "" if it never was.

        It may have ended since: good enough to let producers take turns, and for nothing else.
        """
        found = digest(token)
        if same(found, self._admin_digest):
            return self._admin.producer
        return self._proved.get(found, "")

    def remember(self) -> None:
        """Learn whose the tokens are that were used last. After a start, thousands may come back.

        Raises one of DATABASE_ERRORS.
        """
        self._proved = used_last(self._db, _REMEMBERED // 2) | self._proved

    async def caller(self, token: str) -> Caller | None:
        """Who the token stands for. Compares in constant time."""
        found = digest(token)
        if same(found, self._admin_digest):
            return self._admin  # even while Postgres is away
        token_id = id_of(token)
        if token_id is None:
            return None
        caller = await anyio.to_thread.run_sync(self._holder, token_id, found)
        if caller is not None and caller.producer != self._proved.get(found):
            if len(self._proved) >= _REMEMBERED:
                self._proved.clear()
            self._proved[found] = caller.producer
        return caller

    def _holder(self, token_id: str, found: bytes) -> Caller | None:
        held = holder(self._db, token_id)
        if not same(found, held.token.digest if held else _NOBODY) or held is None:
            return None
        if held.long_unused:
            note_use(self._db, held.token.id)
        return self._caller(held.producer, held.token)

    @property
    def admin(self) -> Caller:
        """Who shows the admin token."""
        return self._admin

    def proof(self, secret: str) -> bytes:
        """Return a hash of a secret that only processes with this admin token come to."""
        return hmac.digest(self._admin_digest, secret.encode(errors="surrogateescape"), "sha256")

    def holding(self, token_id: str) -> Caller | None:
        """Return who holds a token that is still valid, for those whose token was seen before."""
        held = holder(self._db, token_id)
        return None if held is None else self._caller(held.producer, held.token)

    def is_valid(self, caller: Caller) -> bool:
        """Whether a caller's token has not ended since, nor its producer been disabled."""
        return caller.token_id is None or holder(self._db, caller.token_id) is not None

    def _caller(self, producer: Producer, token: Credential) -> Caller:
        scopes = frozenset(map(Scope, token.scopes))
        admin = Scope.ADMIN in scopes
        return Caller(
            producer=producer.name,
            credential=token.id,
            sees=None if admin else producer.name,
            permissions=permissions_of(producer, self._settings),
            scopes=frozenset(Scope) if admin else scopes,
            body_bytes=producer.body_bytes,
            held_calls=producer.held_calls,
        )


_bearer = HTTPBearer(
    auto_error=False,
    description="A producer's token, with scopes (`submit`, `read`, `cancel`, `admin`), or"
    " `HAULIER_ADMIN_TOKEN`, which may do everything",
)


async def authenticated(
    request: Request,
    _credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Caller:
    """The caller, whom the gate has let in (service.api.gate)."""
    caller = request.state.caller
    assert isinstance(caller, Caller)
    return caller


def unauthorized(
    detail: str = "the token is not known, has expired or was revoked, or its producer is disabled",
) -> HttpProblem:
    headers = {"WWW-Authenticate": 'Bearer realm="haulier"'}
    return HttpProblem(UNAUTHORIZED, detail, headers=headers)


CalledBy = Annotated[Caller, Depends(authenticated)]


def may(scope: Scope) -> Callable[[Caller], Awaitable[None]]:
    """A dependency of endpoints that need this scope."""

    async def check(caller: CalledBy) -> None:
        if scope not in caller.scopes:
            raise HttpProblem(
                FORBIDDEN,
                f"the token lacks the scope {scope!s}",
                headers={
                    "WWW-Authenticate": f'Bearer realm="haulier", error="insufficient_scope",'
                    f' scope="{scope!s}"'
                },
            )

    return check


async def _not_stored(response: Response) -> None:
    response.headers["Cache-Control"] = "no-store"


SHOWS_A_SECRET = Depends(_not_stored)
"""For endpoints whose answers hold a token or a signing secret: no cache may keep them."""

SUBMIT, READ, CANCEL, ADMIN = (Depends(may(scope)) for scope in Scope)
"""For `dependencies=[…]` of an endpoint."""
