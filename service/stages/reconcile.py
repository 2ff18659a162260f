"""Deciding what became of each request: compare the input with everything that came back.

The comparison is a set difference and never trusts counts or statuses. A success wins over an
error, the first of two successes wins, and a request that is in neither file is missing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO
from uuid import UUID, uuid4

import msgspec

from service.rules.errors import error_text
from service.rules.outcomes import DeadLetter, Oddities, Usage
from service.rules.retry import (
    MOST_LOST,
    MOST_UNCOUNTED,
    Verdict,
    classify,
    is_outage,
)
from service.rules.work import Entry
from service.stages.dead_letters import dead_letter
from service.stages.poison import Delay, Division
from service.together.answers import Frame, answer_of, read_frames, says_nothing, tells
from service.together.lenient import BOM

BLOCK = 1 << 20
"""About how many bytes of lines to read at once. The last line is read to its end."""


@dataclass(frozen=True)
class Failure:
    """Together's reason for not serving a request."""

    code: str | None
    status: int | None
    message: str
    own: Verdict | None = None
    """The verdict, if the reason is not Together's: its answer fails the check of its job."""


def is_trouble(failure: Failure, texts: Sequence[tuple[str, Verdict]] = ()) -> bool:
    """Whether a request failed because Together is in trouble. `texts` are the operator's own."""
    own = failure.own is not None
    return not own and is_outage(failure.message, failure.code, failure.status, texts)


Place = tuple[int, int, int]
"""Where a line stands: (file, offset, length)."""


@dataclass
class Answers:
    """An index of the answers in the downloaded files of a batch.

    A request goes by its number here, which is its place among the names that were asked for.
    """

    places: list[Place | None]
    """Where the first success of each request stands."""
    failures: dict[int, Failure] = field(default_factory=dict)
    unfit: dict[int, Place] = field(default_factory=dict)
    """Where the answers stand that fail their check: their requests are among the failures."""
    used: dict[int, Usage] | None = None
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
    empty: int = 0
    longest: int = 0
    """Bytes of the longest line in the files."""

    @property
    def usage(self) -> Usage:
        return Usage(self.prompt_tokens, self.completion_tokens, self.total_tokens)

    def usage_of(self, numbers: Iterable[int]) -> Usage:
        """Return the usage of some requests; `used` must have been asked for."""
        known = self.used or {}
        return sum((known[number] for number in numbers if number in known), Usage())

    def reject(self, number: int, failure: Failure) -> None:
        """Turn the answer to a request into a failure."""
        place, self.places[number] = self.places[number], None
        if place is not None:
            self.unfit[number] = place
            self.failures[number] = failure

    def oddities(self, missing: int) -> Oddities:
        return Oddities(
            unknown=self.unknown,
            duplicate=self.duplicate,
            unreadable=self.unreadable,
            missing=missing,
            truncated=self.truncated,
            empty=self.empty,
        )


def read_answers(
    files: Sequence[IO[bytes]],
    names: Sequence[str],
    keep: Callable[[], None],
    *,
    by_request: bool = False,
    ignored: Callable[[str], bool] = lambda _: False,
) -> Answers:
    """Index the answers to the requests of these names. Reads each file once from its start.

    `by_request` asks for the usage of each. Other custom_ids are oddities, unless `ignored`.
    """
    answers = Answers([None] * len(names), used={} if by_request else None)
    numbers = dict(zip(names, range(len(names)), strict=True))
    for file_number, file in enumerate(files):
        file.seek(0)
        offset = len(BOM) if file.read(len(BOM)) == BOM else 0
        file.seek(offset)
        while lines := file.readlines(BLOCK):
            offset = _index(answers, lines, numbers, (file_number, offset), ignored)
            keep()
    return answers


