"""Who is calling. One bearer token for now; a token stands for a caller, so more can come."""

import hmac
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import Request

from config.settings import Settings
from service.api.problems import UNAUTHORIZED, HttpProblem
from service.spec import Rules


@dataclass(frozen=True)
class Caller:
    """A producer. `sees` is whose jobs exist for it (None: everybody's)."""

    producer: str
    sees: str | None
    rules: Rules


class Tokens:
    """Which token stands for whom."""

    def __init__(self, settings: Settings) -> None:
        assert settings.admin_token is not None
        self._admin_digest = _digest(settings.admin_token.get_secret_value())
        self._admin = Caller(
            producer="default",
            sees=None,
            rules=Rules(accounts=settings.account_names, input_roots=settings.input_roots),
        )

    def caller(self, token: str) -> Caller | None:
        """Who the token stands for. Takes the same time for every wrong token."""
        return self._admin if hmac.compare_digest(_digest(token), self._admin_digest) else None


def _digest(token: str) -> bytes:
    # Of one length whatever was sent, so that the comparison tells nothing about the length.
    return sha256(token.encode(errors="surrogateescape")).digest()


_bearer = HTTPBearer(auto_error=False, description="`HAULIER_ADMIN_TOKEN`")


async def authenticated(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Caller:
    """The caller. Everything below /v1 depends on it, before any endpoint is asked."""
    caller = None
    if credentials is not None:
        caller = request.app.state.services.tokens.caller(credentials.credentials)
    if not isinstance(caller, Caller):
        raise HttpProblem(
            UNAUTHORIZED,
            "the token is not known" if credentials else "send `Authorization: Bearer <token>`",
            headers={"WWW-Authenticate": 'Bearer realm="haulier"'},
        )
    return caller


CalledBy = Annotated[Caller, Depends(authenticated)]
