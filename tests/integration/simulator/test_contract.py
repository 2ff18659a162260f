"""The simulator keeps Together's contract when nothing is made to go wrong."""

from collections.abc import Iterator

import httpx
import pytest

from tests.simulator import KEY, Simulator
from tests.together_by_hand import (
    TRANSCRIPTIONS,
    TRANSLATIONS,
    ByHand,
    Json,
    chat_line,
    jsonl,
)


@pytest.fixture
def api(simulator: Simulator) -> Iterator[ByHand]:
    with ByHand(simulator.url) as by_hand:
        yield by_hand


def test_a_batch_goes_from_upload_to_results(api: ByHand, simulator: Simulator) -> None:
    content = jsonl([chat_line(f"r{n}", f"number {n}") for n in range(20)])
    file_id = api.upload(content)
    created = api.post_batch(file_id)
    assert created.status_code == 201
    job = created.json()["job"]
    assert job["status"] == "VALIDATING"
    assert job["progress"] == 0
    assert job["file_size_bytes"] == len(content)
    outcome = api.outcome(job["id"])
    assert outcome.job["status"] == "COMPLETED"
    assert outcome.job["progress"] == 100
    assert set(outcome.output) == {f"r{n}" for n in range(20)}
    assert "error_file_id" not in outcome.job
    body = outcome.output["r7"]["response"]["body"]
    assert body["choices"][0]["message"]["content"] == "echo: number 7"
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert [line["custom_id"] for line in api.lines(outcome.job["output_file_id"])] != [
        f"r{n}" for n in range(20)
    ], "results come in another order"
    assert simulator.books().totals.lines_billed == 20


def test_the_same_request_is_always_answered_alike(api: ByHand) -> None:
    lines = [chat_line(f"r{n}", f"number {n}") for n in range(5)]
    answers = [
        {key: line["response"] for key, line in api.run(lines).output.items()} for _ in range(2)
    ]
    assert answers[0] == answers[1]


def test_a_batch_moves_through_its_states_with_growing_progress(simulator: Simulator) -> None:
    simulator.switch(batch_seconds=1)
    with ByHand(simulator.url) as api:
        batch_id = api.create(api.upload([chat_line("a")]))
        seen: list[tuple[str, float]] = []
        while not seen or seen[-1][0] != "COMPLETED":
            job = api.batch(batch_id)
            seen.append((job["status"], job["progress"]))
    states = list(dict.fromkeys(status for status, _ in seen))
    assert states == ["VALIDATING", "IN_PROGRESS", "COMPLETED"]
    growing = [progress for _, progress in seen]
    assert growing == sorted(growing)
    assert len(set(growing)) > 3


@pytest.mark.parametrize("direct", [False, True])
def test_both_uploads_store_the_exact_bytes(api: ByHand, direct: bool) -> None:
    content = jsonl([chat_line("a", "schöne Grüße  ")]) * 3 + b"no newline at the end"
    if direct:
        shown = api.upload_directly(content, "mine.jsonl").json()
    else:
        shown = api.http.get(f"/v1/files/{api.upload(content, 'mine.jsonl')}").json()
    assert shown["bytes"] == len(content)
    assert shown["filename"] == "mine.jsonl"
    assert shown["purpose"] == "batch-api"
    assert shown["FileType"] == "jsonl"
    assert shown["object"] == "file"
    assert api.content(shown["id"]).content == content
    assert [file["id"] for file in api.http.get("/v1/files").json()["data"]] == [shown["id"]]


def test_an_upload_without_checksum_is_always_a_file_of_its_own(api: ByHand) -> None:
    content = jsonl([chat_line("a")])
    assert api.upload(content) != api.upload(content)


def test_a_known_checksum_is_answered_with_the_file_that_has_it(api: ByHand) -> None:
    announced = api.announce(checksum="c0ffee")
    file_id = announced.headers["x-together-file-id"]
    assert api.announce(checksum="c0ffee").status_code == 302, "nothing is stored under it yet"
    api.put(announced.headers["location"], b"{}\n")
    again = api.announce(checksum="c0ffee")
    assert again.status_code == 409
    assert again.json() == {"file_id": file_id}


