"""Old jobs with all that they leave behind: rows, blobs and files at Together.

PYTEST_DONT_REWRITE, so that test modules may import this before it is registered as a plugin.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest

from service.payloads.blobs import Blobs
from service.store import engine
from service.together.client import Together
from service.together.transport import open_pool
from service.upkeep import retention
from tests.factories import Harness, settlement
from tests.servers import Databases
from tests.simulator import KEY, Simulator

MONTH = timedelta(days=30)
OLD = timedelta(days=40)
MOMENT = timedelta(milliseconds=1)
FORGETFUL = {"HAULIER_RETENTION_DAYS": "0.00001", "HAULIER_FILE_DAYS": "0.00001"}
"""For processes that forget a job about a second after it ended, and a file as soon."""


@dataclass(frozen=True)
class OldJobs:
    """A harness whose jobs are old, its blob storage, and its account at Together."""

    harness: Harness
    blobs: Blobs
    folder: Path
    together: Together
    simulator: Simulator

    def finished(self, *, ago: timedelta = OLD, **columns: Any) -> UUID:
        """A completed job of one batch, with two blobs and two files at Together."""
        batch_id = self.harness.ended()
        self.harness.settle(batch_id, settlement(2, dead=[1]))
        job_id = self.harness.part(batch_id).job_id
        self.harness.end(job_id)
        self.harness.run(
            "UPDATE haulier.batches SET input_file_id = :input, output_file_id = :output,"
            " finished_at = now() - cast(:ago AS interval) WHERE id = :id",
            input=self.file(),
            output=self.file(),
            ago=ago,
            id=batch_id,
        )
        self.set_job(job_id, **columns)
        self.harness.run(
            "UPDATE haulier.jobs SET finished_at = now() - cast(:ago AS interval) WHERE id = :id",
            ago=ago,
            id=job_id,
        )
        self.blob(f"jobs/{job_id}/input.jsonl", ago=ago)
        self.blob(f"batches/{batch_id}/output.jsonl", ago=ago)
        return job_id

    def set_job(self, job_id: UUID, **columns: Any) -> None:
        for name, value in columns.items():
            self.harness.run(
                f"UPDATE haulier.jobs SET {name} = :value WHERE id = :id",
                value=value,
                id=job_id,
            )

    def file(self) -> str:
        """A file at Together."""
        return self.together.upload("some.jsonl", 3, lambda: iter([b"{}\n"])).id

    def blob(self, name: str, *, ago: timedelta = OLD) -> str:
        """A blob that was written so long ago."""
        self.blobs.put(name, b"x")
        written_at = time.time() - ago.total_seconds()
        os.utime(self.folder / name, (written_at, written_at))
        return name

    def jobs(self) -> set[UUID]:
        return set(self.harness.rows("SELECT id FROM haulier.jobs"))

    def names(self) -> set[str]:
        """Every blob, by what the folder itself says."""
        return {
            str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()
        }

    def files(self) -> set[str]:
        return files_at(self.simulator)

    def prune(self) -> int:
        return retention.prune(self.harness.db, MONTH)

    def discard(self) -> None:
        """What workers do about what is left, until nothing is due."""
        terms = retention.Terms(claim_for=timedelta(minutes=1), retry=MOMENT)
        retention.discard_blobs(self.harness.db, self.blobs, terms)
        retention.discard_files(self.harness.db, "default", self.together, terms)

    def leftovers(self) -> int:
        return int(self.harness.rows("SELECT count(*) FROM haulier.leftovers")[0])


def files_at(simulator: Simulator) -> set[str]:
    """The files of an account at Together."""
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = httpx.get(f"{simulator.url}/v1/files", headers=headers)
    return {file["id"] for file in msgspec.json.decode(answer.content)["data"]}


@pytest.fixture(scope="module")
def _old_jobs_harness(databases: Databases) -> Iterator[Harness]:
    url = databases.create()
    made = engine.create(url, pool_size=4)
    yield Harness(engine.database(made))
    made.dispose()
    databases.drop(url)


@pytest.fixture
def old_jobs(_old_jobs_harness: Harness, simulator: Simulator, tmp_path: Path) -> Iterator[OldJobs]:
    _old_jobs_harness.sweep()
    _old_jobs_harness.run("TRUNCATE haulier.leftovers, haulier.chores")
    folder = tmp_path / "blobs"
    with open_pool(timedelta(seconds=5)) as pool:
        together = Together(pool, simulator.url, KEY)
        yield OldJobs(_old_jobs_harness, Blobs(folder.as_uri()), folder, together, simulator)
