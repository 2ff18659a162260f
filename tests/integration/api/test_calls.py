"""Calls at the API: nothing works on them here but the test, which settles their batches."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest

from config.settings import Settings
from service.api.calls import desk, waiting
from service.rules.outcomes import DeadLetter
from service.store import credentials, jobs, producers
from service.store.models import Job
from service.upkeep import retention
from tests.api import Api, serving
from tests.eventually import eventually
from tests.factories import MODEL, final_lines, settlement

PATH = "/together/v1/chat/completions"
REPEAT = {"x-stainless-retry-count": "1"}
MESSAGE = {"role": "assistant", "content": "yes"}
CHOICE = {"index": 0, "finish_reason": "stop", "message": MESSAGE}
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
BODY = {"id": "c1", "object": "chat.completion", "choices": [CHOICE], "usage": USAGE}

NewClient = Callable[..., "Client"]
Call = Future[httpx.Response]


class Client:
    """A producer that makes calls, each in a thread, and what settles them."""

    def __init__(self, api: Api, pool: ThreadPoolExecutor, **limits: int) -> None:
        self.api = api
        self.name = f"caller-{uuid4()}"
        made = producers.add_producer(api.db, self.name, **limits)
        self.token_id = made.id
        self.http = httpx.Client(
            base_url=api.url,
            headers={"Authorization": f"Bearer {made.text}"},
            timeout=60,
            trust_env=False,
        )
        self._pool = pool

    def post(
        self, content: str = "hi", headers: dict[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        body = {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}
        return self.http.post(PATH, json=body, headers=headers)

    def call(self, content: str = "hi", headers: dict[str, str] | None = None, **more: Any) -> Call:
        """Make a call that waits."""
        return self._pool.submit(self.post, content, headers, **more)

    def hang_up(self, headers: dict[str, str] | None = None) -> None:
        """Make a call, and go away before it is answered."""
        before = len(self.jobs())
        with httpx.Client(timeout=0.5, trust_env=False, headers=self.http.headers) as client:
            body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
            with pytest.raises(httpx.ReadTimeout):
                client.post(f"{self.api.url}{PATH}", json=body, headers=headers)
        eventually(lambda: len(self.jobs()) == before + (headers is None))

    def jobs(self) -> list[Job]:
        return jobs.jobs(self.api.db, producer=self.name, calls=True, limit=1000)

    def held(self, count: int = 1) -> list[Job]:
        """The calls, newest first, once there are so many and all are waited for."""
        eventually(lambda: (len(self.jobs()), self.holds()) == (count, count))
        return self.jobs()

    def holds(self) -> int:
        (count,) = self.api.harness.rows(
            "SELECT count(*) FROM haulier.calls JOIN haulier.jobs ON jobs.id = job_id"
            " WHERE producer = :name AND attendant IS NOT NULL",
            name=self.name,
        )
        return int(count)

    def sent(self) -> list[UUID]:
        """The calls whose answers were sent whole."""
        return list(
            self.api.harness.rows(
                "SELECT job_id FROM haulier.calls JOIN haulier.jobs ON jobs.id = job_id"
                " WHERE producer = :name AND delivered_at IS NOT NULL",
                name=self.name,
            )
        )

    def settle(self, job_id: UUID, line: bytes = b"", **dead: Any) -> None:
        """End the batch of a call, with an answer or with a dead letter."""
        harness = self.api.harness
        harness.let_in()
        (batch_id,) = harness.open_batches(job_id)
        fields: dict[str, Any] = {"custom_id": "x"}
        fields |= {"error": dead} if dead else {"response": {"status_code": 200, "body": BODY}}
        written = line or msgspec.json.encode(fields)
        lines = final_lines(self.api.blobs, f"batches/{batch_id}/{uuid4()}", [(0, written)])
        done = settlement(0 if dead else 1, final_lines=lines)
        if dead:
            letter = DeadLetter(ordinal=0, custom_id="x", attempts=3, **dead)
            done = replace(done, dead=(letter,))
        harness.settle(batch_id, done)


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as made:
        yield made


@pytest.fixture
def new_client(pool: ThreadPoolExecutor) -> Iterator[Callable[..., Client]]:
    made: list[Client] = []

    def new(api: Api, **limits: int) -> Client:
        made.append(Client(api, pool, **limits))
        return made[-1]

    yield new
    for one in made:
        one.http.close()


@pytest.fixture
def client(refusing_api: Api, new_client: NewClient) -> Client:
    return new_client(refusing_api)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let answers begin before their content is there."""
    monkeypatch.setattr(waiting, "PATIENCE", 0.2)


