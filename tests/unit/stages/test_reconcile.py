"""What became of each request, for whatever comes back: nothing is lost, nothing counted twice."""

import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import IO, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.rules.outcomes import DeadLetter, Usage
from service.rules.retry import MOST_LOST, Verdict, classify
from service.rules.work import Entry
from service.stages.dead_letters import result_line
from service.stages.poison import Delay, Division
from service.stages.reconcile import (
    BLOCK,
    Answers,
    FailurePolicy,
    Verdicts,
    judge,
    read_answers,
)
from service.stages.signs import is_common_outage
from tests.factories import entry

STATUSES = ["COMPLETED", "EXPIRED", "CANCELLED", "FAILED"]
TRANSIENT = "Internal Server Error"
PERMANENT = "Invalid model specified"


@contextmanager
def _files(*contents: bytes) -> Iterator[list[IO[bytes]]]:
    with ExitStack() as stack:
        files: list[IO[bytes]] = []
        for content in contents:
            file = stack.enter_context(tempfile.TemporaryFile())
            file.write(content)
            files.append(file)
        yield files


def _line(answers: Answers, files: list[IO[bytes]], number: int) -> bytes:
    """The line that was found for a request."""
    place = answers.places[number]
    assert place is not None
    number, offset, length = place
    files[number].seek(offset)
    return files[number].read(length)


def _success(custom_id: str, tokens: int = 1, content: str = "hi") -> bytes:
    usage = {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1}
    choice = {"index": 0, "finish_reason": "stop", "message": {"content": content}}
    body = {"choices": [choice], "usage": usage}
    return msgspec.json.encode(
        {"custom_id": custom_id, "response": {"status_code": 200, "body": body}}
    )


def _error(custom_id: str, message: str = TRANSIENT, code: str = "batch_client_error") -> bytes:
    return msgspec.json.encode(
        {"custom_id": custom_id, "error": {"code": code, "message": message}}
    )


def _policy(status: str = "COMPLETED", *, cancelled: bool = False, most: int = 3) -> FailurePolicy:
    return FailurePolicy(
        max_attempts=most, cancelled=cancelled, provider_status=status, provider_error="no luck"
    )


def _judged(entries: Sequence[Entry], lines: Sequence[bytes], policy: FailurePolicy) -> Verdicts:
    with _files(b"\n".join(lines)) as files:
        answers = read_answers(files, [e.custom_id for e in entries], lambda: None)
        failed_before = {number for number, e in enumerate(entries) if e.attempts}
        outage = is_common_outage(len(entries), answers, failed_before)
        return judge(list(entries), answers, replace(policy, outage=outage))


def _letter(verdicts: Verdicts, ordinal: int = 0) -> DeadLetter:
    return verdicts.dead[ordinal]


# --- anything at all ----------------------------------------------------------------------------

IDS = [f"r{i}" for i in range(8)]
PADS = st.text(max_size=5)

answer_lines = st.one_of(
    st.builds(_success, st.sampled_from(IDS), st.integers(0, 99), PADS),
    st.builds(
        _error,
        st.sampled_from(IDS),
        st.sampled_from([TRANSIENT, PERMANENT, "new words", ""]),
        st.sampled_from(["batch_client_error", "timeout", "invalid_request_error", ""]),
    ),
    st.builds(_success, st.sampled_from(["stranger", ""])),
    st.builds(_error, st.just("stranger")),
    st.builds(lambda line, cut: line[:cut], st.just(_success("r0")), st.integers(0, 60)),
    st.sampled_from(IDS).map(lambda i: msgspec.json.encode({"custom_id": i})),
    st.builds(
        lambda i, status: msgspec.json.encode(
            {"custom_id": i, "response": {"status_code": status, "body": {"error": "no"}}}
        ),
        st.sampled_from(IDS),
        st.sampled_from([200, 400, 429, 500]),
    ),
    st.sampled_from([b"", b"{}", b"null", b"\xff", b"\r"]),
)
entry_lists = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, MOST_LOST)), min_size=1, max_size=8
).map(lambda d: [entry(i, attempts=a, lost=lost) for i, (a, lost) in enumerate(d)])


def _is_success(line: bytes) -> str | None:
    """The custom_id of a line that the naive reader takes for a success."""
    try:
        read = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not isinstance(read, dict) or read.get("error") or not read.get("response"):
        return None
    response = read["response"]
    if response["status_code"] != 200 or response["body"].get("error"):
        return None
    return str(read["custom_id"])


