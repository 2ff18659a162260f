"""Dry runs of the verbs of jobs: they check and say all, and change nothing."""

import os
from pathlib import Path
from uuid import UUID

from config.settings import Settings
from service.store.producers import add_producer
from tests.api import TOKEN, Api, chat, problem
from tests.cli import Cli
from tests.factories import settlement
from tests.integration.api.test_walls import as_bearer, everything


def failed(api: Api) -> UUID:
    """A finished job of three requests, of which one failed."""
    job_id = api.submit("a", "b", "c")
    api.harness.let_in()
    (batch_id,) = api.harness.open_batches(job_id)
    api.harness.settle(batch_id, settlement(2, dead=[1]))
    api.assemble(job_id)
    return job_id


def test_the_verbs_of_jobs_are_tried_without_a_trace(
    api: Api, api_settings: Settings, tmp_path: Path
) -> None:
    cli = Cli(api.url, tmp_path, dict(os.environ, HAULIER_TOKEN=TOKEN))
    ended, runs = failed(api), api.submit("a")
    before = everything(api_settings.database_url or "")

    cancel = api.http.post(f"/v1/jobs/{runs}/cancel?dry_run=true").json()
    assert cancel["changes"][0]["after"] == {"cancelling": True, "pending": 1}
    (retry,) = api.http.post(f"/v1/jobs/{ended}/retry?dry_run=true").json()["changes"]
    assert retry["after"] == {"state": "running", "retried": 1}
    shown = cli("retry", str(ended), "--dry-run")
    assert "state completed → running, retried 1" in shown.out
    assert "Nothing was changed" in shown.out
    problem(api.http.post(f"/v1/jobs/{runs}/retry?dry_run=true"), 409)
    problem(api.http.post(f"/v1/jobs/{ended}/cancel?dry_run=true"), 409)
    assert everything(api_settings.database_url or "") == before


def test_a_producer_tries_what_it_may_do_to_its_own_jobs(api: Api, api_settings: Settings) -> None:
    with as_bearer(api, add_producer(api.db, "owner").text) as owner:
        job_id = owner.post("/v1/jobs", json=chat("a")).json()["id"]
        before = everything(api_settings.database_url or "")
        answer = owner.post(f"/v1/jobs/{job_id}/cancel?dry_run=true").json()
        assert answer["changes"][0]["object"] == f"jobs/{job_id}"
        assert everything(api_settings.database_url or "") == before
