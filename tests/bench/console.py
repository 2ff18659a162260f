"""What the console's pages cost the server with a million jobs."""

import os
import statistics
import time

import httpx

from config.settings import Settings
from service.api.console import looking
from tests.api import TOKEN, serving
from tests.bench.deployment import open_deployment
from tests.bench.figures import Row, Section, shown
from tests.bench.scheduling import run
from tests.bench.size import Size
from tests.visitors import SAME

LOOKS = 30
PAGES = {
    "the overview": "/",
    "the list of jobs": "/jobs",
    "jobs that failed in part": "/jobs?q=failed:>0",
    "jobs of a model that no job is for": "/jobs?q=model:model-9",
    "jobs with a rare mark": "/jobs?q=metadata.run:rare",
    "jobs that wait for a lane": "/jobs?q=waiting:lane",
}
# As many open jobs as there could be, each with a part that waits; the others are done.
ROWS = """
INSERT INTO haulier.producers (name) SELECT 'producer-' || n FROM generate_series(0, 9) n;
INSERT INTO haulier.lanes (account, endpoint, model)
  SELECT 'default', '/v1/chat/completions', 'model-' || n FROM generate_series(0, 9) n;
INSERT INTO haulier.jobs (id, producer, state, endpoint, account, max_attempts, metadata, total,
    succeeded, pending, open_parts, created_at, finished_at)
  SELECT md5('job' || n)::uuid, 'producer-' || n % 10,
    CASE WHEN n <= {open} THEN 'running' ELSE 'completed' END, '/v1/chat/completions', 'default',
    3, jsonb_build_object('run', CASE WHEN n = {jobs} THEN 'rare' ELSE 'run-' || n % 50 END), 10,
    CASE WHEN n <= {open} THEN 0 ELSE 10 END, CASE WHEN n <= {open} THEN 10 ELSE 0 END,
    CASE WHEN n <= {open} THEN 1 ELSE 0 END, now() - n * interval '1 s',
    CASE WHEN n > {open} THEN now() - n * interval '1 s' END
  FROM generate_series(1, {jobs}) n;
INSERT INTO haulier.parts (id, job_id, state, shard, account, endpoint, producer, model,
    input_blob, manifest, bytes, requests)
  SELECT md5('part' || n)::uuid, md5('job' || n)::uuid, 'waiting', 0, 'default',
    '/v1/chat/completions', 'producer-' || n % 10, 'model-' || n % 7, 'i', 'm', 1000, 10
  FROM generate_series(1, {open}) n;
INSERT INTO haulier.forecasts (job_id, account, endpoint, model, requests, ahead, since, p50, p90,
    look_at)
  SELECT md5('job' || n)::uuid, 'default', '/v1/chat/completions', 'model-' || n % 7, 10, n, now(),
    now() + interval '1 h', now() + interval '2 h', now() FROM generate_series(1, {open}) n;
ANALYZE haulier.jobs; ANALYZE haulier.parts; ANALYZE haulier.forecasts; ANALYZE haulier.lanes
"""


def measure(size: Size) -> Section:
    """Look at each page again and again, without the second for which a reading is shared."""
    rows: list[Row] = []
    for name, part in (("one in 100 open", 100), ("all open", 1)):
        with open_deployment(parts=()) as deployment:
            url = deployment.environment["DATABASE_URL"]
            run(url, ROWS.format(jobs=size.jobs, open=size.jobs // part))
            settings = Settings.model_validate(
                {
                    "DATABASE_URL": url,
                    "blob_url": deployment.environment["HAULIER_BLOB_URL"],
                    "admin_token": TOKEN,
                }
            )
            rows.extend(_looked(settings, f"{size.jobs:,} jobs, {name}"))
    return Section(
        rows,
        notes="The time of an answer over one connection on this machine, with its queries and its"
        " HTML. Open pages share a reading for a second; here each look reads anew.",
    )


def _looked(settings: Settings, condition: str) -> list[Row]:
    rows = []
    shared, looking.FRESH_SECONDS = looking.FRESH_SECONDS, 0.0
    try:
        with (
            serving(settings) as api,
            httpx.Client(base_url=f"{api.url}/console", headers=SAME, trust_env=False) as client,
        ):
            assert client.post("/login", data={"token": TOKEN}).status_code == 303
            for page, path in PAGES.items():
                times = []
                for number in range(LOOKS + 3):
                    began = time.perf_counter()
                    client.get(path).raise_for_status()
                    if number >= 3:
                        times.append((time.perf_counter() - began) * 1000)
                rows.append(
                    Row(
                        f"{page}, {condition}",
                        f"{shown(statistics.median(times))} / {shown(max(times))}",
                        "ms, p50 / most",
                        wanted="< 50 ms" if path == "/" else "",
                        beside=f"load of the machine: {os.getloadavg()[0]:.1f}",
                    )
                )
    finally:
        looking.FRESH_SECONDS = shared
    return rows
