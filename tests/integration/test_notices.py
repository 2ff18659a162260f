"""The outbox: what writes a notice, what keeps it, and how it is shown."""

import os
import subprocess
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from service.errors import BadInput, Problem, StaleLease
from service.models import Delivery
from service.spec import Rules, read_spec
from service.states import BatchState, JobState, Stage
from service.store import notices
from service.store.cancel import cancel
from service.store.producers import add_producer
from service.store.revive import Revival, revive
from service.store.submit import Submission, submit
from service.work import Assembled, Fail
from tests.api import TOKEN, Api, problem
from tests.factories import CHAT, House, chat_request, settlement
from tests.integration.test_producers import as_bearer
from tests.processes import HAULIER

HOOK = {"webhook": "https://example.com/hook"}


@pytest.fixture
def house(api: Api) -> House:
    return api.house


def told(house: House, job_id: UUID) -> list[str]:
    """The events that were told of a job, in order."""
    return [one.event for one in of(house, job_id)]


def of(house: House, job_id: UUID) -> list[Delivery]:
    return notices.deliveries(house.db, job_id, after=None, limit=1000)


def assembled(house: House, job_id: UUID) -> None:
    house.apply(house.claim_job(job_id, Stage.ASSEMBLE), Assembled(()))


def test_a_completed_job_tells_every_target_once(house: House) -> None:
    other = {"webhook": "https://example.com/other", "events": ["job.completed"]}
    quiet = {"webhook": "https://example.com/quiet", "events": ["job.failed"]}
    batch_id = house.ended(3, notify=[HOOK, other, quiet])
    job_id = house.batch(batch_id).job_id
    house.settle(batch_id, settlement(3))
    assert told(house, job_id) == []

    assembled(house, job_id)
    assert told(house, job_id) == ["job.completed"] * 2
    assert {one.target["webhook"] for one in of(house, job_id)} == {
        HOOK["webhook"],
        other["webhook"],
    }


def test_a_cancelled_job_tells_so(house: House) -> None:
    batch_id = house.ended(3, notify=[HOOK])
    job_id = house.batch(batch_id).job_id
    cancel(house.db, job_id)
    assert told(house, job_id) == []
    house.settle(batch_id, settlement(3))
    assembled(house, job_id)
    assert told(house, job_id) == ["job.cancelled"]


@pytest.mark.parametrize("rejected", [True, False])
def test_a_job_that_cannot_be_split_tells_so(house: House, rejected: bool) -> None:
    job_id = house.submitted(3, notify=[HOOK])
    house.apply(house.claim_job(job_id, Stage.SPLIT), Fail("no", rejected=rejected))
    assert told(house, job_id) == ["job.rejected" if rejected else "job.failed"]


def test_a_submission_that_is_rejected_at_once_tells_so_once(house: House) -> None:
    content = {"endpoint": CHAT, "requests": [chat_request("a")], "notify": [HOOK]}
    submission = Submission(
        id=uuid4(),
        producer="default",
        spec=read_spec(msgspec.json.encode(content), Rules()),
        bad=BadInput([Problem("no", 1)]),
    )
    submit(house.db, [submission])
    submit(house.db, [submission])
    assert told(house, submission.id) == ["job.rejected"]


def test_progress_is_told_at_every_step_that_is_passed(house: House) -> None:
    first, second, third = house.split(2, 4, 4, notify=[{**HOOK, "progress": 25}])
    job_id = house.batch(first).job_id
    house.settle(first, settlement(2))
    assert told(house, job_id) == []
    house.settle(second, settlement(3, carried=1))
    assert told(house, job_id) == ["job.progress"]
    house.settle(third, settlement(3, dead=[9]))
    assert told(house, job_id) == ["job.progress"] * 2


def test_a_job_that_is_retried_and_completes_again_tells_so_again(house: House) -> None:
    batch_id = house.ended(3, notify=[HOOK])
    job_id = house.batch(batch_id).job_id
    house.settle(batch_id, settlement(2, dead=[2]))
    assembled(house, job_id)
    again = Revival(batch_id=batch_id, manifest_blob="m", ordinals=frozenset({2}), bytes=1)
    revive(house.db, job_id, [again])
    house.let_in()
    (successor,) = house.open_batches(job_id)
    house.advance(successor, BatchState.ENDED)
    house.settle(successor, settlement(1))
    assembled(house, job_id)
    assert told(house, job_id) == ["job.completed"] * 2
    assert len({one.id for one in of(house, job_id)}) == 2


