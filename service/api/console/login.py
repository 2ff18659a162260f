"""Logging in and out: a credential for a session cookie, or the word of a trusted proxy."""

import secrets
from dataclasses import replace
from datetime import timedelta

from anyio import to_thread
from starlette.datastructures import URL
from starlette.requests import Request
from starlette.responses import Response

from config.settings import Settings
from config.values import Role
from service.api.auth import Caller
from service.api.console.visitor import OF_ROLES, Power, Visitor, name_of, powers_of
from service.api.problems import TOO_MANY_FAILURES, UNAUTHORIZED, HttpProblem
from service.api.services import Services
from service.rules.credentials import Scope
from service.rules.names import trouble_with
from service.store import sessions

COOKIE = "haulier_session"
ANYBODY = "*"
"""Stands for everybody whom `HAULIER_CONSOLE_ROLES` does not name."""
_API_SCOPES = {
    Role.VIEWER: frozenset({Scope.READ}),
    Role.OPERATOR: frozenset({Scope.READ, Scope.SUBMIT, Scope.CANCEL}),
    Role.ADMIN: frozenset(Scope),
}


async def visitor_of(request: Request, services: Services) -> Visitor | None:
    """Return who is looking, or None if nobody is logged in. Raises HttpProblem."""
    named = _named_by_proxy(request, services)
    if named is not None:
        return named
    secret = request.cookies.get(COOKIE, "")
    if not secret:
        return None
    return await to_thread.run_sync(_of_session, services, secret, _address(request))


def _of_session(services: Services, secret: str, origin: str | None) -> Visitor | None:
    authenticator = services.authenticator
    digest = authenticator.proof(secret)
    found = sessions.find(services.db, digest)
    if found is None:
        return None
    if found.credential is None:
        caller: Caller | None = authenticator.admin
    else:
        caller = authenticator.holding(found.credential)
    if caller is None:
        return None
    return Visitor(
        name=name_of(caller),
        caller=caller,
        powers=powers_of(caller),
        csrf=authenticator.proof(f"csrf {secret}").hex(),
        digest=digest,
        origin=origin,
    )


def _named_by_proxy(request: Request, services: Services) -> Visitor | None:
    header = services.settings.console_user_header
    if header is None or not request.scope.get("state", {}).get("by_trusted_proxy"):
        return None
    names = request.headers.getlist(header)
    if not names or not names[0]:
        return None
    name = names[0]
    if len(names) > 1 or trouble_with(name):
        raise HttpProblem(UNAUTHORIZED, f"the proxy must send one {header} with a legible name")
    roles = services.settings.console_roles
    role = roles.get(name, roles.get(ANYBODY))
    if role is None:
        raise HttpProblem(
            UNAUTHORIZED, f"HAULIER_CONSOLE_ROLES gives {name} no role; ask an administrator"
        )
    admin = services.authenticator.admin
    return Visitor(
        name=f"user:{name}",
        caller=replace(admin, scopes=_API_SCOPES[role]),
        powers=OF_ROLES[role],
        csrf=services.authenticator.proof(f"csrf of user {name}").hex(),
        origin=_address(request),
    )


async def log_in(request: Request, services: Services, token: str) -> str:
    """Return the secret of a new session for whom the token stands. Raises HttpProblem."""
    caller = await services.authenticator.caller(token.strip())
    address = _address(request)
    if caller is None:
        wait = services.failures.note(address or "")
        if wait is not None:
            raise HttpProblem(
                TOO_MANY_FAILURES,
                f"Too many wrong tokens came from your address. Try again in {wait} seconds.",
                headers={"Retry-After": str(wait)},
            )
        raise HttpProblem(
            UNAUTHORIZED,
            "This token is not known, has expired or was revoked, or its producer is disabled.",
        )
    if not powers_of(caller) & {Power.READ}:
        raise HttpProblem(UNAUTHORIZED, "This token lacks the scope `read`.")
    secret = secrets.token_urlsafe(32)
    await to_thread.run_sync(
        lambda: sessions.begin(
            services.db,
            services.authenticator.proof(secret),
            credential=caller.token_id,
            origin=address,
            lasts=_lasts(services.settings),
        )
    )
    return secret


async def log_out(services: Services, visitor: Visitor) -> None:
    """End the visitor's session."""
    if visitor.digest is not None:
        await to_thread.run_sync(sessions.end, services.db, visitor.digest)


def set_cookie(response: Response, secret: str, settings: Settings, url: URL, path: str) -> None:
    """Give the browser its session."""
    response.set_cookie(
        COOKIE,
        secret,
        max_age=int(_lasts(settings).total_seconds()),
        path=path,
        httponly=True,
        samesite="strict",
        secure=is_encrypted(settings, url),
    )


def is_encrypted(settings: Settings, url: URL) -> bool:
    """Whether browsers reach the console by TLS."""
    return url.scheme == "https" or (settings.public_url or "").startswith("https:")


def _lasts(settings: Settings) -> timedelta:
    return timedelta(hours=settings.console_session_hours)


def _address(request: Request) -> str | None:
    return request.client.host if request.client else None
