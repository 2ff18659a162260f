"""Forms that browsers send: their fields, and the proof that one of our pages sent them."""

import hmac
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request

from config.settings import Settings
from service.api.forwarded import public_url
from service.api.problems import FORBIDDEN, TOO_LARGE, UNSUPPORTED, HttpProblem, invalid

MOST_BYTES = 64_000
MOST_FIELDS = 100


async def fields(request: Request) -> dict[str, str]:
    """Return the fields of a form. Raises HttpProblem."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise HttpProblem(UNSUPPORTED, "send a form: application/x-www-form-urlencoded")
    body = b""
    async for block in request.stream():
        body += block
        if len(body) > MOST_BYTES:
            raise HttpProblem(TOO_LARGE, f"a form may have at most {MOST_BYTES:,} bytes")
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict"
        )
    except ValueError:
        raise invalid("the form is not URL-encoded UTF-8, or has too many fields") from None
    if any("\x00" in text for pair in pairs for text in pair):
        raise invalid("the form holds a NUL character")
    return dict(pairs)


def check_origin(request: Request, settings: Settings) -> None:
    """Raise HttpProblem unless the browser says that one of our own pages has sent this."""
    site = request.headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        raise _of_others()
    origin = request.headers.get("origin")
    if origin is None:
        if site is None:
            raise _of_others()  # every browser sends one of them with a form
        return
    ours = urlsplit(public_url(request, settings, ""))
    theirs = urlsplit(origin)
    if (theirs.scheme, theirs.netloc) != (ours.scheme, ours.netloc):
        raise _of_others()


def check_token(sent: Mapping[str, str], expected: str) -> None:
    """Raise HttpProblem unless the form holds the token of the visitor's session."""
    if not hmac.compare_digest(sent.get("csrf", "").encode(), expected.encode()):
        raise HttpProblem(
            FORBIDDEN, "this form is from an earlier login: load the page again, then repeat it"
        )


def _of_others() -> HttpProblem:
    return HttpProblem(
        FORBIDDEN,
        "the form did not come from the console's own pages; if a proxy changes the host, set"
        " HAULIER_PUBLIC_URL",
    )
