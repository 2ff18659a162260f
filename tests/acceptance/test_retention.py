"""A job that ended long enough ago is gone, everywhere."""

from pathlib import Path

import httpx

from tests.api import client, started_url
from tests.eventually import eventually
from tests.pipeline import Pipeline, chat
from tests.processes import Processes
from tests.retention import FORGETFUL, files_at
from tests.simulator import Simulator


def test_a_finished_job_is_forgotten_with_its_results_and_its_files_at_together(
    pipeline: Pipeline, simulator: Simulator, processes: Processes, blob_url: str
) -> None:
    simulator.line_rule("error", custom_id="b", times=1, message="Internal Server Error")
    pipeline.worker(**FORGETFUL)
    scheduler = pipeline.scheduler()
    api = processes.haulier("api", "--port", "0")
    folder = Path(httpx.URL(blob_url).path)
    spec = chat("a", "b", idempotency_key="nightly")
    with client(started_url(api)) as http:
        path = http.post("/v1/jobs", json=spec).headers["location"]
        eventually(lambda: http.get(path).json()["state"] == "completed", 60)
        assert len(http.get(f"{path}/results").content.splitlines()) == 2
        assert len(files_at(simulator)) >= 4
        assert any(folder.iterdir())

        scheduler.stop()
        pipeline.scheduler(**FORGETFUL)

        eventually(lambda: http.get(path).status_code == 404, 60)
        assert http.get(f"{path}/results").status_code == 404
        eventually(lambda: not files_at(simulator) and not any(folder.iterdir()), 60)
        again = http.post("/v1/jobs", json=spec)
        assert (again.status_code, again.headers["location"] != path) == (201, True)