def test_the_object_store_takes_no_api_key(api: ByHand) -> None:
    location = api.announce().headers["location"]
    refused = api.put(location, b"{}\n", {"Authorization": f"Bearer {KEY}"})
    assert refused.status_code == 400
    assert api.put(location.replace("Signature=", "Signature=0"), b"{}\n").status_code == 403
    assert api.put(location, b"{}\n").status_code == 200


def test_the_object_store_wants_to_know_the_length(api: ByHand) -> None:
    location = api.announce().headers["location"]
    assert httpx.put(location, content=iter([b"{}\n"])).status_code == 411


def test_a_file_is_not_processed_before_it_is_there(api: ByHand) -> None:
    file_id = api.announce().headers["x-together-file-id"]
    assert api.http.post(f"/v1/files/{file_id}/preprocess").status_code == 400
    assert api.http.get(f"/v1/files/{file_id}").json()["processing_status"] == "PENDING"


def test_a_deleted_file_is_gone(api: ByHand, simulator: Simulator) -> None:
    file_id = api.upload([chat_line("a")])
    deleted = {"id": file_id, "object": "file", "deleted": True}
    assert api.http.delete(f"/v1/files/{file_id}").json() == deleted
    assert api.http.get(f"/v1/files/{file_id}").status_code == 404
    assert api.content(file_id).status_code == 404
    assert api.http.get("/v1/files").json() == {"data": []}
    assert simulator.books().totals.files_deleted == 1


def test_a_batch_finishes_on_a_file_deleted_after_its_validation(
    api: ByHand, simulator: Simulator
) -> None:
    simulator.batch_rule(seconds=0.5)
    file_id = api.upload([chat_line("a")])
    batch_id = api.create(file_id)
    while api.batch(batch_id)["status"] == "VALIDATING":
        pass
    api.http.delete(f"/v1/files/{file_id}")
    assert set(api.outcome(batch_id).output) == {"a"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/files/file-unknown"),
        ("GET", "/v1/files/file-unknown/content"),
        ("DELETE", "/v1/files/file-unknown"),
        ("POST", "/v1/files/file-unknown/preprocess"),
        ("GET", "/v1/nothing"),
    ],
)
def test_an_unknown_file_is_an_object_error(api: ByHand, method: str, path: str) -> None:
    answer = api.http.request(method, path)
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("POST", "/cancel")])
def test_an_unknown_batch_is_a_string_error(api: ByHand, method: str, suffix: str) -> None:
    answer = api.http.request(method, f"/v1/batches/unknown{suffix}")
    assert answer.status_code == 404
    assert answer.json()["error"] == "Job not found"
    assert answer.json()["request_id"]


@pytest.mark.parametrize(
    "body",
    [b"no json", b"{}", b'{"endpoint": "/v1/embeddings", "input_file_id": "file-1"}'],
)
def test_a_create_that_makes_no_sense_is_refused(
    api: ByHand, simulator: Simulator, body: bytes
) -> None:
    answer = api.http.post("/v1/batches", content=body)
    assert answer.status_code == 400
    assert isinstance(answer.json()["error"], str)
    assert simulator.batches_created == 0


def test_the_list_is_null_without_batches_and_bare_with_them(api: ByHand) -> None:
    assert api.http.get("/v1/batches").text == "null"
    file_id = api.upload([chat_line("a")])
    created = {api.create(file_id) for _ in range(3)}
    assert {job["id"] for job in api.http.get("/v1/batches").json()} == created


def test_accounts_do_not_see_each_other(api: ByHand, simulator: Simulator) -> None:
    file_id = api.upload([chat_line("a")])
    batch_id = api.create(file_id)
    with ByHand(simulator.url, "another-key") as other:
        assert other.http.get("/v1/batches").json() is None
        assert other.http.get(f"/v1/batches/{batch_id}").status_code == 404
        assert other.http.get(f"/v1/files/{file_id}").status_code == 404
        assert other.ended(other.create(file_id))["status"] == "FAILED"
    api.ended(batch_id)
    assert simulator.billed("a") == 1
    assert simulator.billed("a", key="another-key") == 0


def test_a_call_without_key_is_refused(simulator: Simulator) -> None:
    assert httpx.get(f"{simulator.url}/v1/batches").status_code == 401


