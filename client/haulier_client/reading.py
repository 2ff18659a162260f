"""Reading results, and going on where that broke off."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import httpx

from haulier_client.errors import HaulierError, ResultsChanged, Unreachable, problem_of
from haulier_client.plans import PAUSES, TIMEOUT, id_of
from haulier_client.views import Job, Result, read_result


class Reading:
    """The state of one download of results, which goes on from where a connection broke off.

    `params` are those of `GET …/results`. Partial results and those of one outcome are not the
    same bytes each time, so they cannot be resumed. `pauses` are the seconds to wait after each
    break without a new byte; after the last one the download fails.
    """

    def __init__(
        self,
        job: Job | UUID | str,
        params: Mapping[str, Any] | None = None,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        self._path = f"/v1/jobs/{id_of(job)}/results"
        self._params = {k: v for k, v in (params or {}).items() if v is not None}
        self._etag = ""
        self._offset = 0
        self._tail = b""
        self._all_pauses = pauses
        self._pauses = iter(pauses)
        self.length: int | None = None
        """The bytes of all results, if the API named them."""
        self.done = False

    def arguments(self) -> dict[str, Any]:
        headers = {"Accept-Encoding": "identity"}  # only plain lines can be had in ranges
        if self._offset:
            headers |= {"Range": f"bytes={self._offset}-", "If-Range": self._etag}
        return {
            "method": "GET",
            "url": self._path,
            "params": self._params,
            "headers": headers,
            "timeout": TIMEOUT,
        }

    def begin(self, response: httpx.Response) -> None:
        """Look at the head of an answer. Raises what is wrong with it."""
        if self._offset and response.status_code in {200, 416}:
            raise ResultsChanged("the results were replaced while they were read")
        if not response.is_success:
            raise problem_of(response)
        # A proxy may have compressed the answer all the same.
        is_plain = "content-encoding" not in response.headers
        self._etag = response.headers.get("etag", "") if is_plain and not self._params else ""
        length = response.headers.get("content-length") if is_plain else None
        if not self._offset and length is not None:
            self.length = int(length)

    def count(self, block: bytes) -> bytes:
        """Note that a block has arrived, and return it."""
        self._offset += len(block)
        self._pauses = iter(self._all_pauses)
        return block

    def feed(self, block: bytes) -> list[Result]:
        """Return the results whose lines are complete with this block."""
        *lines, self._tail = (self._tail + self.count(block)).split(b"\n")
        return [read_result(line) for line in lines]

    def end(self) -> None:
        """The answer is whole. Raises Unreachable if its last line is not."""
        if self._tail:
            raise Unreachable("the results broke off in the middle of a line")
        self.done = True

    def pause(self, error: Exception) -> float:
        """Seconds until it may go on. Raises Unreachable if nothing came for too long."""
        resumable = bool(self._etag) or not self._offset
        if not resumable or (pause := next(self._pauses, None)) is None:
            if isinstance(error, HaulierError):
                raise error
            raise Unreachable(f"the results broke off: {error!r}") from error
        return pause
