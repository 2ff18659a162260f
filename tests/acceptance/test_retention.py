"""A job that ended long enough ago is gone, everywhere."""

import os
from pathlib import Path
from uuid import uuid4

import httpx
from sqlalchemy import text

from tests.api import client, started_url
from tests.eventually import eventually
from tests.pipeline import Pipeline, chat
from tests.processes import Processes
from tests.retention import FORGETFUL, files_at
from tests.simulator import Simulator


def put_old(path: Path) -> None:
    """A file of the year 2001."""
    path.parent.mkdir(parents=True)
    path.touch()
    os.utime(path, (1e9, 1e9))


def a_day_later(pipeline: Pipeline) -> None:
    with pipeline.db.begin() as session:
        session.execute(text("UPDATE haulier.chores SET begun_at = now() - interval '25 hours'"))


def test_a_finished_job_is_forgotten_with_its_results_and_files_and_so_are_uploads(
    pipeline: Pipeline, simulator: Simulator, processes: Processes, blob_url: str
) -> None:
    simulator.line_rule("error", custom_id="b", times=1, message="Internal Server Error")
    pipeline.worker(**FORGETFUL)
    scheduler = pipeline.scheduler()
    api = processes.haulier("api", "--port", "0")
    folder = Path(httpx.URL(blob_url).path)
    spec = chat("a", "b", idempotency_key="nightly")

    def left() -> list[Path]:
        return [*folder.glob("jobs/*"), *folder.glob("files/*/*")]

    with client(started_url(api)) as http:
        path = http.post("/v1/jobs", json=spec).headers["location"]
        eventually(lambda: http.get(path).json()["state"] == "completed", 60)
        assert len(http.get(f"{path}/results").content.splitlines()) == 2
        assert len(files_at(simulator)) >= 4
        form = {"purpose": "batch-api", "file_name": "a.jsonl", "file_type": "jsonl"}
        parts = {name: (None, value) for name, value in form.items()}
        url = http.post("/together/v1/files", files=parts).headers["location"]
        assert httpx.put(url, content=b"{}\n", trust_env=False).status_code == 200
        assert [path for path in folder.glob("files/*/*") if path.is_file()]

        put_old(folder / "jobs" / str(uuid4()) / "unnamed")
        scheduler.stop()
        a_day_later(pipeline)
        pipeline.scheduler(**FORGETFUL)

        eventually(lambda: http.get(path).status_code == 404, 60)
        assert http.get(f"{path}/results").status_code == 404
        eventually(lambda: not files_at(simulator) and not left(), 60)
        again = http.post("/v1/jobs", json=spec)
        assert (again.status_code, again.headers["location"] != path) == (201, True)