@settings(max_examples=300)
@given(
    entry_lists,
    st.lists(answer_lines, max_size=20),
    st.lists(answer_lines, max_size=10),
    st.builds(
        FailurePolicy,
        provider_status=st.sampled_from([*STATUSES, ""]),
        cancelled=st.booleans(),
        max_attempts=st.integers(1, 4),
        provider_error=st.sampled_from([None, "no luck"]),
    ),
    st.sampled_from([b"", b"\n"]),
)
def test_every_request_is_final_or_carried_exactly_once(
    entries: list[Entry],
    output: list[bytes],
    errors: list[bytes],
    policy: FailurePolicy,
    end: bytes,
) -> None:
    known = {e.custom_id: e for e in entries}
    with _files(b"\n".join(output) + end, b"\n".join(errors) + end) as files:
        answers = read_answers(files, list(known), lambda: None)
        verdicts = judge(entries, answers, policy)

        # Conservation.
        served = [e.ordinal for e, place in zip(entries, answers.places, strict=True) if place]
        carried_ordinals = [e.ordinal for e in verdicts.carried]
        ordinals = [*served, *verdicts.dead, *carried_ordinals]
        assert sorted(ordinals) == [e.ordinal for e in entries]
        assert verdicts.succeeded == len(served)
        assert carried_ordinals == sorted(carried_ordinals)

        # A success wins, the first of two does, and its bytes are the provider's.
        first: dict[str, bytes] = {}
        for line in [*output, *errors]:
            custom_id = _is_success(line)
            if custom_id in known:
                first.setdefault(custom_id, line)
        assert sorted(known[i].ordinal for i in first) == served
        for custom_id, line in first.items():
            assert _line(answers, files, known[custom_id].ordinal).rstrip(b"\n") == line
        usages = [
            msgspec.json.decode(line)["response"]["body"].get("usage") for line in first.values()
        ]
        assert answers.usage.total_tokens == sum(u["total_tokens"] for u in usages if u)

    for carried in verdicts.carried:
        before = known[carried.custom_id]
        assert not policy.cancelled
        assert carried.attempts + carried.lost == before.attempts + before.lost + 1
        assert carried.attempts < policy.max_attempts or carried.lost > before.lost
        assert carried.lost <= MOST_LOST
        assert msgspec.structs.replace(carried, attempts=0, lost=0) == msgspec.structs.replace(
            before, attempts=0, lost=0
        )
    for letter in verdicts.dead.values():
        assert letter.code
        line = msgspec.json.decode(result_line(letter))
        assert line["custom_id"] == letter.custom_id
        assert letter.attempts in {
            known[letter.custom_id].attempts,
            known[letter.custom_id].attempts + 1,
        }


@pytest.mark.parametrize(
    ("status", "failing"),
    [(s, TRANSIENT) for s in STATUSES] + [(s, None) for s in STATUSES if s != "FAILED"],
)
def test_no_request_is_carried_for_ever(status: str, failing: str | None) -> None:
    lines = [] if failing is None else [_error("r0", failing)]
    carried, batches = [entry(0)], 0
    while carried and batches < 200:
        verdicts = _judged(carried, lines, _policy(status))
        carried, batches = verdicts.carried, batches + 1
    given_back = failing is None and status in {"EXPIRED", "CANCELLED"}
    assert batches == 3 + (MOST_LOST if given_back else 0)
    assert _letter(verdicts).attempts == 3


# --- one thing at a time ------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, -1])
def test_a_success_wins_over_an_error_whichever_comes_first(order: int) -> None:
    verdicts = _judged([entry(0)], [_success("r0"), _error("r0", PERMANENT)][::order], _policy())
    assert verdicts.succeeded == 1
    assert not verdicts.dead


def test_the_first_of_two_successes_wins_and_is_paid_once() -> None:
    with _files(_success("r0", 5) + b"\n" + _success("r0", 7)) as files:
        answers = read_answers(files, ["r0"], lambda: None)
        assert _line(answers, files, 0) == _success("r0", 5) + b"\n"
    assert answers.usage == Usage(5, 1, 6)
    assert answers.duplicate == 1


def test_a_permanent_error_is_a_dead_letter_at_once() -> None:
    letter = _letter(_judged([entry(0)], [_error("r0", PERMANENT)], _policy()))
    assert (letter.code, letter.message, letter.attempts) == ("batch_client_error", PERMANENT, 1)


