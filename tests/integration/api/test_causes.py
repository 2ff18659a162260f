"""What failed for good, grouped by cause, over HTTP and on the command line."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from service.payloads.blobs import packed
from service.rules.alike import alike
from service.rules.outcomes import DeadLetter
from service.stages.dead_letters import result_line
from service.store.causes import causes_of_job, causes_since
from service.store.engine import clock
from service.store.producers import add_producer
from tests.api import Api, problem
from tests.factories import entry, final_lines, settlement
from tests.integration.api.test_walls import as_bearer

SAID = {
    0: ("400", "context of 9000 tokens is too long"),
    1: ("400", "context of 12,345 tokens is too long"),
    2: ("422", "context of 1 tokens is too long"),
    3: ("400", "no such tool: 'search'"),
    5: ("400", "context of 77 tokens is too long"),
}


def letter(ordinal: int) -> DeadLetter:
    code, message = SAID[ordinal]
    return DeadLetter(
        ordinal=ordinal,
        custom_id=f"r{ordinal}",
        code=code,
        message=message,
        attempts=3,
        cause=alike(message),
    )


@pytest.fixture
def job_id(api: Api) -> UUID:
    """A finished job of ten requests, of which five failed for three causes."""
    (batch_id,) = api.harness.split(10)
    job_id = api.harness.job_of(batch_id).id
    api.blobs.put(api.harness.part(batch_id).manifest_blob or "", packed([*map(entry, range(10))]))
    letters = tuple(map(letter, SAID))
    told = {one.ordinal: result_line(one) for one in letters}
    lines = [(n, told.get(n, b"{}") + b"\n") for n in range(10)]
    done = settlement(5, final_lines=final_lines(api.blobs, "lines", lines))
    api.harness.settle(batch_id, replace(done, dead=letters))
    return job_id


def told(answer: dict[str, Any]) -> list[tuple[str, str, int]]:
    return [(one["code"], one["text"], one["requests"]) for one in answer["data"]]


TOLD = [
    ("400", "context of # tokens is too long", 3),
    ("422", "context of # tokens is too long", 1),
    ("400", "no such tool: …", 1),
]


def test_failures_are_grouped_by_code_and_by_what_their_messages_have_in_common(
    api: Api, job_id: UUID
) -> None:
    of_job = api.http.get(f"/v1/jobs/{job_id}/causes").json()
    lately = api.http.get("/v1/errors").json()
    for answer in (of_job, lately):
        assert sorted(told(answer)) == sorted(TOLD)
        assert told(answer)[0] == TOLD[0]
        assert (answer["requests"], answer["is_complete"]) == (5, True)
        examples = answer["data"][0]["examples"]
        assert [example["custom_id"] for example in examples] == ["r0", "r5"]
        assert {example["job_id"] for example in examples} == {str(job_id)}
    assert [one["id"] for one in of_job["data"]] == [one["id"] for one in lately["data"]]

    one = api.http.get(f"/v1/jobs/{job_id}/causes", params={"limit": 1}).json()
    assert (told(one), one["requests"]) == (TOLD[:1], 5)

    until = lately["data"][0]["first_at"]
    assert told(api.http.get("/v1/errors", params={"until": until}).json()) == []
    assert told(api.http.get("/v1/errors", params={"since": until}).json()) == told(lately)
    problem(api.http.get("/v1/errors", params={"since": "yesterday"}), 422)


def test_rows_of_before_are_grouped_by_what_they_say(api: Api, job_id: UUID) -> None:
    known = [one.id for one in causes_of_job(api.db, job_id, limit=9).causes]
    with api.db.begin() as session:
        session.execute(
            text("UPDATE haulier.dead_letters SET cause = NULL, producer = NULL WHERE ordinal > 0")
        )
    found = causes_of_job(api.db, job_id, limit=9)
    assert sorted(one.id for one in found.causes) == sorted(known)
    assert (found.causes[0].requests, found.requests, found.is_complete) == (3, 5, True)


def test_no_more_is_looked_at_than_allowed_and_the_answer_says_so(api: Api, job_id: UUID) -> None:
    few = causes_of_job(api.db, job_id, limit=9, most=2)
    assert (few.requests, few.is_complete) == (2, False)
    assert [one.text for one in few.causes] == [TOLD[0][1]]
    now = clock(api.db)
    window: dict[str, Any] = {"since": now - timedelta(days=1), "until": now, "limit": 9}
    lately = causes_since(api.db, **window, producer=None, most=4)
    assert (lately.requests, lately.is_complete) == (4, False)
    assert causes_since(api.db, **window, producer="nobody").causes == ()


def test_a_producer_is_told_of_its_own_failures_alone(api: Api, job_id: UUID) -> None:
    with as_bearer(api, add_producer(api.db, "stranger").text) as stranger:
        assert stranger.get("/v1/errors").json()["requests"] == 0
        problem(stranger.get(f"/v1/jobs/{job_id}/causes"), 404)


def test_a_few_of_a_cause_are_retried_and_then_the_rest(api: Api, job_id: UUID) -> None:
    path = f"/v1/jobs/{job_id}"
    cause = api.http.get(f"{path}/causes").json()["data"][0]["id"]
    for wrong in (
        {"cause": "0" * 12},
        {"cause": cause, "custom_ids": ["r0"]},
        {"limit": 2},
        {"cause": "x"},
    ):
        problem(api.http.post(f"{path}/retry", json=wrong), 422)
    answer = api.http.post(f"{path}/retry", json={"cause": cause, "limit": 2}).json()
    assert (answer["state"], answer["pending"], answer["failed"]) == ("running", 2, 3)
    left = [one["custom_id"] for one in api.http.get(f"{path}/failures").json()["data"]]
    assert left == ["r2", "r3", "r5"]
