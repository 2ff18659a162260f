"""What may go wrong.

HaulierError
├── Unreachable            no answer came, or one that broke off
├── NotHaulier             an answer came that is none of Haulier's: perhaps the URL is wrong
├── WaitTimeout            the job has not ended in time; it goes on
├── ResultsChanged         a retry replaced the results while they were read: read them anew
└── ProblemError           the API said no, with a problem document (RFC 9457)
    ├── Unauthorized 401, Forbidden 403, NotFound 404, Conflict 409, TooLarge 413, Invalid 422
    ├── RateLimited 429    try again after `retry_after` seconds
    └── Unavailable        502, 503, 504: Haulier or what it stands on is in trouble
"""

from dataclasses import dataclass
from typing import Any

import httpx


class HaulierError(Exception):
    """The base of every error raised here."""

    retry_after: float | None = None
    """Seconds after which it may work, where the API said so."""


class Unreachable(HaulierError):
    """No answer came. The API may have carried the call out all the same."""

    @property
    def connected(self) -> bool:
        """False if no connection came about, so that nothing can have been sent."""
        return not isinstance(self.__cause__, httpx.ConnectError | httpx.ConnectTimeout)

    @property
    def timed_out(self) -> bool:
        """Whether the API took too long to answer."""
        return isinstance(self.__cause__, httpx.TimeoutException)


class NotHaulier(HaulierError):
    """What answered is not Haulier."""


class WaitTimeout(HaulierError, TimeoutError):
    """The job has not ended in time; it goes on."""


class ResultsChanged(HaulierError):
    """The results were replaced while they were read."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with what was sent. `line` counts from 1, None for the spec."""

    message: str
    line: int | None = None


class ProblemError(HaulierError):
    """The API's problem document. `type` is stable, `detail` is for people."""

    def __init__(self, status: int, document: dict[str, Any], retry_after: float | None) -> None:
        self.status = status
        self.type = str(document.get("type", "about:blank"))
        self.detail = str(document.get("detail") or document.get("title") or f"HTTP {status}")
        self.problems = tuple(
            Problem(str(one.get("message")), one.get("line"))
            for one in document.get("problems") or ()
        )
        self.document = document
        self.retry_after = retry_after
        super().__init__(f"{self.detail} ({status})")


class Unauthorized(ProblemError):
    """The token is missing, unknown, expired or revoked."""


class Forbidden(ProblemError):
    """The token lacks a scope."""


class NotFound(ProblemError):
    """There is no such job, or it is another producer's."""


class Conflict(ProblemError):
    """The job's state does not allow it, or the key was used for other content."""


class TooLarge(ProblemError):
    """More than is taken in one piece."""


class Invalid(ProblemError):
    """What was sent cannot be run; `problems` says what, and in which lines."""


class RateLimited(ProblemError):
    """The producer's limit is reached; try again after `retry_after` seconds."""


class Unavailable(ProblemError):
    """Try again later."""


ERRORS: dict[int, type[ProblemError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    422: Invalid,
    429: RateLimited,
    **dict.fromkeys((502, 503, 504), Unavailable),
}


def problem_of(response: httpx.Response) -> HaulierError:
    """The error that an answer stands for."""
    try:
        document = response.json()
    except ValueError:
        document = {"detail": response.text[:500]}
    if not isinstance(document, dict):
        document = {"detail": response.text[:500]}
    said = document.get("error")
    if isinstance(said, dict):  # in Together's form
        document = {"detail": said.get("message"), "type": said.get("code"), "error": said}
    wait = response.headers.get("retry-after", "")
    kind = ERRORS.get(response.status_code, ProblemError)
    return kind(response.status_code, document, float(wait) if wait.isdecimal() else None)
