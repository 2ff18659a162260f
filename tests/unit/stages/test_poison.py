"""Which batches the search for bad lines makes, and where it ends."""

import pytest

from service.rules.retry import MOST_LOST, BatchFault, batch_fault
from service.rules.work import BatchClaim
from service.stages.poison import MOST_BATCHES, divide
from tests.factories import batch_claim, entry

LINES = "Failed to calculate tokens: input format error: Line 2 (within chunk): Invalid JSON"
MODEL = "Invalid model ID: Unable to access non-serverless model X"
FILE = "Failed to download input file: got 404 from storage"
UNKNOWN = "Unexpected condition 17"


def claim(
    error: str, *, poison: int = 0, suspects: int = 0, sibling_error: str | None = None
) -> BatchClaim:
    return batch_claim(
        provider_error=error, poison=poison, suspects=suspects, sibling_error=sibling_error
    )


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (LINES, BatchFault.LINES),
        (MODEL, BatchFault.HOPELESS),
        (FILE, BatchFault.FILE),
        (UNKNOWN, BatchFault.UNKNOWN),
        ("", BatchFault.UNKNOWN),
    ],
)
def test_the_message_of_a_failed_batch_tells_what_it_is_about(
    message: str, fault: BatchFault
) -> None:
    assert batch_fault(message) is fault


@pytest.mark.parametrize("message", [LINES, UNKNOWN])
def test_a_batch_is_tried_whole_once_more_before_it_is_cut(message: str) -> None:
    entries = [entry(0), entry(1), entry(2)]

    first = divide(claim(message), entries)
    second = divide(claim(message, poison=first.poison), entries)

    assert first.groups == (tuple(entries),)
    assert second.groups == ((entries[0],), (entries[1], entries[2]))
    assert (first.poison, second.poison) == (1, 2)


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


def test_halves_that_fail_alike_for_an_unknown_reason_are_not_cut_further() -> None:
    other = "Unexpected condition 18"

    assert divide(claim(UNKNOWN, poison=2, sibling_error=other), [entry(0), entry(1)]).groups == ()
    assert divide(claim(UNKNOWN, poison=2, sibling_error="other"), [entry(0), entry(1)]).groups


def test_halves_that_both_have_a_bad_line_are_cut_further() -> None:
    assert divide(claim(LINES, poison=2, sibling_error=LINES), [entry(0), entry(1)]).groups


def test_the_search_ends_after_so_many_batches() -> None:
    entries = [entry(0), entry(1)]

    assert divide(claim(LINES, poison=5, suspects=MOST_BATCHES - 1), entries).groups
    assert divide(claim(LINES, poison=5, suspects=MOST_BATCHES), entries).groups == ()