@pytest.mark.parametrize(
    ("status", "batches", "creates"), [(401, 401, 401), (402, 200, 402), (403, 403, 403)]
)
def test_keys_can_be_bad_broke_or_forbidden(
    simulator: Simulator, status: int, batches: int, creates: int
) -> None:
    simulator.keys({"sick": status})
    with ByHand(simulator.url, "sick") as sick:
        assert sick.http.get("/v1/batches").status_code == batches
        assert sick.post_batch("file-1").status_code == creates
        assert sick.announce().status_code == creates
    simulator.keys({})
    with ByHand(simulator.url, "sick") as sick:
        assert sick.http.get("/v1/batches").status_code == 200


GOOD = chat_line("good")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (
            jsonl([GOOD]) + b'{"custom_id": "b", "body"\n',
            "Failed to calculate tokens: input format error: Line 2 (within chunk):"
            " Invalid JSON format",
        ),
        (jsonl([GOOD]) + b"[]\n", "Line 2 (within chunk)"),
        (jsonl([GOOD, GOOD]), "Duplicate custom_id 'good'"),
        (jsonl([chat_line("x" * 65)]), "custom_id longer than 64 characters"),
        (jsonl([chat_line("")]), "Missing required field 'custom_id'"),
        (jsonl([{"body": {}}]), "custom_id"),
        (jsonl([{"custom_id": "a", "body": 5}]), "'body' must be an object"),
        (b"\n", "Input file is empty"),
    ],
)
def test_a_bad_line_fails_the_whole_batch(
    api: ByHand, simulator: Simulator, content: bytes, error: str
) -> None:
    outcome = api.run(content)
    assert outcome.job["status"] == "FAILED"
    assert error in outcome.job["error"]
    assert not outcome.job.keys() & {"output_file_id", "error_file_id"}
    assert simulator.books().totals.lines_executed == 0


@pytest.mark.parametrize(
    ("switch", "limit", "error"),
    [
        ("max_requests", 2, "more than 2 requests"),
        ("max_file_bytes", 100, "too large"),
        ("max_line_bytes", 50, "Line too long"),
    ],
)
def test_limits_are_kept(
    api: ByHand, simulator: Simulator, switch: str, limit: int, error: str
) -> None:
    simulator.switch(**{switch: limit})
    outcome = api.run([chat_line(f"r{n}") for n in range(3)])
    assert outcome.job["status"] == "FAILED"
    assert error in outcome.job["error"]


def test_line_numbers_count_within_chunks(api: ByHand, simulator: Simulator) -> None:
    simulator.switch(chunk_lines=10)
    job = api.run(jsonl([chat_line(f"r{n}") for n in range(13)]) + b"{\n").job
    assert "Line 4 (within chunk)" in job["error"]


def test_an_unknown_input_file_fails_later(api: ByHand) -> None:
    job = api.ended(api.create("file-that-never-was"))
    assert job["status"] == "FAILED"
    assert job["error"].startswith("Failed to download input file: ")
    assert "404" in job["error"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"messages": [{"content": "x"}]}, "missing 'model' field in body or not a string"),
        ({"model": 5, "messages": [{"content": "x"}]}, "missing 'model' field in body"),
        ({"model": "m"}, "missing 'messages'"),
        ({"model": "m", "messages": 3}, "invalid request body"),
        ({**GOOD["body"], "stop": ["a", "b", "c", "d", "e"]}, "Maximum four stop sequences"),
        ({**GOOD["body"], "tools": [{}]}, "tools[0]: missing field 'function'"),
    ],
)
def test_a_bad_parameter_fails_its_own_line_only(
    api: ByHand, simulator: Simulator, body: Json, message: str
) -> None:
    outcome = api.run([{"custom_id": "bad", "body": body}, GOOD])
    assert outcome.job["status"] == "COMPLETED"
    assert set(outcome.output) == {"good"}
    assert message in outcome.errors["bad"]["error"]["message"]
    assert outcome.errors["bad"]["error"]["code"] == "batch_client_error"
    assert simulator.billed("bad") == 0
    assert simulator.executed("bad") == 1


def test_a_batch_of_failures_has_no_output_file(api: ByHand) -> None:
    outcome = api.run([{"custom_id": "bad", "body": {}}])
    assert outcome.job["status"] == "COMPLETED"
    assert "output_file_id" not in outcome.job
    assert set(outcome.errors) == {"bad"}


