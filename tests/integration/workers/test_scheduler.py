"""What the scheduler sends while nobody takes it."""

import psycopg
import pytest
import redis
from sqlalchemy import text

from tests.eventually import eventually
from tests.pipeline import Pipeline, chat

QUEUE = "haulier.transfer"
LAPSED = text("UPDATE haulier.batches SET dispatched_at = now() - interval '1 day'")
SENT = text("SELECT count(*) FROM haulier.batches WHERE dispatched_at > now() - interval '1 hour'")
MOST = 12
"""Three messages for each of the four slots that are assumed without a worker."""


def test_without_a_worker_a_queue_stays_short_however_often_rows_are_sent(
    pipeline: Pipeline, redis_url: str
) -> None:
    jobs = [pipeline.submit(chat("a", priority=n)) for n in range(4)]
    pipeline.scheduler()

    def sent() -> int:
        with pipeline.db.begin() as session:
            return int(session.scalars(SENT).one())

    with redis.Redis.from_url(redis_url) as broker:
        for _ in range(20):
            eventually(lambda: sent() == len(jobs) or broker.llen(QUEUE) == MOST)
            # As if each row had been sent so long ago that its message may be lost.
            with pipeline.db.begin() as session:
                session.execute(LAPSED)
        assert broker.llen(QUEUE) == MOST
    pipeline.worker()
    for job_id in jobs:
        assert pipeline.ended(job_id).succeeded == 1


@pytest.mark.parametrize("kind", ["scheduler", "inbox", "worker"])
def test_a_process_ends_when_the_schema_is_newer_than_its_code_may_use(
    pipeline: Pipeline, database_url: str, kind: str
) -> None:
    with psycopg.connect(database_url) as owner:
        owner.execute("UPDATE haulier.alembic_version SET version_num = '9999'")
        owner.execute("INSERT INTO haulier.schema_floor VALUES ('9999')")
    process = getattr(pipeline, kind)()
    assert process.wait() == 0
    assert "schema_too_new" in process.output