def test_a_transient_error_is_carried_until_the_last_attempt() -> None:
    assert _judged([entry(0)], [_error("r0")], _policy()).carried == [entry(0, attempts=1)]
    letter = _letter(_judged([entry(0, attempts=2)], [_error("r0")], _policy()))
    assert (letter.message, letter.attempts) == (TRANSIENT, 3)


@pytest.mark.parametrize("status", ["EXPIRED", "CANCELLED"])
def test_a_day_lost_by_the_provider_is_no_attempt(status: str) -> None:
    assert _judged([entry(0)], [], _policy(status)).carried == [entry(0, lost=1)]


def test_an_error_counts_as_an_attempt_on_a_bad_day_too() -> None:
    verdicts = _judged([entry(0), entry(1)], [_error("r0")], _policy("EXPIRED"))
    assert verdicts.carried == [entry(0, attempts=1), entry(1, lost=1)]


@pytest.mark.parametrize(
    ("failing", "lost", "expected"),
    [
        (25, 0, entry(0, lost=1)),
        (25, 2, entry(0, lost=3)),
        (25, 3, entry(0, attempts=1, lost=3)),  # after three rounds they count
        (19, 0, entry(0, attempts=1)),  # too few
    ],
)
def test_most_lines_that_fail_alike_with_trouble_at_together_spend_no_attempt(
    failing: int, lost: int, expected: Entry
) -> None:
    entries = [entry(i, lost=lost) for i in range(failing)]
    verdicts = _judged(entries, [_error(e.custom_id) for e in entries], _policy())
    assert verdicts.carried[0] == expected
    (group,) = verdicts.groups
    assert group.delay is (Delay.OUTAGE if failing > 20 else Delay.BACKOFF)


def test_a_few_bad_lines_among_many_are_no_outage() -> None:
    entries = [entry(i) for i in range(50)]
    lines = [(_error if i < 25 else _success)(f"r{i}") for i in range(50)]
    assert {e.attempts for e in _judged(entries, lines, _policy()).carried} == {1}


@pytest.mark.parametrize("new", [0, 19, 20])
def test_what_failed_before_and_fails_again_tells_of_no_outage(new: int) -> None:
    entries = [entry(i, attempts=0 if i < new else 1) for i in range(new + 40)]
    with _files(b"\n".join(_error(f"r{e.ordinal}") for e in entries)) as files:
        answers = read_answers(files, [e.custom_id for e in entries], lambda: None)
    before = {e.ordinal for e in entries if e.attempts}
    assert is_common_outage(len(entries), answers, before) is (new >= 20)


def test_a_missing_line_is_an_attempt() -> None:
    verdicts = _judged([entry(0), entry(1, attempts=2)], [], _policy("COMPLETED"))
    assert verdicts.missing == (0, 1)
    assert verdicts.carried == [entry(0, attempts=1)]
    assert _letter(verdicts, 1).code == "missing"
    assert "COMPLETED" in _letter(verdicts, 1).message


def test_what_a_failed_batch_leaves_over_goes_where_the_division_says() -> None:
    halves = Division(((entry(0),), (entry(1),)), 2)
    policy = replace(_policy("FAILED"), divide=lambda _: halves)
    verdicts = _judged([entry(0), entry(1)], [], policy)
    assert [(group.entries, group.poison) for group in verdicts.groups] == [
        ((entry(0),), 2),
        ((entry(1),), 2),
    ]


def test_what_cannot_be_divided_dies_with_the_words_of_the_provider() -> None:
    letter = _letter(_judged([entry(0)], [], _policy("FAILED")))
    assert (letter.code, letter.message, letter.attempts) == ("batch_failed", "no luck", 1)


