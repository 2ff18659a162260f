"""The Python client against a real API: both kinds, broken connections, and its wheel."""

import asyncio
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import haulier_client
import pytest
from haulier_client import AsyncClient, Client, Failure
from haulier_client.views import read_result

from config.settings import Settings
from service.rules.credentials import Scope
from service.store.producers import add_credential, add_producer
from tests.api import TOKEN, Api, serving
from tests.eventually import eventually
from tests.factories import MODEL, chat_request, final_lines, settlement
from tests.faults.proxy import Proxy
from tests.pipeline import Pipeline

CLIENT = Path(haulier_client.__file__).parents[1]


@pytest.fixture
def haulier(api: Api) -> Iterator[Client]:
    with Client(api.url, TOKEN) as made:
        yield made


@pytest.fixture
def proxy(api: Api) -> Iterator[Proxy]:
    port = urlsplit(api.url).port
    assert port is not None
    with Proxy("127.0.0.1", port) as made:
        yield made


def through(proxy: Proxy) -> str:
    return f"http://127.0.0.1:{proxy.port}"


def jobs(api: Api) -> int:
    return int(api.harness.rows("SELECT count(*) FROM haulier.jobs")[0])


# --- submitting ---------------------------------------------------------------------------------


def test_requests_of_a_generator_become_one_job_with_all_its_fields(
    api: Api, haulier: Client
) -> None:
    job = haulier.submit(
        ({"custom_id": f"r{n}", "body": {"messages": []}} for n in range(5000)),
        model=MODEL,
        priority=5,
        max_attempts=2,
        metadata={"ü": [1]},
        check=["json", {"regex": "ü"}],
        canary=4000,
        deadline=timedelta(hours=6),
        idempotency_key="nightly",
    )
    assert (job.state, job.total, job.pending, job.metadata) == ("running", 5000, 5000, {"ü": [1]})
    assert (job.raw["priority"], job.raw["max_attempts"]) == (5, 2)
    due = datetime.fromisoformat(job.raw["deadline"])
    assert due == job.created_at + timedelta(hours=6)
    assert not job.ended
    assert haulier.job(job).raw["check"] == ["json", {"regex": "ü"}]
    assert (job.raw["canary"], job.raw["canary_failures"]) == (4000, 2000)
    assert haulier.release(job) == haulier.job(str(job.id)) == haulier.job(job)
    assert jobs(api) == 1


def test_a_spec_is_submitted_under_its_own_key(api: Api, haulier: Client) -> None:
    spec = {
        "endpoint": "/v1/chat/completions",
        "requests": [chat_request("a")],
        "idempotency_key": "k",
        "deadline": datetime(2999, 1, 1, tzinfo=UTC),
    }
    assert haulier.submit_spec(spec) == haulier.submit_spec(spec)
    assert jobs(api) == 1