def error(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


def test_a_call_is_answered_with_the_providers_body_once_its_batch_is_done(client: Client) -> None:
    call = client.call(temperature=0.5, stream=False)
    (job,) = client.held()
    assert client.http.get("/v1/jobs").json()["data"] == []
    (shown,) = client.http.get("/v1/jobs", params={"calls": True}).json()["data"]
    assert shown["id"] == str(job.id)
    client.settle(job.id)
    answer = call.result()

    assert (answer.status_code, answer.json()) == (200, BODY)
    assert answer.headers["haulier-job"] == str(job.id)
    assert UUID(answer.headers["haulier-batch"])
    eventually(lambda: client.holds() == 0)
    # What went into the batch, but for how the answer is sent.
    (part,) = [part for part, _ in jobs.parts(client.api.db, job.id, after=None, limit=9)]
    blob = client.api.blobs
    (entry,) = blob.get_manifest(part.manifest or b"")
    line = b"".join(blob.stream(part.input_blob, entry.offset, entry.length))
    body = msgspec.json.decode(line)["body"]
    assert body["temperature"] == 0.5
    assert "stream" not in body


def test_calls_of_equal_content_are_two_and_each_repeat_takes_another(client: Client) -> None:
    for _ in range(3):
        client.hang_up()
    first = {job.id for job in client.jobs()}
    assert len(first) == 3
    eventually(lambda: client.holds() == 0)
    repeats = [client.call(headers=REPEAT) for _ in range(3)]
    assert {job.id for job in client.held(3)} == first
    for job_id in first:
        client.settle(job_id)
    assert {UUID(call.result().headers["haulier-job"]) for call in repeats} == first

    # A client that lost the end of an answer gets it again; one of other content is new.
    again = client.post(headers=REPEAT)
    assert UUID(again.headers["haulier-job"]) in first
    client.call("other", headers=REPEAT)
    eventually(lambda: len(client.jobs()) == 4)
    (new,) = {job.id for job in client.jobs()} - first
    client.settle(new)


def test_a_repeat_takes_the_call_that_nobody_waits_for_before_one_that_is_held(
    client: Client,
) -> None:
    held = client.call()
    (job,) = client.held()
    client.hang_up()
    eventually(lambda: client.holds() == 1)
    (lost,) = {one.id for one in client.jobs()} - {job.id}
    repeat = client.call(headers=REPEAT)
    client.held(2)
    client.settle(lost)
    client.settle(job.id)
    assert repeat.result().headers["haulier-job"] == str(lost)
    assert held.result().headers["haulier-job"] == str(job.id)


def test_an_answer_that_came_while_nobody_waited_is_there_at_once(client: Client) -> None:
    client.hang_up()
    (job,) = client.jobs()
    client.settle(job.id)
    assert client.post(headers=REPEAT).json() == BODY


@pytest.mark.parametrize(
    ("dead", "status", "kind"),
    [
        ({"code": "status_429", "message": "slow down"}, 429, "rate_limit_error"),
        ({"code": "invalid_request_error", "message": "no"}, 400, "invalid_request_error"),
        ({"code": "odd", "message": "maximum context length"}, 400, "invalid_request_error"),
        ({"code": "batch_failed", "message": "what?"}, 500, "server_error"),
        ({"code": "cancelled", "message": "the job was cancelled"}, 409, "conflict_error"),
    ],
)
def test_an_error_is_told_as_the_provider_tells_it_and_is_final(
    client: Client, dead: dict[str, Any], status: int, kind: str
) -> None:
    call = client.call()
    (job,) = client.held()
    client.settle(job.id, **dead)
    answer = call.result()

    assert answer.status_code == status
    assert (error(answer)["type"], error(answer)["message"]) == (kind, dead["message"])
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["haulier-job"] == str(job.id)
    (sent,) = eventually(client.sent)
    assert sent == job.id


def test_an_answer_that_has_begun_is_cut_by_an_error_which_the_repeat_gets(
    client: Client, soon: None
) -> None:
    call = client.call()
    streamed = client.call("streamed", stream=True)
    newest, oldest = client.held(2)
    for job in (newest, oldest):
        client.settle(job.id, code="status_429", message="slow down")
    with pytest.raises(httpx.RemoteProtocolError):
        call.result()
    eventually(lambda: client.holds() == 0)
    repeat = client.post(headers=REPEAT)
    assert (repeat.status_code, error(repeat)["message"]) == (429, "slow down")

    # No SDK repeats a stream. So it ends with the error.
    *signs, last = [line for line in streamed.result().text.splitlines() if line]
    assert set(signs) <= {": waiting"}
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "slow down"


def test_signs_of_life_come_before_an_answer_that_takes_long(client: Client, soon: None) -> None:
    tool = {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    body = {**BODY, "choices": [{**CHOICE, "message": {"content": None, "tool_calls": [tool]}}]}
    line = msgspec.json.encode({"custom_id": "x", "response": {"body": body}})
    plain, streamed = client.call(), client.call(stream=True, stream_options={})
    for job in client.held(2):
        client.settle(job.id, line)

    assert plain.result().json() == body
    events = [line for line in streamed.result().text.splitlines() if line]
    chunk = json.loads(events[-2].removeprefix("data: "))
    assert events[-1] == "data: [DONE]"
    assert chunk["object"] == "chat.completion.chunk"
    assert chunk["usage"] == USAGE
    (choice,) = chunk["choices"]
    assert choice["delta"]["tool_calls"] == [{"index": 0, **tool}]
    assert "message" not in choice


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": []}, "model"),
        ({"model": ""}, "model"),
        ({"model": MODEL, "stream": "yes"}, "stream"),
        ([], "JSON object"),
        ({"model": MODEL, "n": 10**5000}, None),
    ],
)
def test_what_no_batch_could_hold_is_refused_at_once(
    client: Client, body: Any, words: str | None
) -> None:
    if words is None:
        content = b'{"model": "m", "messages": [' + b"9" * 11_000_000 + b"]}"
        assert client.http.post(PATH, content=content).status_code == 413
        return
    answer = client.http.post(PATH, json=body)
    assert answer.status_code == 400
    assert words in error(answer)["message"]
    audio = client.http.post("/openai/v1/audio/transcriptions", files={"file": b"RIFF"})
    assert (audio.status_code, "URL" in error(audio)["message"]) == (400, True)