@pytest.mark.parametrize("endpoint", [TRANSCRIPTIONS, TRANSLATIONS])
def test_audio_needs_method_file_on_every_line(api: ByHand, endpoint: str) -> None:
    body = {"model": "openai/whisper-large-v3", "file": "https://example.com/a.mp3"}
    outcome = api.run(
        [
            {"custom_id": "good", "method": "FILE", "body": body},
            {"custom_id": "bad", "body": body},
            {"custom_id": "local", "method": "FILE", "body": {**body, "file": "clips/a.mp3"}},
        ],
        endpoint,
    )
    answer = outcome.output["good"]["response"]["body"]
    assert set(answer) == {"duration", "language", "text"}
    message = outcome.errors["bad"]["error"]["message"]
    assert message == "Content-Type must be multipart/form-data"
    assert "public URL" in outcome.errors["local"]["error"]["message"]


def test_a_cancelled_batch_keeps_its_finished_lines(api: ByHand, simulator: Simulator) -> None:
    simulator.batch_rule(hang=True, share=0.4)
    simulator.switch(canceling_seconds=0.5)
    batch_id = api.create(api.upload([chat_line(f"r{n}") for n in range(10)]))
    while api.batch(batch_id)["progress"] < 40:
        pass
    cancelled = api.http.post(f"/v1/batches/{batch_id}/cancel").json()
    assert cancelled["status"] == "CANCELING"
    again = api.http.post(f"/v1/batches/{batch_id}/cancel")
    assert again.status_code == 200
    outcome = api.outcome(batch_id)
    assert outcome.job["status"] == "CANCELLED"
    assert len(outcome.output) == 4
    assert simulator.books().totals.lines_billed == 4


def test_a_batch_cancelled_while_validating_has_no_files(api: ByHand, simulator: Simulator) -> None:
    simulator.batch_rule(seconds=60)
    batch_id = api.create(api.upload([chat_line("a")]))
    api.http.post(f"/v1/batches/{batch_id}/cancel")
    job = api.ended(batch_id)
    assert job["status"] == "CANCELLED"
    assert not job.keys() & {"output_file_id", "error_file_id"}


def test_a_finished_batch_cannot_be_cancelled(api: ByHand) -> None:
    job = api.run([chat_line("a")]).job
    refused = api.http.post(f"/v1/batches/{job['id']}/cancel")
    assert refused.status_code == 409
    assert isinstance(refused.json()["error"], str)


def test_the_books_tell_what_was_bought_from_which_file(api: ByHand, simulator: Simulator) -> None:
    file_id = api.upload([chat_line("a"), {"custom_id": "bad", "body": {}}], "mine.jsonl")
    for _ in range(2):
        api.ended(api.create(file_id))
    account = simulator.account()
    assert account.batches_by_input_file == {file_id: 2}
    assert [book.filename for book in account.batches] == ["mine.jsonl"] * 2
    assert account.lines["a"].executed == account.lines["a"].succeeded == 2
    assert account.lines["bad"].failed == 2
    totals = simulator.books().totals
    assert totals.batches_created == simulator.batches_created == 2
    assert (totals.lines_executed, totals.lines_billed, totals.lines_failed) == (4, 2, 2)
    assert totals.duplicate_successes == 1
    assert totals.files_uploaded == 1


def test_the_log_tells_who_called_what(api: ByHand, simulator: Simulator) -> None:
    file_id = api.upload([chat_line("a")])
    batch_id = api.create(file_id)
    api.batch(batch_id)
    calls = simulator.requests()
    assert [call.operation for call in calls] == [
        "create_file",
        "put",
        "preprocess",
        "create",
        "retrieve",
    ]
    assert calls[-1].targets == (batch_id,)
    assert calls[3].targets == (file_id, "input.jsonl", "m")
    assert [call.status for call in calls] == [302, 200, 200, 201, 200]
    assert simulator.counts()["retrieve"] == 1
    assert len(simulator.requests("put")) == 1


def test_a_reset_forgets_everything(api: ByHand, simulator: Simulator) -> None:
    simulator.switch(list_order="newest")
    simulator.fault("retrieve", "lost")
    api.create(api.upload([chat_line("a")]))
    simulator.reset()
    assert simulator.books().accounts == {}
    assert simulator.counts() == {}
    assert api.http.get("/v1/batches").json() is None
    assert api.http.get("/v1/batches/unknown").status_code == 404
