"""Notices that carry their job's results: a real notifier, a real endpoint, a real queue."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from queue import Empty
from typing import Any
from uuid import UUID, uuid4

import pytest
from kombu import Connection
from kombu.simple import SimpleQueue

from config.settings import Settings
from service.payloads.blobs import Blobs
from service.payloads.results import assembled
from service.rules.notices import MOST_RESULT_BYTES
from service.rules.outcomes import Assembled, Fail
from service.rules.states import Stage
from service.store import engine, jobs, notices
from tests.eventually import eventually
from tests.factories import Harness, final_lines, settlement
from tests.integration.workers.test_notifier import notifying
from tests.receiver import Receiver, receiving

QUEUE = "app-answers"


@dataclass
class Site:
    """Rows, blobs, and what arrives at a webhook and on a queue."""

    harness: Harness
    blobs: Blobs
    receiver: Receiver
    queue: SimpleQueue
    _tasks: dict[str, dict[str, Any]] = field(default_factory=dict)

    def targets(self, **asked: Any) -> list[dict[str, Any]]:
        """A webhook, and a task."""
        asked = {"results": True, **asked}
        return [
            {"webhook": self.receiver.url, **asked},
            {"task": "app.ended", "queue": QUEUE, **asked},
        ]

    def running(self, requests: int, **asked: Any) -> UUID:
        """A batch that has ended, of a job that tells both."""
        batch_id = self.harness.ended(requests)
        self.harness.run(
            "UPDATE haulier.jobs SET notify = cast(:notify AS jsonb) WHERE id = :id",
            id=self.harness.part(batch_id).job_id,
            notify=json.dumps(self.targets(**asked)),
        )
        return batch_id

    def completed(self, *lines: bytes, **asked: Any) -> UUID:
        """A job that has ended with these results."""
        batch_id = self.running(len(lines), **asked)
        stored = final_lines(self.blobs, f"jobs/{uuid4()}", list(enumerate(lines)))
        self.harness.settle(batch_id, settlement(len(lines), final_lines=stored))
        return self.harness.part(batch_id).job_id

    def webhook(self, job_id: UUID, number: int = -1) -> dict[str, Any]:
        """What one of the job's webhooks said when it was last sent: of the last notice, or so."""
        delivery = self._delivered(job_id, "webhook")[number]
        found = [one for one in self.receiver.received if one.id == delivery][-1]
        content: dict[str, Any] = json.loads(found.body)
        return content

    def task(self, job_id: UUID, number: int = -1) -> dict[str, Any]:
        """The keyword arguments of one of the job's tasks."""
        delivery = self._delivered(job_id, "task")[number]
        with suppress(Empty):
            while message := self.queue.get_nowait():
                message.ack()
                self._tasks[message.headers["id"]] = message.decode()[1]
        return self._tasks[delivery]

    def send_again(self, job_id: UUID) -> None:
        """Send all of the job's notices again; one on its way would be left alone, so none is."""
        for kind in ("webhook", "task"):
            self._delivered(job_id, kind)
        for one in notices.deliveries(self.harness.db, job_id, after=None, limit=100):
            notices.redeliver(self.harness.db, job_id, one.id)

    def _delivered(self, job_id: UUID, kind: str) -> list[str]:
        """The ids of the job's notices to one target, oldest first, once all have arrived."""

        def arrived() -> list[str]:
            found = notices.deliveries(self.harness.db, job_id, after=None, limit=100)
            assert [one.last_error for one in found if one.last_error] == []
            mine = [one for one in found if kind in one.target]
            return [str(one.id) for one in mine] if all(one.delivered_at for one in mine) else []

        return eventually(arrived)


@pytest.fixture
def settings(database_url: str, redis_url: str, blob_url: str) -> Settings:
    return Settings.model_validate(
        {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "blob_url": blob_url,
            "webhook_allow_private": True,
            "tick_seconds": timedelta(seconds=0.1),
        }
    )


@pytest.fixture
def site(settings: Settings) -> Iterator[Site]:
    connections = engine.create(settings.database_url or "", pool_size=2)
    with (
        receiving() as receiver,
        Connection(settings.redis_url) as connection,
        connection.SimpleQueue(QUEUE) as queue,
        notifying(settings),
    ):
        yield Site(Harness(engine.database(connections)), Blobs(settings.blobs), receiver, queue)
    connections.dispose()


def line(content: bytes, custom_id: str = "a") -> bytes:
    """A result line whose text is this JSON string without its quotes."""
    return (
        b'{"custom_id":"%s","response":{"status_code":200,"body":'
        b'{"choices":[{"message":{"content":"%s"}}]}}}' % (custom_id.encode(), content)
    )


def of_size(size: int) -> bytes:
    """A result line of so many bytes with its line feed."""
    return line(b"x" * (size - 1 - len(line(b""))))


