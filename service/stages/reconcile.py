"""Deciding what became of each request: compare the input with everything that came back.

The comparison is a set difference and never trusts counts or statuses. A success wins over an
error, the first of two successes wins, and a request that is in neither file is missing.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import IO
from uuid import UUID, uuid4

import msgspec

from service.rules.errors import error_text
from service.rules.retry import (
    MOST_LOST,
    MOST_UNCOUNTED,
    Verdict,
    alike,
    classify,
    is_outage,
)
from service.rules.work import DeadLetter, Entry, Oddities, Usage
from service.stages.dead_letters import dead_letter
from service.stages.poison import Delay, Division
from service.together.answers import Frame, read_frames, says_nothing
from service.together.lenient import BOM

OUTAGE_LINES = 20
"""The fewest lines that must fail alike to be a sign of trouble at Together."""
BLOCK = 1 << 20
"""About how many bytes of lines to read at once. The last line is read to its end."""


@dataclass(frozen=True)
class Failure:
    """Together's reason for not serving a request."""

    code: str | None
    status: int | None
    message: str


@dataclass
class Answers:
    """An index of the answers in the downloaded files of a batch."""

    found: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """(file, offset, length) of the first success of each custom_id."""
    failures: dict[str, Failure] = field(default_factory=dict)
    used: dict[str, Usage] | None = None
    """The usage of each success, if it is asked for by request."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    readable: int = 0
    """Lines that say what became of a request, of this batch or of another one."""
    unknown: int = 0
    duplicate: int = 0
    unreadable: int = 0
    truncated: int = 0
    longest: int = 0
    """Bytes of the longest line in the files."""

    @property
    def usage(self) -> Usage:
        return Usage(self.prompt_tokens, self.completion_tokens, self.total_tokens)

    def usage_of(self, custom_ids: Iterable[str]) -> Usage:
        """Return the usage of some requests; `used` must have been asked for."""
        known = self.used or {}
        return sum((known[name] for name in custom_ids if name in known), Usage())

    def oddities(self, missing: int) -> Oddities:
        return Oddities(
            unknown=self.unknown,
            duplicate=self.duplicate,
            unreadable=self.unreadable,
            missing=missing,
            truncated=self.truncated,
        )


def read_answers(
    files: Sequence[IO[bytes]],
    wanted: set[str],
    keep: Callable[[], None],
    *,
    by_request: bool = False,
    ignored: Callable[[str], bool] = lambda _: False,
) -> Answers:
    """Index the answers to the custom_ids in `wanted`. Reads each file once from its start.

    `by_request` asks for the usage of each. Other custom_ids are oddities, unless `ignored`.
    """
    answers = Answers(used={} if by_request else None)
    for number, file in enumerate(files):
        file.seek(0)
        offset = len(BOM) if file.read(len(BOM)) == BOM else 0
        file.seek(offset)
        while lines := file.readlines(BLOCK):
            for line, frame in zip(lines, read_frames(lines), strict=True):
                length = len(line)
                if frame is not None:
                    if frame.custom_id in wanted:
                        answers.readable += 1
                        _index(answers, frame, line, (number, offset, length))
                    elif not ignored(frame.custom_id):
                        answers.readable += 1
                        answers.unknown += 1
                elif line.strip():
                    answers.unreadable += 1
                offset += length
            answers.longest = max(answers.longest, *map(len, lines))
            keep()
    return answers


def _index(answers: Answers, frame: Frame, line: bytes, place: tuple[int, int, int]) -> None:
    """Add one answer to the index."""
    custom_id = frame.custom_id
    body = frame.response.answers if frame.response is not None else None
    if body is None or frame.error:
        answers.failures.setdefault(custom_id, _failure(frame))
        return
    if custom_id in answers.found:
        answers.duplicate += 1
        return
    answers.found[custom_id] = place
    if body.usage is not None:
        answers.prompt_tokens += body.usage.prompt_tokens
        answers.completion_tokens += body.usage.completion_tokens
        answers.total_tokens += body.usage.total_tokens
        if answers.used is not None:
            answers.used[custom_id] = Usage(
                body.usage.prompt_tokens, body.usage.completion_tokens, body.usage.total_tokens
            )
    for choice in body.choices or ():
        if choice.finish_reason == "length" and says_nothing(line):
            answers.truncated += 1
            break


def _failure(frame: Frame) -> Failure:
    """Return what went wrong with a request."""
    response = frame.response
    status = response.status_code if response is not None else None
    body_error = response.body.error if response is not None and response.body else None
    error = frame.error or body_error
    if isinstance(error, dict):
        code, message = error.get("code"), error.get("message")
        return Failure(_text(code)[:200] if code else None, status, _text(message or error))
    if error:
        return Failure(None, status, _text(error))
    return Failure(None, status, f"Together answered with status {status}")


def _text(message: object) -> str:
    return error_text(
        message if isinstance(message, str) else msgspec.json.encode(message).decode()
    )


@dataclass(frozen=True)
class FailurePolicy:
    """The facts that decide what happens to requests without a success.

    `provider_status` is in upper case.
    """

    max_attempts: int
    cancelled: bool
    provider_status: str
    provider_error: str | None
    own_texts: Sequence[tuple[str, Verdict]] = ()
    """Error texts that this deployment classifies itself."""
    divide: Callable[[list[Entry]], Division] | None = None
    """Decides how the requests without a line go on if the batch FAILED as a whole."""
    outage: bool = False
    """Whether most requests of the batch failed alike with trouble at Together."""


@dataclass(frozen=True)
class Group:
    """Requests that go into one new part."""

    entries: tuple[Entry, ...]
    poison: int = 0
    delay: Delay = Delay.BACKOFF
    company: UUID | None = None


@dataclass
class Verdicts:
    """What was decided. Each entry of the manifest is either in `final` or in one of the `groups`.

    Both are in input order. `successes` and `dead` go by ordinal.
    """

    final: list[Entry] = field(default_factory=list)
    successes: set[int] = field(default_factory=set)
    dead: dict[int, DeadLetter] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    missing: tuple[int, ...] = ()
    """The ordinals of the requests that have no line."""

    @property
    def carried(self) -> list[Entry]:
        """The requests that go into new parts."""
        return [entry for group in self.groups for entry in group.entries]


def judge(
    entries: list[Entry],
    answers: Answers,
    policy: FailurePolicy,
    names: Sequence[str] | None = None,
) -> Verdicts:
    """Decide for each request: it succeeded, it is dead, or a new part carries it.

    `names` are what the requests are called in the batch, where that is not their custom_id.
    """
    verdicts = Verdicts()
    carried: list[Entry] = []
    unanswered: list[Entry] = []
    missing: list[int] = []
    for at, entry in enumerate(entries):
        name = entry.custom_id if names is None else names[at]
        if name in answers.found:
            verdicts.successes.add(entry.ordinal)
        elif (failure := answers.failures.get(name)) is not None:
            uncounted = policy.outage and entry.lost < MOST_UNCOUNTED and not policy.cancelled
            if uncounted and is_outage(failure.message):
                carried.append(msgspec.structs.replace(entry, lost=entry.lost + 1))
            else:
                _assign(verdicts, carried, _fate(entry, failure, policy))
        else:
            missing.append(entry.ordinal)
            if policy.provider_status == "FAILED" and not policy.cancelled:
                unanswered.append(entry)
            else:
                _assign(verdicts, carried, _missing_fate(entry, policy))
    verdicts.missing = tuple(missing)
    _divide(verdicts, unanswered, policy)
    if carried:
        delay = Delay.OUTAGE if policy.outage else Delay.BACKOFF
        verdicts.groups.append(Group(tuple(carried), delay=delay))
    left = {entry.ordinal for entry in verdicts.carried}
    verdicts.final = [entry for entry in entries if entry.ordinal not in left] if left else entries
    return verdicts


def is_common_outage(requests: int, answers: Answers, failed_before: Collection[str] = ()) -> bool:
    """Whether most requests of a batch failed alike with trouble at Together.

    A few lines prove nothing: at least OUTAGE_LINES must have failed. Neither do requests that had
    `failed_before`, at an attempt that counted: they are in this batch because they fail.
    """
    words = Counter(
        alike(failure.message)
        for custom_id, failure in answers.failures.items()
        if custom_id not in answers.found
        and custom_id not in failed_before
        and is_outage(failure.message)
    )
    most = max(words.values(), default=0)
    return most >= OUTAGE_LINES and most * 2 > requests - len(failed_before)


def _assign(verdicts: Verdicts, carried: list[Entry], fate: DeadLetter | Entry) -> None:
    if isinstance(fate, DeadLetter):
        verdicts.dead[fate.ordinal] = fate
    else:
        carried.append(fate)


def _divide(verdicts: Verdicts, unanswered: list[Entry], policy: FailurePolicy) -> None:
    """Decide for the requests without a line of a batch that FAILED as a whole."""
    if not unanswered:
        return
    division = policy.divide(unanswered) if policy.divide is not None else Division()
    verdicts.groups.extend(
        Group(
            group,
            division.poison,
            division.delay,
            # What may hold a bad line does not mix with others.
            division.company or (uuid4() if division.poison else None),
        )
        for group in division.groups
    )
    if not division.groups:
        words = policy.provider_error or "the batch failed"
        for entry in unanswered:
            letter = dead_letter(entry, "batch_failed", words, entry.attempts + 1)
            verdicts.dead[entry.ordinal] = letter


def _fate(entry: Entry, failure: Failure, policy: FailurePolicy) -> DeadLetter | Entry:
    """Return a dead letter, or the entry that goes into a new part."""
    verdict = classify(failure.code, failure.status, failure.message, policy.own_texts)
    attempts = entry.attempts + 1
    if verdict is Verdict.RETRYABLE and policy.cancelled:
        return dead_letter(entry, "cancelled", "the job was cancelled", attempts)
    if verdict is Verdict.PERMANENT or attempts >= policy.max_attempts:
        code = failure.code or (f"status_{failure.status}" if failure.status else "error")
        return dead_letter(entry, code, failure.message, attempts)
    return msgspec.structs.replace(entry, attempts=attempts)


def _missing_fate(entry: Entry, policy: FailurePolicy) -> DeadLetter | Entry:
    """Return the same for a request that is in neither file."""
    if policy.cancelled:
        return dead_letter(entry, "cancelled", "the job was cancelled", entry.attempts)
    given_back = policy.provider_status in {"EXPIRED", "CANCELLED"}
    if given_back and entry.lost < MOST_LOST:
        return msgspec.structs.replace(entry, lost=entry.lost + 1)
    words = f"Together returned no line for it; its batch is {policy.provider_status}"
    return _fate(entry, Failure("missing", None, words), policy)
