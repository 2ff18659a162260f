"""The tables of moves, held against the list of DESIGN.md by enumeration."""

from itertools import product

import pytest

from service.rules.states import (
    BATCH_STAGES,
    BATCH_TRANSITIONS,
    JOB_STAGES,
    JOB_TRANSITIONS,
    LANE_TRANSITIONS,
    OPEN_BATCH_STATES,
    BatchState,
    IllegalMove,
    JobState,
    LaneState,
    Stage,
    check_move,
)

BATCH_MOVES = {
    ("queued", "uploaded"),
    ("queued", "failed"),
    ("queued", "cancelled"),
    ("uploaded", "created"),
    ("uploaded", "queued"),
    ("uploaded", "failed"),
    ("uploaded", "cancelled"),
    ("created", "ended"),
    ("created", "settled"),
    ("ended", "settled"),
}
JOB_MOVES = {
    ("accepted", "running"),
    ("accepted", "rejected"),
    ("accepted", "failed"),
    ("running", "completed"),
    ("running", "cancelled"),
    ("completed", "running"),
    ("cancelled", "running"),
}


LANE_MOVES = {
    ("healthy", "resting"),
    ("resting", "probing"),
    ("resting", "healthy"),
    ("probing", "healthy"),
    ("probing", "resting"),
}


@pytest.mark.parametrize(("source", "target"), [*product(LaneState, LaneState)])
def test_a_lane_makes_the_listed_moves_and_no_other(source: LaneState, target: LaneState) -> None:
    if (source, target) in LANE_MOVES:
        check_move(source, target)
    else:
        with pytest.raises(IllegalMove, match=f"{source} → {target}"):
            check_move(source, target)


@pytest.mark.parametrize(("source", "target"), [*product(BatchState, BatchState)])
def test_a_batch_makes_the_listed_moves_and_no_other(
    source: BatchState, target: BatchState
) -> None:
    if (source, target) in BATCH_MOVES:
        check_move(source, target)
    else:
        with pytest.raises(IllegalMove, match=f"{source} → {target}"):
            check_move(source, target)


@pytest.mark.parametrize(("source", "target"), [*product(JobState, JobState)])
def test_a_job_makes_the_listed_moves_and_no_other(source: JobState, target: JobState) -> None:
    if (source, target) in JOB_MOVES:
        check_move(source, target)
    else:
        with pytest.raises(IllegalMove, match=f"{source} → {target}"):
            check_move(source, target)


def test_words_that_both_tables_share_are_not_confused() -> None:
    with pytest.raises(IllegalMove):
        check_move(BatchState.CANCELLED, BatchState.QUEUED)
    check_move(JobState.CANCELLED, JobState.RUNNING)


def test_every_state_is_in_its_table() -> None:
    assert set(BATCH_TRANSITIONS) == set(BatchState)
    assert set(JOB_TRANSITIONS) == set(JobState)
    assert set(LANE_TRANSITIONS) == set(LaneState)


def test_a_batch_is_open_exactly_while_a_stage_has_something_to_do_for_it() -> None:
    assert set(BATCH_STAGES) == OPEN_BATCH_STATES
    assert {state for state, targets in BATCH_TRANSITIONS.items() if targets} == OPEN_BATCH_STATES


def test_every_stage_belongs_to_one_state() -> None:
    stages = [*BATCH_STAGES.values(), *JOB_STAGES.values()]
    assert sorted(stages) == sorted(Stage)


def test_a_batch_that_together_holds_cannot_be_given_up() -> None:
    reachable, found = {BatchState.CREATED}, {BatchState.CREATED}
    while found:
        found = {to for state in found for to in BATCH_TRANSITIONS[state]} - reachable
        reachable |= found
    assert reachable == {BatchState.CREATED, BatchState.ENDED, BatchState.SETTLED}
