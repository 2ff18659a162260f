"""Checking answers.

An answer that fails its check is a failed attempt. It is kept in blob storage while its request
goes again, and stands in the result line if the request fails for good.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import IO

import msgspec

from service.rules.check_process import Reply
from service.rules.checks import FAILED, UNCHECKED, Check, read_check
from service.rules.errors import error_text
from service.rules.retry import Verdict
from service.rules.work import PartClaim
from service.stages.checker import WINDOW, Checker
from service.stages.clients import Clients
from service.stages.reconcile import BLOCK, Answers, Failure, Place
from service.together.said import said

STOPPED = Failure(
    UNCHECKED,
    None,
    "the check of its answer took too much time or memory and was stopped; simplify `check`",
    own=Verdict.PERMANENT,
)


def check_answers(
    files: Sequence[IO[bytes]],
    answers: Answers,
    parts: Sequence[tuple[PartClaim, range]],
    clients: Clients,
) -> None:
    """Turn the answers that fail the check of their job into failures.

    `parts` are given with the numbers of their requests. Raises OSError.
    """
    written = sorted({part.check for part, _ in parts if part.check is not None})
    if not written:
        return
    checks = [read_check(msgspec.json.decode(check)) for check in written]
    numbers = {check: number for number, check in enumerate(written)}
    descriptors = [file.fileno() for file in files]
    # A step fits in a block even if all its lines are as long as the longest one.
    step = min(WINDOW, max(1, BLOCK // (answers.longest + 1)))
    with Checker([check.costly for check in checks]) as checker:
        for part, requests in parts:
            if part.check is None:
                continue
            number = numbers[part.check]
            served = (each for each in requests if answers.places[each] is not None)
            while some := list(islice(served, step)):
                _check(descriptors, answers, some, checks[number], partial(checker.replies, number))
                clients.lease.keep()


def _check(
    descriptors: Sequence[int],
    answers: Answers,
    requests: Sequence[int],
    check: Check,
    run: Callable[[Sequence[Sequence[str]]], list[Reply]],
) -> None:
    """Check the answers to some requests: first what is cheap."""
    failures: dict[int, Failure] = {}
    passed: dict[int, Sequence[str]] = {}
    for request in requests:
        found = said(line_at(descriptors, answers.places[request]))
        reason = check.reason(found)
        if reason is None:
            passed[request] = found.texts
        else:
            failures[request] = _failure(reason)
    if check.costly:
        for request, reply in zip(passed, run(list(passed.values())), strict=True):
            if reply.stopped:
                failures[request] = STOPPED
            elif reply.reason is not None:
                failures[request] = _failure(reply.reason)
    for request, failure in failures.items():
        answers.reject(request, failure)


def _failure(reason: str) -> Failure:
    message = f"the answer fails its check: {reason}"
    return Failure(FAILED, None, error_text(message), own=Verdict.RETRYABLE)


def line_at(descriptors: Sequence[int], place: Place | None) -> bytes:
    """Return the line of an answer in the downloaded files."""
    if place is None:
        raise AssertionError("the request has an answer")
    file, offset, length = place
    return os.pread(descriptors[file], length, offset)
