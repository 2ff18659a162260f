"""The outbox: what writes a notice, what keeps it, and how it is shown."""

import os
import subprocess
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest

from service.rules.errors import BadInput, Problem, StaleLease
from service.rules.outcomes import Assembled, Fail
from service.rules.permissions import Permissions
from service.rules.spec import read_spec
from service.rules.states import BatchState, JobState, Stage
from service.store import notices
from service.store.cancel import cancel
from service.store.models import Delivery
from service.store.producers import add_producer
from service.store.revive import Revival, revive
from service.store.submit import Submission
from tests.api import TOKEN, Api, problem
from tests.factories import (
    CHAT,
    Harness,
    chat_request,
    mingled,
    settlement,
    submit,
)
from tests.integration.api.test_producers import as_bearer
from tests.processes import HAULIER

HOOK = {"webhook": "https://example.com/hook"}


@pytest.fixture
def harness(api: Api) -> Harness:
    return api.harness


def told(harness: Harness, job_id: UUID) -> list[str]:
    """The events that were told of a job, in order."""
    return [one.event for one in of(harness, job_id)]


def of(harness: Harness, job_id: UUID) -> list[Delivery]:
    return notices.deliveries(harness.db, job_id, after=None, limit=1000)


def assembled(harness: Harness, job_id: UUID) -> None:
    harness.end(job_id)


def test_a_completed_job_tells_every_target_once(harness: Harness) -> None:
    other = {"webhook": "https://example.com/other", "events": ["job.completed"]}
    quiet = {"webhook": "https://example.com/quiet", "events": ["job.failed"]}
    batch_id = harness.ended(3, notify=[HOOK, other, quiet])
    job_id = harness.part(batch_id).job_id
    harness.settle(batch_id, settlement(3))
    assert told(harness, job_id) == ["job.completed"] * 2
    assert {one.target["webhook"] for one in of(harness, job_id)} == {
        HOOK["webhook"],
        other["webhook"],
    }


def test_a_cancelled_job_tells_so(harness: Harness) -> None:
    batch_id = harness.ended(3, notify=[HOOK])
    job_id = harness.part(batch_id).job_id
    cancel(harness.db, job_id)
    assert told(harness, job_id) == []
    harness.settle(batch_id, settlement(3))
    assembled(harness, job_id)
    assert told(harness, job_id) == ["job.cancelled"]


@pytest.mark.parametrize("rejected", [True, False])
def test_a_job_that_cannot_be_split_tells_so(harness: Harness, rejected: bool) -> None:
    job_id = harness.unread(notify=[HOOK])
    harness.apply(harness.claim_job(job_id, Stage.SPLIT), Fail("no", rejected=rejected))
    assert told(harness, job_id) == ["job.rejected" if rejected else "job.failed"]


def test_a_submission_that_is_rejected_at_once_tells_so_once(harness: Harness) -> None:
    content = {"endpoint": CHAT, "requests": [chat_request("a")], "notify": [HOOK]}
    submission = Submission(
        id=uuid4(),
        producer="default",
        spec=read_spec(msgspec.json.encode(content), Permissions()),
        bad=BadInput([Problem("no", 1)]),
    )
    submit(harness.db, [submission])
    submit(harness.db, [submission])
    assert told(harness, submission.id) == ["job.rejected"]


def test_progress_is_told_at_every_step_that_is_passed(harness: Harness) -> None:
    first, second, third = harness.split(2, 4, 4, notify=[{**HOOK, "progress": 25}])
    job_id = harness.part(first).job_id
    harness.settle(first, settlement(2))
    assert told(harness, job_id) == []
    harness.settle(second, settlement(3, carried=1))
    assert told(harness, job_id) == ["job.progress"]
    harness.settle(third, settlement(3, dead=[9]))
    assert told(harness, job_id) == ["job.progress"] * 2


def test_a_job_that_is_retried_and_completes_again_tells_so_again(harness: Harness) -> None:
    batch_id = harness.ended(3, notify=[HOOK])
    job_id = harness.part(batch_id).job_id
    harness.settle(batch_id, settlement(2, dead=[2]))
    assembled(harness, job_id)
    again = Revival(part_id=batch_id, manifest="m", ordinals=frozenset({2}), bytes=1)
    revive(harness.db, job_id, [again])
    harness.let_in()
    harness.let_in()
    (successor,) = harness.open_batches(job_id)
    harness.advance(successor, BatchState.ENDED)
    harness.settle(successor, settlement(1))
    assembled(harness, job_id)
    assert told(harness, job_id) == ["job.completed"] * 2
    assert len({one.id for one in of(harness, job_id)}) == 2