def test_an_end_that_was_not_committed_tells_nothing(house: House) -> None:
    batch_id = house.ended(3, notify=[HOOK])
    job_id = house.batch(batch_id).job_id
    house.settle(batch_id, settlement(3))
    late = house.claim_job(job_id, Stage.ASSEMBLE)
    house.run("UPDATE haulier.jobs SET lease = gen_random_uuid() WHERE id = :id", id=job_id)
    with pytest.raises(StaleLease):
        house.apply(late, Assembled(()))

    house.run(
        "UPDATE haulier.jobs SET leased_until = now() - interval '1 s' WHERE id = :id", id=job_id
    )
    claim = house.claim_job(job_id, Stage.ASSEMBLE)
    house.run("ALTER TABLE haulier.events ADD CHECK (target <> 'completed')")
    with pytest.raises(Exception, match="events"):
        house.apply(claim, Assembled(()))
    assert house.job(job_id).state is JobState.RUNNING
    assert told(house, job_id) == []


# --- over HTTP ---------------------------------------------------------------------------------


def ended_job(api: Api, **fields: Any) -> UUID:
    job_id = api.house.submitted(3, notify=[HOOK], **fields)
    api.house.apply(api.house.claim_job(job_id, Stage.SPLIT), Fail("no more"))
    return job_id


def test_a_jobs_deliveries_are_listed_with_what_became_of_them(api: Api) -> None:
    job_id = ended_job(api)
    (shown,) = api.http.get(f"/v1/jobs/{job_id}/deliveries").json()["data"]
    assert (shown["event"], shown["target"]) == ("job.failed", HOOK)
    assert (shown["state"], shown["tries"], shown["last_error"]) == ("pending", 0, None)


def test_deliveries_are_paged(api: Api) -> None:
    job_id = api.house.submitted(3, notify=[HOOK] * 3)
    api.house.apply(api.house.claim_job(job_id, Stage.SPLIT), Fail("no more"))
    found, cursor = [], None
    while True:
        query = {"limit": 2} if cursor is None else {"limit": 2, "cursor": cursor}
        page = api.http.get(f"/v1/jobs/{job_id}/deliveries", params=query).json()
        found += [one["id"] for one in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == [str(one.id) for one in of(api.house, job_id)]


@pytest.mark.parametrize("column", ["parked_at", "delivered_at"])
def test_a_delivery_that_is_over_is_sent_again_under_its_id(api: Api, column: str) -> None:
    job_id = ended_job(api)
    api.house.run(f"UPDATE haulier.deliveries SET {column} = now(), tries = 9")
    (delivery,) = of(api.house, job_id)
    path = f"/v1/jobs/{job_id}/deliveries"
    assert api.http.get(path).json()["data"][0]["state"] == column.removesuffix("_at")
    answer = api.http.post(f"{path}/{delivery.id}/redeliver")
    assert answer.status_code == 202
    shown = answer.json()
    assert (shown["id"], shown["state"], shown["tries"]) == (str(delivery.id), "pending", 0)


def test_nobody_elses_delivery_can_be_seen_or_sent(api: Api) -> None:
    job_id = ended_job(api)
    (delivery,) = of(api.house, job_id)
    with as_bearer(api, add_producer(api.db, "billing").text) as billing:
        path = f"/v1/jobs/{job_id}/deliveries"
        problem(billing.get(path), 404)
        problem(billing.post(f"{path}/{delivery.id}/redeliver"), 404)
        mine = ended_job(api, producer="billing")
        problem(billing.post(f"/v1/jobs/{mine}/deliveries/{delivery.id}/redeliver"), 404)
        problem(billing.post(f"/v1/jobs/{mine}/deliveries/nonsense/redeliver"), 404)


def test_the_command_line_lists_deliveries_and_sends_one_again(api: Api) -> None:
    job_id = ended_job(api)
    api.house.run("UPDATE haulier.deliveries SET parked_at = now(), last_error = '500 no'")
    (delivery,) = of(api.house, job_id)

    def haulier(*arguments: str) -> str:
        environment = {**os.environ, "HAULIER_URL": api.url, "HAULIER_TOKEN": TOKEN}
        return subprocess.check_output([*HAULIER, *arguments], env=environment, text=True)

    listed = haulier("deliveries", str(job_id))
    assert all(word in listed for word in (str(delivery.id), "parked", HOOK["webhook"], "500 no"))
    assert HOOK["webhook"] in haulier("redeliver", str(job_id), str(delivery.id))
    assert of(api.house, job_id)[0].parked_at is None
