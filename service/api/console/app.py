"""The application at /console: its routes, and how each kind of answer is made."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from time import monotonic
from typing import Any

import structlog
from anyio import to_thread
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.datastructures import URL
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Scope

from config import VERSION
from service.api.console import assets, flash, forms, login
from service.api.console.headers import SafeHeaders
from service.api.console.looking import Look, Looking
from service.api.console.navigation import PAGES
from service.api.console.pages import Page, Verb
from service.api.console.rendering import ROOT, below, draw
from service.api.console.visitor import Visitor
from service.api.problems import (
    FORBIDDEN,
    NOT_FOUND,
    UNAUTHORIZED,
    WRONG_METHOD,
    HttpProblem,
    bad_input,
    unforeseen,
)
from service.api.services import Services
from service.api.streams import EventStream
from service.rules.errors import BadInput

log = structlog.get_logger()

Endpoint = Callable[[Request], Awaitable[Response]]

LOOK_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 15.0
CHECK_SECONDS = 5.0
"""How often a stream sees whether its visitor is still logged in."""
LONGEST_SECONDS = 900.0
_BACK = re.compile(r"[\w./?&=%:~+*<>-]*", re.ASCII)


def mount(haulier: FastAPI) -> None:
    """Serve the console below `haulier`, with its services. `/` leads there."""
    console = Starlette(
        routes=list(_routes()),
        middleware=[Middleware(SafeHeaders)],
        exception_handlers={
            HttpProblem: _on_problem,
            BadInput: _on_problem,
            HTTPException: _on_problem,
            Exception: _on_problem,
        },
    )
    console.state = haulier.state
    console.state.looking = Looking()

    async def lead(request: Request) -> Response:
        services = request.app.state.services
        return RedirectResponse(below(services.settings) + "/", 303)

    for path in ("/", ROOT):
        haulier.router.routes.append(Route(path, lead))
    haulier.router.routes.append(Mount(ROOT, console))


def is_open(scope: Scope) -> bool:
    """Whether a request is the console's, which has a gate of its own."""
    path = scope["path"]
    leads_there = path in {"/", ROOT} and scope["method"] in {"GET", "HEAD"}
    return leads_there or path.startswith(f"{ROOT}/")


def _routes() -> list[Route]:
    routes = [
        Route("/assets/{mark}/{name}", _asset),
        Route("/login", _login_page, methods=["GET"]),
        Route("/login", _log_in, methods=["POST"]),
        Route("/logout", _log_out, methods=["POST"]),
    ]
    for page in PAGES:
        routes.append(Route(page.path, _shows(page), methods=["GET"]))
        routes.extend(Route(verb.path, _does(verb), methods=["POST"]) for verb in page.verbs)
    return routes


async def _asset(request: Request) -> Response:
    return assets.served(request.path_params["mark"], request.path_params["name"])


# --- pages ---------------------------------------------------------------------------------------


def _shows(page: Page) -> Endpoint:
    async def show(request: Request) -> Response:
        services, looking = _services(request), request.app.state.looking
        visitor = await login.visitor_of(request, services)
        if visitor is None:
            return _to_login(request, services)
        if not page.is_open_to(visitor):
            raise HttpProblem(NOT_FOUND, "there is no such page, or not for you")
        look = Look(
            services=services,
            visitor=visitor,
            path=request.path_params,
            query=request.query_params,
        )
        if page.is_live and "text/event-stream" in request.headers.get("accept", ""):
            services.streams.check(look.sees)
            events = _events(page, look, looking, request)
            return EventStream(events, services.streams, look.sees)
        shown = await looking.at(page.path, page.read, look)
        values = _values(page, look, shown)
        if not page.is_whole:
            return HTMLResponse(draw(page.template, services.settings, values))
        return _whole(request, visitor, values)

    return show


def _values(page: Page, look: Look, shown: Mapping[str, Any]) -> dict[str, Any]:
    return {"page": page, "visitor": look.visitor, "query": look.query, **shown}


def _whole(request: Request, visitor: Visitor, values: dict[str, Any]) -> Response:
    services = _services(request)
    told = flash.told(request)
    menu = [one for one in PAGES if one.menu and one.is_open_to(visitor)]
    content = draw(
        "layout.html",
        services.settings,
        {
            "menu": menu,
            "told": told,
            "version": VERSION,
            "search": request.query_params.get("q", ""),
            **values,
        },
    )
    response = HTMLResponse(content)
    if told is not None:
        response.delete_cookie(flash.COOKIE, path=below(services.settings))
    return response


async def _events(
    page: Page, look: Look, looking: Looking, request: Request
) -> AsyncIterator[bytes]:
    """Yield the page's content whenever it changes, while its visitor is logged in."""
    services = look.services
    until, checked_at, sent_at = monotonic() + LONGEST_SECONDS, monotonic(), monotonic()
    last = ""
    yield b"retry: 2000\n\n"
    while not services.streams.is_ending and monotonic() < until:
        if monotonic() - checked_at >= CHECK_SECONDS:
            if await login.visitor_of(request, services) is None:
                return
            checked_at = monotonic()
        try:
            shown = await looking.at(page.path, page.read, look)
            content = draw(page.template, services.settings, _values(page, look, shown))
        except Exception as error:  # noqa: BLE001  the next look may well succeed
            log.warning("console_not_read", page=page.path, reason=unforeseen(error).detail)
            content = last
        if content != last:
            yield _event(content)
            last, sent_at = content, monotonic()
        elif monotonic() - sent_at >= KEEP_ALIVE_SECONDS:
            yield b": still here\n\n"
            sent_at = monotonic()
        await services.streams.pause(LOOK_SECONDS)