def test_an_end_that_was_not_committed_tells_nothing(harness: Harness, database_url: str) -> None:
    first, second = harness.split(3, 3, notify=[HOOK])
    job_id = harness.part(first).job_id
    harness.settle(first, settlement(3, final_lines=mingled()))
    harness.settle(second, settlement(3, final_lines=mingled()))
    late = harness.claim_job(job_id, Stage.ASSEMBLE)
    harness.run("UPDATE haulier.jobs SET lease = gen_random_uuid() WHERE id = :id", id=job_id)
    with pytest.raises(StaleLease):
        harness.apply(late, Assembled(()))

    harness.run(
        "UPDATE haulier.jobs SET leased_until = now() - interval '1 s' WHERE id = :id", id=job_id
    )
    claim = harness.claim_job(job_id, Stage.ASSEMBLE)
    with psycopg.connect(database_url) as owner:
        owner.execute("ALTER TABLE haulier.events ADD CHECK (target <> 'completed')")
    with pytest.raises(Exception, match="events"):
        harness.apply(claim, Assembled(()))
    assert harness.job(job_id).state is JobState.RUNNING
    assert told(harness, job_id) == []


# --- over HTTP ---------------------------------------------------------------------------------


def ended_job(api: Api, **fields: Any) -> UUID:
    job_id = api.harness.unread(notify=[HOOK], **fields)
    api.harness.apply(api.harness.claim_job(job_id, Stage.SPLIT), Fail("no more"))
    return job_id


def test_a_jobs_deliveries_are_listed_with_what_became_of_them(api: Api) -> None:
    job_id = ended_job(api)
    (shown,) = api.http.get(f"/v1/jobs/{job_id}/deliveries").json()["data"]
    assert (shown["event"], shown["target"]) == ("job.failed", HOOK)
    assert (shown["state"], shown["tries"], shown["last_error"]) == ("pending", 0, None)


def test_deliveries_are_paged(api: Api) -> None:
    job_id = api.harness.unread(notify=[HOOK] * 3)
    api.harness.apply(api.harness.claim_job(job_id, Stage.SPLIT), Fail("no more"))
    found, cursor = [], None
    while True:
        query = {"limit": 2} if cursor is None else {"limit": 2, "cursor": cursor}
        page = api.http.get(f"/v1/jobs/{job_id}/deliveries", params=query).json()
        found += [one["id"] for one in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == [str(one.id) for one in of(api.harness, job_id)]


@pytest.mark.parametrize("column", ["parked_at", "delivered_at"])
def test_a_delivery_that_is_over_is_sent_again_under_its_id(api: Api, column: str) -> None:
    job_id = ended_job(api)
    api.harness.run(f"UPDATE haulier.deliveries SET {column} = now(), tries = 9")
    (delivery,) = of(api.harness, job_id)
    path = f"/v1/jobs/{job_id}/deliveries"
    assert api.http.get(path).json()["data"][0]["state"] == column.removesuffix("_at")
    answer = api.http.post(f"{path}/{delivery.id}/redeliver")
    assert answer.status_code == 202
    shown = answer.json()
    assert (shown["id"], shown["state"], shown["tries"]) == (str(delivery.id), "pending", 0)


def test_nobody_elses_delivery_can_be_seen_or_sent(api: Api) -> None:
    job_id = ended_job(api)
    (delivery,) = of(api.harness, job_id)
    with as_bearer(api, add_producer(api.db, "billing").text) as billing:
        path = f"/v1/jobs/{job_id}/deliveries"
        problem(billing.get(path), 404)
        problem(billing.post(f"{path}/{delivery.id}/redeliver"), 404)
        mine = ended_job(api, producer="billing")
        problem(billing.post(f"/v1/jobs/{mine}/deliveries/{delivery.id}/redeliver"), 404)
        problem(billing.post(f"/v1/jobs/{mine}/deliveries/nonsense/redeliver"), 404)


def test_the_command_line_lists_deliveries_and_sends_one_again(api: Api) -> None:
    job_id = ended_job(api)
    api.harness.run("UPDATE haulier.deliveries SET parked_at = now(), last_error = '500 no'")
    (delivery,) = of(api.harness, job_id)

    def haulier(*arguments: str) -> str:
        environment = {**os.environ, "HAULIER_URL": api.url, "HAULIER_TOKEN": TOKEN}
        return subprocess.check_output([*HAULIER, *arguments], env=environment, text=True)

    listed = haulier("deliveries", str(job_id))
    assert all(word in listed for word in (str(delivery.id), "parked", HOOK["webhook"], "500 no"))
    assert HOOK["webhook"] in haulier("redeliver", str(job_id), str(delivery.id))
    assert of(api.harness, job_id)[0].parked_at is None