def test_a_call_may_be_asked_for_later(client: Client) -> None:
    asked = client.post(headers={"Prefer": "wait=5, respond-async"})
    assert asked.status_code == 202
    assert asked.headers["preference-applied"] == "respond-async"
    place = asked.headers["location"]
    assert client.http.get(place).status_code == 202
    client.settle(UUID(asked.json()["id"]))
    assert client.http.get(place).json() == BODY
    assert client.http.get(place.replace("chat/completions", "audio/translations")).is_error


def test_a_key_stands_for_one_call_whoever_repeats_it(client: Client) -> None:
    key = {"Idempotency-Key": "k1"}
    calls = [client.call(headers=key) for _ in range(3)]
    eventually(lambda: len(client.jobs()) == 1)
    assert client.post("other", headers=key).status_code == 409
    (job,) = client.jobs()
    client.settle(job.id)
    assert {call.result().headers["haulier-job"] for call in calls} == {str(job.id)}
    # What has a key is found by it alone.
    client.call(headers=REPEAT)
    eventually(lambda: len(client.jobs()) == 2)
    client.settle(next(one.id for one in client.jobs() if one.id != job.id))


def test_who_has_too_many_calls_waiting_is_told_so_and_not_to_repeat_it(
    refusing_api: Api, new_client: NewClient
) -> None:
    client = new_client(refusing_api, held_calls=1)
    call = client.call()
    (job,) = client.held()
    refused = client.post()
    assert refused.status_code == 429
    assert refused.headers["x-should-retry"] == "false"
    client.settle(job.id)
    assert call.result().status_code == 200


@pytest.mark.parametrize("begun", [True, False])
def test_a_call_ends_with_the_token_that_made_it(
    client: Client, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    monkeypatch.setattr(desk, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(waiting, "PATIENCE", 0.1 if begun else 60)
    call = client.call()
    client.held()
    credentials.revoke_token(client.api.db, client.name, client.token_id)
    if begun:
        with pytest.raises(httpx.RemoteProtocolError):
            call.result()
    else:
        assert call.result().status_code == 401


def test_a_process_that_stops_lets_every_call_go_on_elsewhere(
    api_settings: Settings, new_client: NewClient, soon: None
) -> None:
    most = {"max_connections": 4, "max_connections_per_address": 4}
    with serving(api_settings.model_copy(update=most)) as first, serving(api_settings) as second:
        client = new_client(first)
        calls = [client.call(str(n)) for n in range(10)]  # more than connections may be open
        held = {job.id for job in client.held(10)}
        client.api.harness.run("UPDATE haulier.attendants SET seen_at = now() - interval '1 h'")
        here = new_client(second)
        eventually(lambda: here.post(headers={"Prefer": "respond-async"}).status_code == 202)
    for call in calls:
        with pytest.raises(httpx.RemoteProtocolError):
            call.result()
    with serving(api_settings) as third:
        client.api, client.http.base_url = third, httpx.URL(third.url)
        assert client.holds() == 0
        repeats = [client.call(str(n), headers=REPEAT) for n in range(10)]
        assert {job.id for job in client.held(10)} == held
        for job_id in held:
            client.settle(job_id)
        assert {call.result().status_code for call in repeats} == {200}


def test_calls_are_forgotten_before_other_jobs_are(api: Api, new_client: NewClient) -> None:
    client = new_client(api)
    asked = client.post(headers={"Prefer": "respond-async"})
    client.settle(UUID(asked.json()["id"]))
    kept = api.submit()
    api.harness.run("UPDATE haulier.jobs SET finished_at = now() - interval '25 h' WHERE is_call")
    assert retention.prune(api.db, timedelta(days=1)) == 0
    assert retention.prune(api.db, timedelta(days=1), calls=True) == 1
    assert api.harness.rows("SELECT count(*) FROM haulier.calls") == [0]
    assert api.job(kept)["state"] == "running"
