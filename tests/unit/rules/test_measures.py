"""What a process measures, until it is stored."""

import math
import os
import warnings

from service.rules import measures
from service.rules.measures import (
    BLOB_OPERATIONS,
    MEASURES,
    OTHER,
    SETTLE_SECONDS,
    STAGE_SECONDS,
    TOGETHER_CALLS,
    Key,
    Tally,
)


def test_what_took_longest_still_has_a_bucket() -> None:
    measures.take()
    SETTLE_SECONDS.took(0.03)
    SETTLE_SECONDS.took(1e9)
    with STAGE_SECONDS.timed("split"):
        pass
    taken = measures.take()

    assert taken[Key("haulier_settle_seconds", (), 0.05)] == Tally(1, 0.03)
    assert taken[Key("haulier_settle_seconds", (), math.inf)] == Tally(1, 1e9)
    assert sum(key.name == "haulier_stage_seconds" for key in taken) == 1
    assert measures.take() == {}


def test_what_is_given_back_is_added_to_what_came_since() -> None:
    measures.take()
    BLOB_OPERATIONS.count("read", "ok", more=2)
    taken = measures.take()
    BLOB_OPERATIONS.count("read", "ok")
    measures.give_back(taken)

    assert [tally.count for tally in measures.take().values()] == [3]


def test_nothing_from_outside_makes_a_series() -> None:
    measures.take()
    for number in range(1000):
        TOGETHER_CALLS.count(f"made up {number}", "ok")

    assert list(measures.take()) == [Key("haulier_together_calls", (OTHER, "ok"), math.inf)]
    assert sum(len(list(one.series())) * max(1, len(one.up_to)) for one in MEASURES) < 700


def test_a_fork_begins_anew_whoever_held_the_lock() -> None:
    BLOB_OPERATIONS.count("read", "ok")
    with warnings.catch_warnings(action="ignore"), measures._lock:
        pid = os.fork()
        if pid == 0:
            BLOB_OPERATIONS.count("write", "ok")
            names = [key.labels for key in measures.take()]
            os._exit(0 if names == [("write", "ok")] else 1)
    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 0
