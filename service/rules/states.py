"""The states and moves of jobs, parts, batches and lanes. States are participles: what is true now.

A row's lease says who works on it, and its `not_before` says when it is due again.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class JobState(StrEnum):
    ACCEPTED = "accepted"  # the spec is stored, its requests are still to be read
    RUNNING = "running"  # its parts exist
    COMPLETED = "completed"  # every request is accounted for, the results are there
    CANCELLED = "cancelled"  # the same, after a cancel
    REJECTED = "rejected"  # what was submitted cannot be run; the reason is there
    FAILED = "failed"  # it could not be worked on at all; the reason is there


class PartState(StrEnum):
    WAITING = "waiting"  # it has no batch
    TRAVELLING = "travelling"  # it has one
    SETTLED = "settled"  # every request of it is accounted for


class BatchState(StrEnum):
    QUEUED = "queued"  # its parts are chosen, nothing was sent
    UPLOADED = "uploaded"  # Together holds the input file
    CREATED = "created"  # Together holds the batch
    ENDED = "ended"  # Together finished it, one way or another
    SETTLED = "settled"  # every request is accounted for
    FAILED = "failed"  # the same, and nothing was bought: every request is a dead letter
    CANCELLED = "cancelled"  # the same, because its jobs were cancelled


class LaneState(StrEnum):
    HEALTHY = "healthy"  # what waits is admitted
    RESTING = "resting"  # requests of several jobs failed alike: nothing is admitted
    PROBING = "probing"  # a few requests go first, and show whether it is over


class Stage(StrEnum):
    """One step of the work. A stage runs on a leased row and returns an outcome."""

    SPLIT = "split"
    ASSEMBLE = "assemble"
    UPLOAD = "upload"
    CREATE = "create"
    POLL = "poll"
    FETCH = "fetch"


J, P, B, L = JobState, PartState, BatchState, LaneState

JOB_TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    J.ACCEPTED: frozenset({J.RUNNING, J.REJECTED, J.FAILED}),
    J.RUNNING: frozenset({J.COMPLETED, J.CANCELLED}),
    J.COMPLETED: frozenset({J.RUNNING}),  # `retry` of its dead letters
    J.CANCELLED: frozenset({J.RUNNING}),
    J.REJECTED: frozenset(),
    J.FAILED: frozenset(),
}

PART_TRANSITIONS: Mapping[PartState, frozenset[PartState]] = {
    P.WAITING: frozenset({P.TRAVELLING}),
    P.TRAVELLING: frozenset({P.SETTLED, P.WAITING}),  # waiting: it left a batch that goes without
    P.SETTLED: frozenset(),
}

BATCH_TRANSITIONS: Mapping[BatchState, frozenset[BatchState]] = {
    B.QUEUED: frozenset({B.UPLOADED, B.FAILED, B.CANCELLED}),
    B.UPLOADED: frozenset({B.CREATED, B.QUEUED, B.FAILED, B.CANCELLED}),  # queued: upload anew
    B.CREATED: frozenset({B.ENDED, B.SETTLED}),  # settled: given up without its results
    B.ENDED: frozenset({B.SETTLED}),
    B.SETTLED: frozenset(),
    B.FAILED: frozenset(),
    B.CANCELLED: frozenset(),
}

LANE_TRANSITIONS: Mapping[LaneState, frozenset[LaneState]] = {
    L.HEALTHY: frozenset({L.RESTING}),
    L.RESTING: frozenset({L.PROBING, L.HEALTHY}),  # healthy: an operator says so
    L.PROBING: frozenset({L.HEALTHY, L.RESTING}),
}

# By kind: the enums share words, and equal strings would be one key.
TRANSITIONS: Mapping[type[StrEnum], Mapping[Any, frozenset[Any]]] = {
    JobState: JOB_TRANSITIONS,
    PartState: PART_TRANSITIONS,
    BatchState: BATCH_TRANSITIONS,
    LaneState: LANE_TRANSITIONS,
}

# The next stage of a row in each state. A running job waits for its parts; where the last one does
# not complete it, its results are assembled.
JOB_STAGES = {J.ACCEPTED: Stage.SPLIT, J.RUNNING: Stage.ASSEMBLE}
BATCH_STAGES = {
    B.QUEUED: Stage.UPLOAD,
    B.UPLOADED: Stage.CREATE,
    B.CREATED: Stage.POLL,
    B.ENDED: Stage.FETCH,
}

OPEN_BATCH_STATES = frozenset(BATCH_STAGES)


class IllegalMove(Exception):
    """A stage asked for a move that the table does not list: a bug."""


State = JobState | PartState | BatchState | LaneState


def check_move(source: State, target: State) -> None:
    """Raise IllegalMove unless the table lists the move."""
    if target not in TRANSITIONS[type(source)][source]:
        raise IllegalMove(f"{source} → {target}")