DEAD = b'{"custom_id":"b","error":{"code":"x","message":"no"},"attempts":3}'
CASES: list[tuple[str, list[bytes], str | None, str | None]] = [
    # what it is, its lines, and why a webhook and a task do not carry them
    ("plain, and a dead letter", [line("grüß dich".encode()), DEAD], None, None),
    ("half a surrogate", [line(b"\\ud800 \\u00e9")], None, None),
    ("a long number", [line(b"").replace(b"200", b"2" * 40)], None, None),
    ("as large as it may be", [of_size(MOST_RESULT_BYTES)], None, "too_large"),
    ("too large once it is escaped", [line("é".encode() * 15_000)], None, "too_large"),
    ("too large by a byte", [of_size(MOST_RESULT_BYTES + 1)], "too_large", "too_large"),
    ("too large together", [of_size(9_000)] * 8, "too_large", "too_large"),
    ("not UTF-8", [DEAD, line(b"\xff")], "unreadable", "unreadable"),
    ("not a number", [line(b"").replace(b"200", b"NaN")], "unreadable", "unreadable"),
    ("not a number that fits", [line(b"").replace(b"200", b"1e999")], "unreadable", "unreadable"),
    ("deep", [b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}"], "unreadable", "unreadable"),
    ("nearly too deep", [b'{"a":' + b"[" * 960 + b"]" * 960 + b"}"], "unreadable", "unreadable"),
]


def test_a_small_jobs_results_come_with_its_notice_and_others_are_left_out_with_a_reason(
    site: Site,
) -> None:
    ended = [site.completed(*lines) for _, lines, _, _ in CASES]
    for job_id, (case, lines, by_webhook, by_task) in zip(ended, CASES, strict=True):
        for content, reason in ((site.webhook(job_id), by_webhook), (site.task(job_id), by_task)):
            omitted = content["results_omitted"]
            assert (omitted and omitted["code"]) == reason, case
            expected = [json.loads(one) for one in lines] if reason is None else None
            assert content["results"] == expected, case
    # A webhook carries the provider's own bytes.
    sent = b"".join(one.body for one in site.receiver.received)
    assert all(b",".join(lines) in sent for _, lines, reason, _ in CASES if reason is None)


def test_the_last_byte_of_a_results_bound_is_counted_as_celery_sends_it(site: Site) -> None:
    room = MOST_RESULT_BYTES - len(json.dumps([json.loads(of_size(1_000))]))
    fits, too_large = of_size(1_000 + room), of_size(1_000 + room + 1)
    assert len(json.dumps([json.loads(fits)])) == MOST_RESULT_BYTES
    assert site.task(site.completed(fits))["results"] == [json.loads(fits)]
    assert site.task(site.completed(too_large))["results_omitted"]["code"] == "too_large"


def test_what_asked_for_no_results_gets_none(site: Site) -> None:
    for asked in (None, False):
        job_id = site.completed(DEAD, results=asked)
        assert set(site.webhook(job_id)) == set(site.task(job_id)) == {"event", "delivery", "job"}


def test_a_notice_without_results_to_carry_says_why(site: Site) -> None:
    batch_id = site.running(4, progress=25)
    job_id = site.harness.part(batch_id).job_id
    site.harness.settle(batch_id, settlement(2, carried=2))
    assert site.webhook(job_id)["event"] == site.task(job_id)["event"] == "job.progress"
    assert site.webhook(job_id)["results_omitted"]["code"] == "not_ended"
    assert site.task(job_id)["results_omitted"]["code"] == "not_ended"

    unread = site.harness.unread()
    site.harness.run(
        "UPDATE haulier.jobs SET notify = cast(:notify AS jsonb) WHERE id = :id",
        id=unread,
        notify=json.dumps(site.targets()),
    )
    site.harness.apply(site.harness.claim_job(unread, Stage.SPLIT), Fail("no more"))
    assert site.webhook(unread)["results_omitted"] == site.task(unread)["results_omitted"]
    assert site.task(unread)["results_omitted"]["code"] == "no_results"


def test_a_retried_jobs_notices_carry_the_results_that_can_be_read_when_they_are_sent(
    site: Site,
) -> None:
    first, second = line(b"first"), line(b"second")
    job_id = site.completed(first)
    assert site.webhook(job_id)["results"] == [json.loads(first)]

    site.harness.run("UPDATE haulier.jobs SET state = 'running', finished_at = NULL")
    site.send_again(job_id)
    shown = site.webhook(job_id)
    assert (shown["event"], shown["job"]["state"]) == ("job.completed", "running")
    assert shown["results"] == site.task(job_id)["results"] == [json.loads(first)]

    replaced = final_lines(site.blobs, f"jobs/{uuid4()}", [(0, second)])
    claim = site.harness.claim_job(job_id, Stage.ASSEMBLE)
    site.harness.apply(claim, Assembled(assembled(site.blobs, "jobs/again", [replaced])))
    site.send_again(job_id)
    for number in (0, 1):
        shown = site.webhook(job_id, number)
        assert shown["job"]["results_generation"] == 2
        assert shown["results"] == site.task(job_id, number)["results"] == [json.loads(second)]


def test_results_that_storage_does_not_give_keep_back_no_notice(site: Site) -> None:
    job_id = site.completed(DEAD)
    assert site.webhook(job_id)["results"] == [json.loads(DEAD)]
    (segment,) = jobs.segments(site.harness.db, job_id, 1)
    site.blobs.delete([segment.blob])
    site.send_again(job_id)
    assert site.webhook(job_id)["results_omitted"]["code"] == "unavailable"
    assert site.task(job_id)["results_omitted"]["code"] == "unavailable"