def _index(
    answers: Answers,
    lines: list[bytes],
    numbers: dict[str, int],
    at: tuple[int, int],
    ignored: Callable[[str], bool],
) -> int:
    """Add the answers of some lines to the index. Returns the offset behind them.

    Every line that is paid for comes through here: what is done for each is done in place.
    """
    file, offset = at
    places, used = answers.places, answers.used
    readable = prompt = completion = total = 0
    for line, frame in zip(lines, read_frames(lines), strict=True):
        start = offset
        offset += len(line)
        body = None if frame is None else answer_of(frame)
        if frame is None or (body is None and not tells(frame)):
            answers.unreadable += bool(line.strip())
            continue
        number = numbers.get(frame.custom_id)
        if number is None:
            if not ignored(frame.custom_id):
                readable += 1
                answers.unknown += 1
            continue
        readable += 1
        if body is None:
            answers.failures.setdefault(number, _failure(frame))
            continue
        if places[number] is not None:
            answers.duplicate += 1
            continue
        places[number] = (file, start, offset - start)
        usage = body.usage
        if usage is not None:
            prompt += usage.prompt_tokens
            completion += usage.completion_tokens
            total += usage.total_tokens
            if used is not None:
                used[number] = Usage(
                    usage.prompt_tokens, usage.completion_tokens, usage.total_tokens
                )
        answers.empty += body.is_empty
        answers.truncated += body.is_cut and says_nothing(line)
    answers.readable += readable
    answers.prompt_tokens += prompt
    answers.completion_tokens += completion
    answers.total_tokens += total
    answers.longest = max(answers.longest, *map(len, lines))
    return offset


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
    is_ill: bool = False
    """Whether the batch's lane is not healthy."""
    is_borne: bool = False
    """Whether what its lane does to these requests is therefore no attempt."""
    _verdicts: dict[Failure, Verdict] = field(default_factory=dict)

    def verdict_of(self, failure: Failure) -> Verdict:
        """Classify a failure. Many requests of a batch fail in the same words."""
        if failure.own is not None:
            return failure.own
        known = self._verdicts.get(failure)
        if known is None:
            known = classify(failure.code, failure.status, failure.message, self.own_texts)
            self._verdicts[failure] = known
        return known

    def is_trouble(self, failure: Failure) -> bool:
        """Whether a request failed for trouble at Together, and may go again."""
        return not self.cancelled and is_trouble(failure, self.own_texts)


@dataclass(frozen=True)
class Group:
    """Requests that go into one new part."""

    entries: tuple[Entry, ...]
    poison: int = 0
    delay: Delay = Delay.BACKOFF
    company: UUID | None = None


@dataclass
class Verdicts:
    """What was decided. Each entry of the manifest succeeded, is dead or is in one of the `groups`.

    `dead` goes by ordinal.
    """

    succeeded: int = 0
    dead: dict[int, DeadLetter] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    missing: tuple[int, ...] = ()
    """The ordinals of the requests that have no line."""

    @property
    def carried(self) -> list[Entry]:
        """The requests that go into new parts."""
        return [entry for group in self.groups for entry in group.entries]

    def name_answers(self, kept: Mapping[int, str]) -> None:
        """Let requests that go again name an answer that is kept for them, by ordinal."""
        self.groups = [
            replace(
                group,
                entries=tuple(
                    msgspec.structs.replace(entry, answer=kept[entry.ordinal])
                    if entry.ordinal in kept
                    else entry
                    for entry in group.entries
                ),
            )
            for group in self.groups
        ]


def judge(
    entries: list[Entry], answers: Answers, policy: FailurePolicy, first: int = 0
) -> Verdicts:
    """Decide for each request: it succeeded, it is dead, or a new part carries it.

    `first` is the number of the first of the entries; the others follow it.
    """
    verdicts = Verdicts()
    carried: list[Entry] = []
    unanswered: list[Entry] = []
    missing: list[int] = []
    places = answers.places[first : first + len(entries)]
    for number, (entry, place) in enumerate(zip(entries, places, strict=True), first):
        if place is not None:
            continue
        if (failure := answers.failures.get(number)) is not None:
            if policy.is_borne and policy.is_trouble(failure):
                carried.append(entry)
            elif policy.outage and entry.lost < MOST_UNCOUNTED and policy.is_trouble(failure):
                carried.append(msgspec.structs.replace(entry, lost=entry.lost + 1))
            else:
                _assign(verdicts, carried, _fate(entry, failure, policy))
        else:
            missing.append(entry.ordinal)
            if policy.provider_status == "FAILED" and not policy.cancelled:
                unanswered.append(entry)
            else:
                _assign(verdicts, carried, _missing_fate(entry, policy))
    verdicts.succeeded = len(places) - places.count(None)
    verdicts.missing = tuple(missing)
    _divide(verdicts, unanswered, policy)
    if carried:
        delay = Delay.OUTAGE if policy.outage or policy.is_ill else Delay.BACKOFF
        verdicts.groups.append(Group(tuple(carried), delay=delay))
    return verdicts


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
    verdict = policy.verdict_of(failure)
    attempts = entry.attempts + 1
    if verdict is Verdict.RETRYABLE and policy.cancelled and failure.own is None:
        return dead_letter(entry, "cancelled", "the job was cancelled", attempts)
    if verdict is Verdict.PERMANENT or attempts >= policy.max_attempts or policy.cancelled:
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