class Cutting:
    """Requests that can be gone through again, and whose connection breaks the first time."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self.times = 0

    def __len__(self) -> int:
        return 3000

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.times += 1
        for number in range(3000):
            if number == 2000 and self.times == 1:
                # The connection was made, but the proxy may not have got to it yet.
                eventually(lambda: self._proxy.connected)
                self._proxy.cut()
            yield chat_request(f"r{number}")


def test_what_can_be_gone_through_again_is_sent_again_and_makes_one_job(
    api: Api, proxy: Proxy
) -> None:
    requests = Cutting(proxy)
    with Client(through(proxy), TOKEN) as haulier:
        assert haulier.submit(requests).total == 3000
    assert (requests.times, jobs(api)) == (2, 1)


def test_an_iterator_whose_connection_breaks_is_unreachable_and_makes_no_job(
    api: Api, proxy: Proxy
) -> None:
    with Client(through(proxy), TOKEN) as haulier, pytest.raises(haulier_client.Unreachable):
        haulier.submit(iter(Cutting(proxy)))
    assert jobs(api) == 0


def test_a_client_of_asyncio_does_the_same(api: Api) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(3):
            yield chat_request(f"r{number}")

    async def all_of_it() -> None:
        async with AsyncClient(api.url, TOKEN) as haulier:
            job = await haulier.submit(requests(), idempotency_key="k")
            assert job == await haulier.submit(requests(), idempotency_key="k")
            assert (await haulier.submit([chat_request("a")])).total == 1
            spec = {"endpoint": "/v1/chat/completions", "requests": [chat_request("a")]}
            await haulier.submit_spec(spec)
            assert len([job async for job in haulier.jobs(limit=2)]) == 3
            assert await haulier.job(job.id) == job
            assert (await haulier.cancel(job)).raw["cancel_requested_at"]
            assert [failure async for failure in haulier.failures(job)] == []
            with pytest.raises(haulier_client.WaitTimeout):
                await haulier.wait(job, timeout=0.1, poll=0.05)
            with pytest.raises(haulier_client.Conflict):
                await haulier.retry(job)
            with pytest.raises(haulier_client.Conflict):
                [result async for result in haulier.results(job)]

    asyncio.run(all_of_it())


# --- what is refused ----------------------------------------------------------------------------


def test_requests_come_in_the_shapes_that_tools_write(api: Api, haulier: Client) -> None:
    shaped = {"method": "POST", "url": "/v1/chat/completions", **chat_request("a")}
    shaped["body"]["model"] = None
    left_out: dict[str, Any] = dict.fromkeys(
        ["account", "priority", "metadata", "notify", "idempotency_key"]
    )
    job = haulier.submit([shaped], model=MODEL, **left_out)
    again = haulier.submit_spec(
        {"endpoint": "/v1/chat/completions", "requests": [chat_request("a")], **left_out}
    )
    assert (job.total, again.total) == (1, 1)
    (part,) = api.http.get(f"/v1/jobs/{job.id}/batches").json()["data"]
    assert part["model"] == MODEL


@pytest.mark.parametrize(
    ("message", "calls"),
    [
        ({"content": None, "tool_calls": [{"id": "t"}]}, [{"id": "t"}]),
        ({"content": "x", "tool_calls": None}, []),
        (None, []),
    ],
)
def test_a_result_may_call_tools(message: Any, calls: list[Any]) -> None:
    line = {"custom_id": "a", "response": {"body": {"choices": [{"message": message}]}}}
    assert read_result(json.dumps(line).encode()).tool_calls == calls


def test_bad_requests_are_named_by_their_lines(haulier: Client) -> None:
    with pytest.raises(haulier_client.Invalid) as refused:
        haulier.submit([chat_request("a"), chat_request("a"), {"custom_id": "b", "body": {}}])
    error = refused.value
    assert (error.status, error.type) == (422, "urn:haulier:problem:invalid-input")
    assert [problem.line for problem in error.problems] == [2, 3]


def test_a_field_that_does_not_exist_is_refused(haulier: Client) -> None:
    with pytest.raises(haulier_client.Invalid, match="query modell"):
        haulier.submit([chat_request("a")], modell="m")


def test_each_status_has_its_error(api: Api, haulier: Client) -> None:
    add_producer(api.db, "reader")
    token = add_credential(api.db, "reader", scopes=[Scope.READ]).text
    with Client(api.url, "nonsense") as stranger, pytest.raises(haulier_client.Unauthorized):
        stranger.job(uuid4())
    with Client(api.url, token) as reader, pytest.raises(haulier_client.Forbidden):
        reader.submit([chat_request("a")])
    with pytest.raises(haulier_client.NotFound):
        haulier.job(uuid4())
    with pytest.raises(haulier_client.TooLarge):
        haulier.submit_spec({"endpoint": "x" * 33_000_000})
    haulier.submit([chat_request("a")], idempotency_key="k")
    with pytest.raises(haulier_client.Conflict, match="other content"):
        haulier.submit([chat_request("b")], idempotency_key="k")


def test_what_is_no_id_is_never_sent(haulier: Client) -> None:
    with pytest.raises(ValueError, match="UUID"):
        haulier.cancel("../producers")


def test_jobs_are_found_over_several_pages(haulier: Client) -> None:
    made = [haulier.submit([chat_request("a")]).id for _ in range(5)]
    assert [job.id for job in haulier.jobs(limit=2)] == made[::-1]
    assert list(haulier.jobs(state="completed")) == []


def test_waiting_gives_up_in_time_and_shows_the_job(haulier: Client) -> None:
    job = haulier.submit([chat_request("a")])
    with pytest.raises(haulier_client.WaitTimeout, match=r"running, 1 requests are pending"):
        haulier.wait(job, timeout=0.1, poll=0.02)


# --- results ------------------------------------------------------------------------------------


def success(ordinal: int) -> bytes:
    text = f'{{"choices": [{{"message": {{"content": "{ordinal}{"x" * 20_000}"}}}}]}}'
    return f'{{"custom_id": "r{ordinal}", "response": {{"body": {text}}}}}\n'.encode()


@pytest.fixture
def finished(api: Api) -> UUID:
    """A job with 20 MB of results."""
    (batch_id,) = api.harness.split(1000)
    lines = final_lines(api.blobs, f"lines/{batch_id}", [(n, success(n)) for n in range(1000)])
    api.harness.settle(batch_id, settlement(1000, final_lines=lines))
    job_id = api.harness.job_of(batch_id).id
    api.assemble(job_id)
    return job_id


def test_results_go_on_where_the_connection_broke(proxy: Proxy, finished: UUID) -> None:
    found: list[str] = []
    with Client(through(proxy), TOKEN) as haulier:
        for result in haulier.results(finished):
            if len(found) in {0, 500}:
                proxy.cut()
            found.append(result.custom_id)
            assert (result.text or "")[:-20_000] == result.custom_id[1:]
    assert found == [f"r{ordinal}" for ordinal in range(1000)]


def test_results_go_on_with_asyncio_too(proxy: Proxy, finished: UUID) -> None:
    async def read() -> list[str]:
        found: list[str] = []
        async with AsyncClient(through(proxy), TOKEN) as haulier:
            async for result in haulier.results(finished):
                if not found:
                    await asyncio.to_thread(proxy.cut)
                found.append(result.custom_id)
        return found

    assert asyncio.run(read()) == [f"r{ordinal}" for ordinal in range(1000)]


def test_results_that_are_replaced_while_they_are_read_are_not_mingled(
    api: Api, proxy: Proxy, finished: UUID
) -> None:
    with Client(through(proxy), TOKEN) as haulier:
        reading = haulier.results(finished)
        next(reading)
        api.harness.run(
            "INSERT INTO haulier.segments SELECT job_id, 2, position, blob, index_blob, bytes,"
            " requests FROM haulier.segments"
        )
        api.harness.run("UPDATE haulier.jobs SET generation = 2")
        proxy.cut()
        with pytest.raises(haulier_client.ResultsChanged):
            list(reading)


def test_dead_requests_have_their_error(api: Api, haulier: Client) -> None:
    (batch_id,) = api.harness.split(1)
    line = b'{"custom_id": "r0", "error": {"code": "error", "message": "no"}, "attempts": 1}\n'
    lines = final_lines(api.blobs, f"lines/{batch_id}", [(0, line)])
    api.harness.settle(batch_id, settlement(0, dead=[0], final_lines=lines))
    job_id = api.harness.job_of(batch_id).id
    api.assemble(job_id)
    (result,) = haulier.results(job_id)
    dead = Failure("r0", "error", "no", 1)
    assert (result.ok, result.text, result.error) == (False, None, dead)
    assert list(haulier.failures(job_id)) == [dead]


# --- the README and the wheel -------------------------------------------------------------------


def test_the_examples_of_the_readme_work(
    pipeline: Pipeline,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipeline.worker()
    pipeline.scheduler()
    settings = Settings.model_validate(
        {
            "DATABASE_URL": environment["DATABASE_URL"],
            "blob_url": environment["HAULIER_BLOB_URL"],
            "admin_token": TOKEN,
        }
    )
    readme = CLIENT / "README.md"
    examples = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    with serving(settings) as api:
        monkeypatch.setenv("HAULIER_URL", api.url)
        monkeypatch.setenv("HAULIER_TOKEN", TOKEN)
        for example in examples:
            exec(compile(example, readme, "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert len(examples) == 6
    assert "used for job" in printed
    assert "model" in printed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client's wheel, built with what is installed already."""
    directory = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    subprocess.run(build, cwd=CLIENT, check=True, capture_output=True, text=True)
    (built,) = directory.iterdir()
    return built


def test_the_wheel_holds_the_client_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {
        "haulier_client",
        "haulier_client-0.1.0.dist-info",
    }
    assert "haulier_client/py.typed" in names


def test_the_client_works_from_its_wheel_alone(wheel: Path) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(wheel)!r})\n"
        "import haulier_client\n"
        "haulier_client.Client('http://127.0.0.1:1', 'token').close()\n"
        "print(haulier_client.__file__)\n"
        "print({'config', 'service', 'workers', 'celery'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True
    )
    place, foreign = done.stdout.splitlines()
    assert place.startswith(str(wheel))
    assert foreign == "set()"
