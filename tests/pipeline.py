"""The whole pipeline in tests: scheduler and worker as real processes.

PYTEST_DONT_REWRITE, so that test modules may import this before it is registered as a plugin.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from config.settings import Settings
from service.payloads.blobs import Blobs
from service.payloads.bundles import take_in_together
from service.payloads.intake import Taken, take_in
from service.rules.permissions import Permissions
from service.rules.spec import read_spec
from service.rules.states import JobState
from service.store import engine, jobs
from service.store.models import Batch, Job, Part
from service.store.submit import Submission
from tests.eventually import eventually
from tests.factories import submit
from tests.processes import Processes, Running
from tests.simulator import Simulator

CELERY = [sys.executable, "-m", "celery", "-q", "-A", "workers.app", "worker", "-c", "2"]
QUIET = ["--without-gossip", "--without-mingle", "--without-heartbeat"]

# What the commands of the same names become.
SCHEDULER = [sys.executable, "-m", "workers.scheduler"]
NOTIFIER = [sys.executable, "-m", "workers.notifier"]
INBOX = [sys.executable, "-m", "workers.inbox"]

ENDED = {JobState.COMPLETED, JobState.CANCELLED, JobState.REJECTED, JobState.FAILED}


class Pipeline:
    """Haulier's own processes around one database, and a way in and out of it."""

    def __init__(self, processes: Processes, environment: dict[str, str], together: str) -> None:
        self.processes = processes
        self._started: list[Running] = []
        self._together = {"TOGETHER_BASE_URL": together, "TOGETHER_API_KEY": "test-key"}
        self.url = environment["DATABASE_URL"]
        self.redis_url = environment["REDIS_URL"]
        self._engine = engine.create(self.url, pool_size=4)
        self.db = engine.database(self._engine)
        self.blobs = Blobs(environment["HAULIER_BLOB_URL"])

    def use_key(self, key: str) -> None:
        """The Together key of processes that are started from here on."""
        self._together["TOGETHER_API_KEY"] = key

    def logs(self) -> list[Path]:
        return [process.log for process in self._started]

    def batches(self, job_id: UUID) -> list[Batch]:
        """The batches that a job has parts in."""
        found = (batch for _, batch in self.parts(job_id))
        return list({batch.id: batch for batch in found if batch is not None}.values())

    def parts(self, job_id: UUID) -> list[tuple[Part, Batch | None]]:
        return jobs.parts(self.db, job_id, after=None, limit=1000)

    def batch_count(self, job_id: UUID) -> int:
        return len(self.batches(job_id))

    def close(self) -> None:
        self._engine.dispose()

    def worker(self, **more: str) -> Running:
        return self._start(self.processes.start([*CELERY, *QUIET], **self._together, **more))

    def scheduler(self, **more: str) -> Running:
        return self._start(self.processes.start(SCHEDULER, **self._together, **more))

    def inbox(self, **more: str) -> Running:
        return self._start(self.processes.start(INBOX, **self._together, **more))

    def notifier(self, **more: str) -> Running:
        return self._start(self.processes.start(NOTIFIER, **self._together, **more))

    def _start(self, process: Running) -> Running:
        self._started.append(process)
        return process

    def submit(
        self, spec: dict[str, Any], *, shard_requests: int = 50_000, roots: Sequence[Path] = ()
    ) -> UUID:
        """Accept a spec as the API does."""
        job_id = uuid4()
        read = read_spec(
            msgspec.json.encode(spec),
            Permissions(
                input_roots=tuple(root.as_uri() for root in roots),
                notice_tasks=None,
                notice_queues=None,
            ),
        )
        settings = Settings(shard_requests=shard_requests)
        taken = take_in(read, self.blobs, f"jobs/{job_id}/{uuid4()}", settings)
        submit(self.db, [Submission(id=job_id, producer="default", spec=read, taken=taken)])
        return job_id

    def submit_together(self, *specs: dict[str, Any]) -> list[UUID]:
        """Accept small specs that arrive at once: they find themselves in one batch."""
        read = [read_spec(msgspec.json.encode(spec), Permissions()) for spec in specs]
        pairs = [(uuid4(), one) for one in read]
        taken = take_in_together(pairs, self.blobs, Settings())
        submissions = []
        for (job_id, one), found in zip(pairs, taken, strict=True):
            assert isinstance(found, Taken)
            submissions.append(Submission(id=job_id, producer="default", spec=one, taken=found))
        submit(self.db, submissions)
        return [job_id for job_id, _ in pairs]

    def job(self, job_id: UUID) -> Job:
        found = jobs.job(self.db, job_id, None)
        assert found is not None
        return found

    def ended(self, job_id: UUID, timeout: float = 60) -> Job:
        """The job once it has ended."""
        eventually(lambda: self.job(job_id).state in ENDED, timeout)
        return self.job(job_id)

    def results(self, job_id: UUID) -> list[dict[str, object]]:
        """The result lines of a finished job."""
        job = self.job(job_id)
        lines = b"".join(
            b"".join(self.blobs.stream(segment.blob))
            for segment in jobs.segments(self.db, job_id, job.generation)
        )
        return [msgspec.json.decode(line) for line in lines.splitlines()]


@pytest.fixture
def pipeline(
    processes: Processes, environment: dict[str, str], simulator: Simulator
) -> Iterator[Pipeline]:
    made = Pipeline(processes, environment, simulator.url)
    yield made
    made.close()


def chat(*custom_ids: str, **more: Any) -> dict[str, Any]:
    """A spec of chat requests."""
    return {
        "endpoint": "/v1/chat/completions",
        "requests": [
            {
                "custom_id": custom_id,
                "body": {
                    "model": "meta-llama/Llama-3.3-70B-Instruct-Turbo",
                    "messages": [{"role": "user", "content": f"Say {custom_id}"}],
                },
            }
            for custom_id in custom_ids
        ],
        **more,
    }
