"""The gate: nothing is read from, or told to, a caller who is not known."""

import time
from collections.abc import Callable
from contextlib import nullcontext

import anyio.to_thread
import structlog
from fastapi.security.utils import get_authorization_scheme_param
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.answering import Answer
from service.api.auth import Caller, unauthorized
from service.api.problems import (
    INTERNAL,
    RETRY_AFTER,
    TOO_MANY_CONNECTIONS,
    TOO_MANY_FAILURES,
    HttpProblem,
    unforeseen,
)
from service.api.services import Services
from service.api.turns import Turn, present, within

STRANGERS = 500
"""Calls with tokens that this process has not seen yet, which wait to be looked up. Each weighs
some 20 kB."""
LATER = 1.0
"""Seconds after which a caller is looked at again once its body is whole."""


class Gate:
    """ASGI middleware: who is calling, before any path, method or body is looked at.

    `is_open` says which requests need no token, `told` puts a refusal into the words of the
    application.
    """

    def __init__(
        self,
        app: ASGIApp,
        is_open: Callable[[Scope], bool],
        told: Callable[[HttpProblem], Response],
    ) -> None:
        self._app = app
        self._is_open = is_open
        self._told = told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_open(scope):
            await self._app(scope, receive, send)
            return
        services = scope["app"].state.services
        assert isinstance(services, Services)
        turn = present()  # one that is known got it from the turnstile
        if turn is None:
            if services.turns.waiting("") >= STRANGERS:
                await self._told(_too_many_strangers())(scope, receive, send)
                return
            turn = services.turns.turn("")
        with within(turn):
            await self._in_turn(turn, services, scope, receive, send)

    async def _in_turn(
        self, turn: Turn, services: Services, scope: Scope, receive: Receive, send: Send
    ) -> None:
        await turn.take()
        try:
            caller = await _caller(scope, services)
        except HttpProblem as problem:
            turn.leave()
            await self._told(problem)(scope, receive, send)
            return
        await turn.of(caller.producer)
        structlog.contextvars.bind_contextvars(
            producer=caller.producer, credential=caller.credential
        )
        with services.memory.body_of(caller.producer) as holding:
            scope.setdefault("state", {}).update(caller=caller, holding=holding)
            let_in_at = time.monotonic()
            has_body = awaits_body = _has_body(scope)

            async def counted() -> Message:
                nonlocal awaits_body
                turn.leave()
                # Once the body is whole, only the end of the connection is waited for.
                with holding.waiting() if awaits_body else nullcontext():
                    message = await receive()
                awaits_body = awaits_body and bool(message.get("more_body"))
                await turn.take()
                holding.body_arrived(len(message.get("body", b"")))
                is_whole = message["type"] == "http.request" and not message.get("more_body")
                # A body may take hours. Whoever lost the right to send it meanwhile gets nothing.
                # Without a body this may be an event stream that waits for its client to leave. It
                # looks after the token itself, and its answer is under way.
                if has_body and is_whole and time.monotonic() - let_in_at > LATER:
                    await _check_again(caller, services)
                return message

            async def refuse(problem: HttpProblem) -> None:
                await self._told(problem)(scope, receive, send)

            answer = Answer(send, holding, refuse)

            async def sent(message: Message) -> None:
                turn.leave()
                await answer.send(message)

            await self._app(scope, counted, sent)


def token_of(scope: Scope) -> str:
    """The token that a request shows, or ""."""
    scheme, token = get_authorization_scheme_param(Headers(scope=scope).get("authorization"))
    return token if scheme.lower() == "bearer" else ""


async def _caller(scope: Scope, services: Services) -> Caller:
    """Who is calling. Raises HttpProblem."""
    token = token_of(scope)
    if not token:
        raise unauthorized("send `Authorization: Bearer <token>`")
    caller = await services.authenticator.caller(token)
    if caller is not None:
        return caller
    wait = services.failures.note(scope["client"][0] if scope.get("client") else "")
    if wait is not None:
        raise HttpProblem(
            TOO_MANY_FAILURES,
            "too many wrong tokens came from your address; correct the token, then try again",
            headers={"Retry-After": str(wait)},
        )
    raise unauthorized()


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _too_many_strangers() -> HttpProblem:
    return HttpProblem(
        TOO_MANY_CONNECTIONS,
        "too many calls come with tokens that were never used here; try again",
        headers=RETRY_AFTER,
    )


async def _check_again(caller: Caller, services: Services) -> None:
    """Raises HttpProblem unless the caller's token is still valid, or if nobody can tell."""
    try:
        is_valid = await anyio.to_thread.run_sync(services.authenticator.is_valid, caller)
    except Exception as error:
        problem = unforeseen(error)
        if problem.kind is INTERNAL:
            raise
        raise problem from error
    if not is_valid:
        raise unauthorized()