def _event(content: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in content.splitlines())
    return f"event: content\n{lines}\n".encode()


# --- verbs ---------------------------------------------------------------------------------------


def _does(verb: Verb) -> Endpoint:
    async def do(request: Request) -> Response:
        services = _services(request)
        visitor = await login.visitor_of(request, services)
        if visitor is None:
            raise HttpProblem(UNAUTHORIZED, "you are not logged in any more")
        forms.check_origin(request, services.settings)
        sent = await forms.fields(request)
        forms.check_token(sent, visitor.csrf)
        if verb.needs not in visitor.powers or (verb.operators_only and not visitor.sees_all):
            raise HttpProblem(FORBIDDEN, "your role does not allow this")
        look = Look(services=services, visitor=visitor, path=request.path_params)
        words, is_error = await _done(verb, look, sent)
        request.app.state.looking.forget()
        path = below(services.settings)
        response = RedirectResponse(path + "/" + _back(sent), 303)
        flash.tell(
            response,
            words,
            path=path,
            secure=request.url.scheme == "https",
            is_error=is_error,
        )
        return response

    return do


async def _done(verb: Verb, look: Look, sent: Mapping[str, str]) -> tuple[str, bool]:
    """Do it, and return what to tell, and whether it failed."""
    try:
        return await to_thread.run_sync(verb.do, look, sent), False
    except HttpProblem as problem:
        if problem.kind is NOT_FOUND:
            raise
        return _sentence(problem.detail), True
    except BadInput as error:
        return _sentence(bad_input(error).detail), True


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + ("" if words.endswith(".") else ".")


def _back(sent: Mapping[str, str]) -> str:
    """Return the page to show afterwards, below the console's own address."""
    asked = sent.get("back", "").lstrip("/")
    return asked if _BACK.fullmatch(asked) and ".." not in asked else ""


# --- logging in and out --------------------------------------------------------------------------


async def _login_page(request: Request) -> Response:
    return _login_form(request, None)


def _login_form(request: Request, problem: HttpProblem | None) -> Response:
    settings = _services(request).settings
    content = draw(
        "login.html",
        settings,
        {
            "problem": None if problem is None else problem.detail,
            "back": request.query_params.get("back", ""),
            "version": VERSION,
        },
    )
    if problem is None:
        return HTMLResponse(content)
    return HTMLResponse(content, problem.kind.status, headers=problem.headers)


async def _log_in(request: Request) -> Response:
    services = _services(request)
    forms.check_origin(request, services.settings)
    sent = await forms.fields(request)
    try:
        secret = await login.log_in(request, services, sent.get("token", ""))
    except HttpProblem as problem:
        return _login_form(request, problem)
    path = below(services.settings)
    response = RedirectResponse(path + "/" + _back(sent), 303)
    login.set_cookie(response, secret, services.settings, request.url, path)
    return response


async def _log_out(request: Request) -> Response:
    services = _services(request)
    forms.check_origin(request, services.settings)
    visitor = await login.visitor_of(request, services)
    if visitor is not None:
        forms.check_token(await forms.fields(request), visitor.csrf)
        await login.log_out(services, visitor)
    path = below(services.settings)
    response = RedirectResponse(path + "/login", 303)
    response.delete_cookie(login.COOKIE, path=path)
    return response


def _to_login(request: Request, services: Services) -> Response:
    if "text/event-stream" in request.headers.get("accept", ""):
        return Response(status_code=401)
    path = below(services.settings)
    asked = request.url.path.removeprefix(ROOT).lstrip("/")
    if request.url.query:
        asked += f"?{request.url.query}"
    return RedirectResponse(str(URL(path + "/login").include_query_params(back=asked)), 303)


# --- errors --------------------------------------------------------------------------------------


async def _on_problem(request: Request, error: Exception) -> Response:
    problem = _problem_of(error)
    content = draw(
        "problem.html",
        _services(request).settings,
        {"problem": problem, "sentence": _sentence(problem.detail), "version": VERSION},
    )
    return HTMLResponse(content, problem.kind.status, headers=problem.headers)


def _problem_of(error: Exception) -> HttpProblem:
    match error:
        case HttpProblem():
            return error
        case BadInput():
            return bad_input(error)
        case HTTPException(status_code=404):
            return HttpProblem(NOT_FOUND, "there is no such page")
        case HTTPException():
            return HttpProblem(WRONG_METHOD, "see the Allow header", headers=error.headers)
        case _:
            return unforeseen(error)


def _services(request: Request) -> Services:
    services = request.app.state.services
    assert isinstance(services, Services)
    return services
