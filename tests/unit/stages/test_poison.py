"""Which batches the search for bad lines makes, and where it ends."""

import pytest

from service.rules.retry import MOST_LOST, MOST_SUSPECTS, BatchFault, batch_fault
from service.rules.work import BatchClaim
from service.stages.poison import Delay, divide
from tests.factories import batch_claim, entry

LINES = "Failed to calculate tokens: input format error: Line 2 (within chunk): Invalid JSON"
MODEL = "Invalid model ID: Unable to access non-serverless model X"
FILE = "Failed to download input file: got 404 from storage"
UNKNOWN = "Unexpected condition 17"


def claim(
    error: str, *, poison: int = 0, suspects: int = 0, sibling_errors: tuple[str, ...] = ()
) -> BatchClaim:
    return batch_claim(
        provider_error=error, poison=poison, suspects=suspects, sibling_errors=sibling_errors
    )


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (LINES, BatchFault.LINES),
        (MODEL, BatchFault.HOPELESS),
        (FILE, BatchFault.FILE),
        (UNKNOWN, BatchFault.UNKNOWN),
        ("Internal Server Error", BatchFault.OUTAGE),
        ("", BatchFault.UNKNOWN),
    ],
)
def test_the_message_of_a_failed_batch_tells_what_it_is_about(
    message: str, fault: BatchFault
) -> None:
    assert batch_fault(message) is fault


def test_a_batch_with_a_bad_line_is_divided_into_eight_at_once() -> None:
    entries = [entry(i) for i in range(20)]

    division = divide(claim(LINES), entries)

    assert [e for group in division.groups for e in group] == entries
    assert sorted(len(group) for group in division.groups) == [2] * 4 + [3] * 4
    assert (division.poison, division.delay) == (1, Delay.NONE)


def test_a_batch_that_failed_for_an_unknown_reason_is_tried_whole_once_more() -> None:
    entries = [entry(0), entry(1), entry(2)]

    first = divide(claim(UNKNOWN), entries)
    second = divide(claim(UNKNOWN, poison=first.poison), entries)

    assert first.groups == (tuple(entries),)
    assert second.groups == ((entry(0),), (entry(1),), (entry(2),))
    assert (first.poison, second.poison) == (1, 2)


@pytest.mark.parametrize("bad", [{0, 450, 899}, {1, 2, 3}, {100, 500, 501}])
def test_three_bad_lines_among_900_are_found_in_five_rounds(bad: set[int]) -> None:
    """Rounds count the batch that failed at first."""
    waiting, poison, suspects, dead = [[entry(i) for i in range(900)]], 0, 0, set()
    rounds = 0
    while waiting:
        rounds += 1
        failed = [group for group in waiting if bad & {e.ordinal for e in group}]
        waiting = []
        for group in failed:
            division = divide(claim(LINES, poison=poison, suspects=suspects), group)
            waiting += [list(piece) for piece in division.groups]
            suspects += len(division.groups)
            if not division.groups:
                dead |= {e.ordinal for e in group}
        poison += 1
    assert dead == bad
    assert rounds <= 5
    assert suspects <= MOST_SUSPECTS


@pytest.mark.parametrize("words", ["Internal Server Error", "upstream timed out", "Overloaded"])
def test_trouble_at_together_suspects_no_line_and_costs_no_attempt(words: str) -> None:
    division = divide(claim(words), [entry(0), entry(1)])

    assert division.groups == ((entry(0, lost=1), entry(1, lost=1)),)
    assert (division.poison, division.delay) == (0, Delay.OUTAGE)


@pytest.mark.parametrize("message", [LINES, UNKNOWN])
def test_a_line_that_fails_alone_is_bad(message: str) -> None:
    assert divide(claim(message, poison=3), [entry(0)]).groups == ()


def test_what_can_never_run_is_not_even_tried_again() -> None:
    assert divide(claim(MODEL), [entry(0), entry(1)]).groups == ()


def test_a_lost_file_is_uploaded_anew_and_suspects_no_line() -> None:
    division = divide(claim(FILE), [entry(0), entry(1)])

    assert division.groups == ((entry(0, lost=1), entry(1, lost=1)),)
    assert division.poison == 0


def test_a_file_that_is_always_lost_ends_the_batch() -> None:
    assert divide(claim(FILE), [entry(0, lost=MOST_LOST)]).groups == ()


def test_pieces_that_all_fail_alike_for_an_unknown_reason_are_not_divided_further() -> None:
    entries = [entry(0), entry(1)]
    alike = ("Unexpected condition 18",) * 7

    assert divide(claim(UNKNOWN, poison=2, sibling_errors=alike), entries).groups == ()
    assert divide(claim(UNKNOWN, poison=2, sibling_errors=(*alike, "other")), entries).groups


def test_pieces_that_all_have_a_bad_line_are_divided_further() -> None:
    assert divide(claim(LINES, poison=2, sibling_errors=(LINES,)), [entry(0), entry(1)]).groups


def test_the_search_ends_after_so_many_batches() -> None:
    entries = [entry(i) for i in range(20)]

    assert len(divide(claim(LINES, poison=5, suspects=MOST_SUSPECTS - 3), entries).groups) == 3
    assert divide(claim(LINES, poison=5, suspects=MOST_SUSPECTS - 1), entries).groups == ()
