"""What the answers of a batch say of its lane, and what an ill lane costs a request."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from service.rules.lanes import Signs, Trouble
from service.rules.retry import is_outage
from service.rules.states import LaneState
from service.rules.work import BatchClaim, Entry
from service.stages.judging import is_borne
from service.stages.poison import Delay, divide
from service.stages.reconcile import Answers, Failure, FailurePolicy, Verdicts, judge
from service.stages.signs import signs_of
from tests.factories import NOW, batch_claim, entry, part_claim

TROUBLE = Failure(None, None, "Internal Server Error")
PERMANENT = Failure(None, None, "Invalid model specified")
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("code", "status", "message", "outage"),
    [
        (None, None, "Request TIMED OUT after 30 s", True),
        ("server_error", None, "oh", True),
        (None, 503, "oh", True),
        (None, 429, "oh", True),
        (None, 400, "oh", False),
        (None, None, "oh", False),
        (None, 500, "Invalid model specified", False),
        ("invalid_request_error", 500, "oh", False),
    ],
)
def test_trouble_at_together_is_told_by_text_code_or_status(
    code: str | None, status: int | None, message: str, outage: bool
) -> None:
    assert is_outage(message, code, status) is outage


def signs(
    sizes: Sequence[int],
    failures: dict[int, Failure],
    *,
    before: Sequence[int] = (),
    batch: BatchClaim | None = None,
    served: bool = True,
) -> Signs | None:
    """Of a batch whose jobs 0, 1, … have so many requests each; the others are served."""
    total = sum(sizes)
    place = (0, 0, 1) if served else None
    answers = Answers([None if number in failures else place for number in range(total)])
    answers.failures = failures
    firsts = [sum(sizes[:number]) for number in range(len(sizes))]
    parts = [
        (part_claim(job_id=UUID(int=job), requests=size), range(first, first + size))
        for job, (first, size) in enumerate(zip(firsts, sizes, strict=True))
    ]
    return signs_of(batch or batch_claim(), answers, parts, before)


def jobs(found: Signs | None) -> list[int]:
    assert found is not None
    return [job.int for job in found.jobs]


def test_a_batch_of_which_most_was_served_is_well() -> None:
    found = signs([5, 5], dict.fromkeys(range(4), TROUBLE))
    assert (found is not None and found.well, jobs(found)) == (True, [0, 1])


def test_a_batch_of_which_most_failed_alike_names_its_ill_jobs() -> None:
    found = signs([5, 5, 2], dict.fromkeys(range(9), TROUBLE))
    assert found == Signs(
        jobs=(UUID(int=0), UUID(int=1)),
        trouble=Trouble.LINES,
        text="internal server error",
        lines=9,
    )


@pytest.mark.parametrize("failure", [PERMANENT, Failure(None, None, "what is this")])
def test_what_requests_bring_upon_themselves_says_nothing(failure: Failure) -> None:
    assert signs([10], dict.fromkeys(range(9), failure)) is None


def test_what_failed_before_proves_nothing_unless_it_is_a_probe() -> None:
    failures = dict.fromkeys(range(10), TROUBLE)
    assert signs([10], failures, before=range(10)) is None
    found = signs([10], failures, before=range(10), batch=batch_claim(probe=20))
    assert jobs(found) == [0]


def test_a_batch_that_failed_for_an_outage_is_ill_as_a_whole() -> None:
    failed = batch_claim(provider_status="FAILED", provider_error="Internal Server Error")
    found = signs([3, 3], {}, batch=failed, served=False)
    assert (found is not None and found.trouble, jobs(found)) == (Trouble.BATCHES, [0, 1])
    poisoned = replace(failed, provider_error="Line 2: Invalid JSON")
    assert signs([3], {}, batch=poisoned, served=False) is None


# --- what it costs ----------------------------------------------------------------------------


def judged(
    failure: Failure, entries: Sequence[Entry], *, is_ill: bool = True, is_borne: bool = False
) -> Verdicts:
    answers = Answers([None] * len(entries), failures=dict.fromkeys(range(len(entries)), failure))
    policy = FailurePolicy(
        max_attempts=2,
        cancelled=False,
        provider_status="COMPLETED",
        provider_error=None,
        is_ill=is_ill,
        is_borne=is_borne,
    )
    return judge(list(entries), answers, policy)


def test_in_an_ill_lane_trouble_is_no_attempt_however_few_requests_there_are() -> None:
    entries = [entry(0, attempts=1, lost=3)]
    verdicts = judged(TROUBLE, entries, is_borne=True)
    assert verdicts.carried == entries
    assert [group.delay for group in verdicts.groups] == [Delay.OUTAGE]


def test_it_is_one_once_the_patience_is_over() -> None:
    verdicts = judged(TROUBLE, [entry(0), entry(1, attempts=1)])
    assert verdicts.carried == [entry(0, attempts=1)]
    assert set(verdicts.dead) == {1}
    # Its part stays one that an outage cost a round, so that the patience does not begin anew.
    assert [group.delay for group in verdicts.groups] == [Delay.OUTAGE]


def test_in_an_ill_lane_as_well_what_is_permanent_is_dead() -> None:
    assert set(judged(PERMANENT, [entry(0)], is_borne=True).dead) == {0}


@pytest.mark.parametrize(
    ("state", "hours", "borne"),
    [
        (LaneState.HEALTHY, None, False),
        (LaneState.RESTING, None, True),
        (LaneState.PROBING, 71, True),
        (LaneState.RESTING, 72, False),
    ],
)
def test_an_ill_lane_is_borne_for_so_many_hours(
    state: LaneState, hours: int | None, borne: bool
) -> None:
    since = None if hours is None else NOW - HOUR * hours
    batch = batch_claim(lane_state=state, now=NOW)
    assert is_borne(batch, part_claim(outage_since=since), HOUR * 72) is borne


def test_a_batch_that_fails_in_an_ill_lane_goes_again_as_it_is() -> None:
    failed = batch_claim(provider_status="FAILED", provider_error="Internal Server Error")
    entries = [entry(0, lost=20)]
    division = divide(failed, entries, is_borne=True)
    assert (division.groups, division.delay) == ((tuple(entries),), Delay.OUTAGE)
    assert divide(failed, entries).groups == ()
