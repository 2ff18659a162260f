"""The console's list of jobs: its search, its pages, and what looking costs."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from config.settings import Settings
from service.rules.outcomes import Park
from service.rules.states import Stage
from service.store.producers import add_producer
from tests.api import TOKEN, Api, serving
from tests.factories import settlement
from tests.servers import Databases
from tests.visitors import browser


@pytest.fixture(scope="module")
def api(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One API for all; each test has producers of its own."""
    owners_url = databases.create()
    settings = Settings.model_validate(
        {
            "DATABASE_URL": databases.runtime(owners_url),
            "blob_url": tmp_path_factory.mktemp("blobs").as_uri(),
            "admin_token": TOKEN,
        }
    )
    with serving(settings) as running:
        yield running
    databases.give_back(owners_url)


def ids_of(client: httpx.Client, q: str) -> set[str]:
    answer = client.get("/console/jobs", params={"q": q})
    assert answer.status_code == 200, answer.text
    return set(re.findall(r'id="job-([0-9a-f-]{36})"', answer.text))


def test_jobs_are_found_by_what_they_are_like(api: Api) -> None:
    rows = api.harness
    add_producer(api.db, "finder")
    failed = rows.queued(10, producer="finder", metadata={"team": "red"})
    rows.settle(failed, settlement(8, dead=range(2)))
    done = rows.part(failed).job_id
    api.assemble(done)
    batch_id = rows.created(producer="finder")
    rows.due_now(batch_id)
    rows.apply(rows.claim(batch_id, Stage.POLL), Park("404"))
    stuck = rows.part(batch_id).job_id
    waits = rows.submitted(2000, producer="finder", metadata={"team": "blue"})
    rows.run(
        "UPDATE haulier.jobs SET created_at = now() - interval '3 days' WHERE id = :id", id=waits
    )
    known = {str(done): "done", str(stuck): "stuck", str(waits): "waits"}
    with browser(api, TOKEN) as client:
        for q, expected in {
            "": {"done", "stuck", "waits"},
            "state:completed": {"done"},
            "failed:>0": {"done"},
            "failed:0": {"stuck", "waits"},
            "requests:>=1000": {"waits"},
            "metadata.team:blue": {"waits"},
            "age:<1d": {"done", "stuck"},
            "age:>1d": {"waits"},
            "waiting:parked": {"stuck"},
            "waiting:held": set(),
            "waiting:lane": set(),
            "waiting:account": set(),
            "waiting:budget waiting:max_cost waiting:deadline": set(),
            "account:default": {"done", "stuck", "waits"},
            "account:other": set(),
            str(stuck)[:13]: {"stuck"},
            "model:no-such": set(),
            "is:call": set(),
        }.items():
            found = {known[one] for one in ids_of(client, f"producer:finder {q}")}
            assert found == expected, q


def test_pages_of_jobs_go_on_where_the_last_one_ended(api: Api) -> None:
    add_producer(api.db, "many")
    made = {str(api.harness.submitted(1, producer="many")) for _ in range(53)}
    with browser(api, TOKEN) as client:
        first = client.get("/console/jobs?q=producer:many")
        (older,) = re.findall(r'rel="next" href="([^"]+)"', first.text)
        second = client.get(older.replace("&amp;", "&"))
    pattern = r'id="job-([0-9a-f-]{36})"'
    pages = [re.findall(pattern, page.text) for page in (first, second)]
    assert [len(page) for page in pages] == [50, 3]
    assert set(pages[0]) | set(pages[1]) == made
    assert 'rel="next"' not in second.text


def test_a_search_stops_after_a_stretch_and_goes_on(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.search.STRETCH", 5)
    add_producer(api.db, "long")
    made = [api.harness.submitted(1, producer="long") for _ in range(12)]
    api.harness.run("UPDATE haulier.jobs SET priority = 3 WHERE id = :id", id=made[0])
    api.harness.run("UPDATE haulier.jobs SET failed = 1, pending = 0 WHERE id = :id", id=made[0])
    found, pages, path = set(), 0, "/console/jobs?q=producer:long failed:>0"
    with browser(api, TOKEN) as client:
        while path:
            shown = client.get(path)
            found |= set(re.findall(r'id="job-([0-9a-f-]{36})"', shown.text))
            more = re.findall(r'rel="next" href="([^"]+)"', shown.text)
            path = more[0].replace("&amp;", "&") if more else ""
            pages += 1
    assert found == {str(made[0])}
    assert pages == 3


def test_however_many_look_at_once_it_is_read_once(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.console.looking.FRESH_SECONDS", 60.0)
    readings = []
    search = "service.store.search.search"
    from service.store.search import search as really

    def counted(*args: object, **options: object) -> object:
        readings.append(args)
        return really(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(search, counted)
    with browser(api, TOKEN) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.get("/console/jobs?q=age:<9d"), range(16)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(readings) == 1
