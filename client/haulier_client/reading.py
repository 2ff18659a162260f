"""Reading results, and going on where that broke off."""

from typing import Any
from uuid import UUID

import httpx

from haulier_client.errors import HaulierError, ResultsChanged, Unreachable, problem_of
from haulier_client.plans import PAUSES, TIMEOUT, id_of
from haulier_client.views import Job, Result, read_result


class Reading:
    """Where reading results stands: whole lines go out, and what breaks off goes on from there."""

    def __init__(self, job: Job | UUID | str) -> None:
        self._path = f"/v1/jobs/{id_of(job)}/results"
        self._etag = ""
        self._offset = 0
        self._tail = b""
        self._pauses = iter(PAUSES)
        self.done = False

    def arguments(self) -> dict[str, Any]:
        headers = {"Accept-Encoding": "identity"}  # only plain lines can be had in ranges
        if self._offset:
            headers |= {"Range": f"bytes={self._offset}-", "If-Range": self._etag}
        return {"method": "GET", "url": self._path, "headers": headers, "timeout": TIMEOUT}

    def begin(self, response: httpx.Response) -> None:
        """Look at the head of an answer. Raises what is wrong with it."""
        if self._offset and response.status_code in {200, 416}:
            raise ResultsChanged("the results were replaced while they were read")
        if not response.is_success:
            raise problem_of(response)
        self._etag = response.headers.get("etag", "")

    def feed(self, block: bytes) -> list[Result]:
        """The results whose lines are whole now."""
        self._offset += len(block)
        self._pauses = iter(PAUSES)
        *lines, self._tail = (self._tail + block).split(b"\n")
        return [read_result(line) for line in lines]

    def end(self) -> None:
        """The answer is whole. Raises Unreachable if its last line is not."""
        if self._tail:
            raise Unreachable("the results broke off in the middle of a line")
        self.done = True

    def pause(self, error: Exception) -> float:
        """Seconds until it may go on. Raises Unreachable if nothing came for too long."""
        if (pause := next(self._pauses, None)) is None:
            if isinstance(error, HaulierError):
                raise error
            raise Unreachable(f"the results broke off: {error!r}") from error
        return pause
