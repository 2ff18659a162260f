"""GET …/progress: server-sent events, and when a stream of them ends."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
import pytest

from config.settings import Settings
from service.api import streams
from service.api.v1 import progress
from service.store.producers import add_producer
from tests.api import Api, chat, client, problem, serving, started_url
from tests.eventually import eventually
from tests.factories import settlement
from tests.integration.api.test_producers import as_bearer
from tests.processes import Running

Event = tuple[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.05)


@contextmanager
def streaming(http: httpx.Client, job_id: UUID, **headers: str) -> Iterator[Iterator[Event]]:
    path = f"/v1/jobs/{job_id}/progress"
    with http.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        yield events(answer)


def events(answer: httpx.Response) -> Iterator[Event]:
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_a_stream_tells_each_change_and_then_the_end(api: Api) -> None:
    first, second = api.harness.split(3, 2)
    job_id = api.harness.job_of(first).id
    with streaming(api.http, job_id) as told:
        name, job = next(told)
        assert (name, job["id"], job["pending"]) == ("progress", str(job_id), 5)
        api.harness.settle(first, settlement(3))
        name, job = next(told)
        assert (name, job["succeeded"], job["pending"]) == ("progress", 3, 2)
        api.harness.settle(second, settlement(1, dead=[4]))
        api.harness.run(
            "UPDATE haulier.jobs SET state = 'completed', finished_at = now() WHERE id = :id",
            id=job_id,
        )
        name, job = [*told][-1]
    assert (name, job["state"], job["failed"]) == ("end", "completed", 1)


def test_a_job_that_has_ended_ends_the_stream_at_once(api: Api) -> None:
    job_id = api.submit("a")
    api.harness.run(
        "UPDATE haulier.jobs SET state = 'rejected', error = 'bad', finished_at = now()"
    )

    with streaming(api.http, job_id, **{"Last-Event-ID": "7"}) as told:
        found = list(told)

    assert [(name, job["state"]) for name, job in found] == [("end", "rejected")]


def test_a_stream_says_now_and_then_that_it_is_there(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "KEEP_ALIVE_SECONDS", 0.01)
    with api.http.stream("GET", f"/v1/jobs/{api.submit('a')}/progress") as answer:
        assert next(line for line in answer.iter_lines() if line.startswith(":"))


def test_a_stream_ends_after_a_while_so_that_a_token_is_asked_for_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LONGEST_SECONDS", 0.2)
    with streaming(api.http, api.submit("a")) as told:
        assert [name for name, _ in told] == ["progress"]


def test_a_job_that_is_forgotten_ends_its_stream(api: Api) -> None:
    job_id = api.submit("a")
    with streaming(api.http, job_id) as told:
        next(told)
        api.harness.run("DELETE FROM haulier.jobs")
        assert list(told) == []


def test_only_so_many_streams_are_open_and_a_client_that_goes_makes_room(
    api_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams.Streams.__init__, "__defaults__", (2, 1))
    with serving(api_settings) as api:
        path = f"/v1/jobs/{api.submit('a')}/progress"
        with (
            client(api.url) as one,
            client(api.url) as other,
            one.stream("GET", path) as first,
            other.stream("GET", path) as second,
        ):
            assert (first.status_code, second.status_code) == (200, 200)
            refused = api.http.get(path)
            assert problem(refused, 503)["type"] == "urn:haulier:problem:too-many-streams"
            assert refused.headers["retry-after"]

        def opened() -> bool:
            with api.http.stream("GET", path) as answer:
                return answer.status_code == 200

        eventually(opened)


def test_a_producer_that_holds_its_share_of_the_streams_leaves_the_others_theirs(
    api_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams.Streams.__init__, "__defaults__", (3, 1))
    with (
        serving(api_settings) as api,
        as_bearer(api, add_producer(api.db, "lab").text) as lab,
        as_bearer(api, add_producer(api.db, "shop").text) as shop,
    ):
        paths = [
            f"/v1/jobs/{one.post('/v1/jobs', json=chat('a')).json()['id']}/progress"
            for one in (lab, shop)
        ]
        with lab.stream("GET", paths[0]) as held:
            assert held.status_code == 200
            refused = lab.get(paths[0])
            assert problem(refused, 503)["type"] == "urn:haulier:problem:too-many-streams"
            with shop.stream("GET", paths[1]) as other, api.http.stream("GET", paths[0]) as admin:
                assert (other.status_code, admin.status_code) == (200, 200)


def test_sigterm_ends_the_streams_and_does_not_wait_for_them(api_process: Running) -> None:
    with client(started_url(api_process)) as http:
        job_id = http.post("/v1/jobs", json=chat("a")).json()["id"]
        with streaming(http, UUID(job_id)) as told:
            assert next(told)[0] == "progress"
            api_process.signal(signal.SIGTERM)
            assert list(told) == []
        # Far less than the grace that requests under way have.
        assert api_process.wait(timeout=10) == 0