def test_a_cancelled_job_retries_nothing_and_keeps_what_is_done() -> None:
    lines = [_success("r0"), _error("r1"), _error("r2", PERMANENT)]
    entries = [entry(0), entry(1), entry(2), entry(3, attempts=1)]
    verdicts = _judged(entries, lines, _policy("CANCELLED", cancelled=True))
    assert verdicts.succeeded == 1
    assert not verdicts.carried
    ends = {o: (letter.code, letter.attempts) for o, letter in verdicts.dead.items()}
    assert ends == {
        1: ("cancelled", 1),  # it was tried and failed
        2: ("batch_client_error", 1),
        3: ("cancelled", 1),  # as before: this batch never came to it
    }


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ({"error": "just words"}, "error", "just words"),
        ({"error": {"message": "no code"}}, "error", "no code"),
        ({"error": {"code": 17, "message": "a number"}}, "17", "a number"),
        ({"error": {"code": "c", "detail": "x"}}, "c", '{"code":"c","detail":"x"}'),
        ({"error": {"code": "c", "message": {"deep": 1}}}, "c", '{"deep":1}'),
        ({"error": ["a", "list"]}, "error", '["a","list"]'),
        ({"error": {"code": "c\0d", "message": "nul \0"}}, "c\ufffdd", "nul \ufffd"),
        ({"response": {"status_code": 404}}, "status_404", "Together answered with status 404"),
        (
            {"response": {"status_code": 400, "body": {"error": {"message": "bad"}}}},
            "status_400",
            "bad",
        ),
        (
            {"response": {"status_code": 200, "body": {"error": {"code": "x", "message": "b"}}}},
            "x",
            "b",
        ),
    ],
)
def test_an_error_of_any_shape_keeps_its_words(
    line: dict[str, Any], code: str, message: str
) -> None:
    data = msgspec.json.encode({"custom_id": "r0", **line})
    letter = _letter(_judged([entry(0)], [data], _policy(most=1)))
    assert (letter.code, letter.message) == (code, message)


def test_endless_words_are_cut() -> None:
    line = _error("r0", "x" * 100_000, "c" * 100_000)
    letter = _letter(_judged([entry(0)], [line], _policy(most=1)))
    assert len(letter.message) <= 4000
    assert len(letter.code) <= 200


def test_what_fits_nothing_is_counted() -> None:
    lines = [_success("stranger"), _error("stranger"), b"oops", b"", _success("r0")[:-3]]
    with _files(b"\n".join(lines)) as files:
        answers = read_answers(files, ["r0"], lambda: None)
    odd = answers.oddities(missing=1)
    assert (odd.unknown, odd.unreadable, odd.duplicate, odd.missing) == (2, 2, 0, 1)


def test_an_answer_cut_by_the_token_limit_is_a_success_that_is_counted() -> None:
    def cut(custom_id: str, content: str | None) -> bytes:
        choice = {"finish_reason": "length", "message": {"content": content}}
        body = {"choices": [choice]}
        return msgspec.json.encode(
            {"custom_id": custom_id, "response": {"status_code": 200, "body": body}}
        )

    lines = [cut("r0", ""), cut("r1", None), cut("r2", "half a")]
    with _files(b"\n".join(lines)) as files:
        answers = read_answers(files, ["r0", "r1", "r2"], lambda: None)
    assert None not in answers.places
    assert answers.truncated == 2


# (the body of a success, whether it holds an answer)
BODIES = [
    ({"choices": [{"message": {"content": "x"}}]}, True),
    ({"choices": [{"message": {"content": None, "tool_calls": [{"id": "t"}]}}]}, True),
    ({"text": "heard"}, True),
    ({"text": ""}, True),  # silence
    ({}, False),
    ({"choices": []}, False),
    ({"choices": None, "usage": {"completion_tokens": 3}}, False),
    ({"choices": {}}, False),
    ({"text": None}, False),
    ("done", False),
    ([], False),
]


@pytest.mark.parametrize(("body", "holds"), BODIES, ids=range(len(BODIES)))
def test_a_success_without_an_answer_is_a_success_that_is_counted(body: Any, holds: bool) -> None:
    line = {"custom_id": "r0", "response": {"status_code": 200, "body": body}}
    with _files(msgspec.json.encode(line)) as files:
        answers = read_answers(files, ["r0"], lambda: None)
    assert None not in answers.places
    assert answers.oddities(missing=0).empty == (not holds)


def test_the_lease_is_kept_while_lines_are_read() -> None:
    kept: list[int] = []
    lines = [_success("r0", content="x" * BLOCK)] * 5
    with _files(b"\n".join(lines)) as files:
        read_answers(files, ["r0"], lambda: kept.append(1))
    assert len(kept) == 5


def test_no_file_means_no_answer() -> None:
    assert read_answers([], ["r0"], lambda: None) == Answers([None])
    assert read_answers([io.BytesIO(b"")], ["r0"], lambda: None) == Answers([None])


def test_the_models_of_this_file_hold() -> None:
    assert classify("batch_client_error", None, TRANSIENT) is Verdict.RETRYABLE
    assert classify("batch_client_error", None, PERMANENT) is Verdict.PERMANENT
