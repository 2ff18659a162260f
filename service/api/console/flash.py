"""What was done, told once on the next page."""

import base64
import json

from starlette.requests import Request
from starlette.responses import Response

COOKIE = "haulier_flash"
LONGEST = 600


def tell(
    response: Response, words: str, *, path: str, secure: bool, is_error: bool = False
) -> None:
    """Put a sentence on the page that the browser loads next."""
    content = json.dumps([words[:LONGEST], is_error]).encode()
    text = base64.urlsafe_b64encode(content).decode()
    response.set_cookie(
        COOKIE, text, max_age=60, path=path, secure=secure, httponly=True, samesite="strict"
    )


def told(request: Request) -> tuple[str, bool] | None:
    """Return the sentence, and whether it is about something that failed."""
    try:
        words, is_error = json.loads(base64.urlsafe_b64decode(request.cookies[COOKIE]))
        return str(words)[:LONGEST], bool(is_error)
    except (KeyError, ValueError, TypeError):
        return None
