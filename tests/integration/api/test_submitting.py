"""POST /v1/jobs: what is taken, what is refused and with which words."""

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from config.settings import Settings
from tests.api import Api, chat, jsonl, messages, post_lines, problem, serving
from tests.factories import CHAT, chat_line, chat_request

AUDIO = "/v1/audio/transcriptions"


def post_json(api: Api, spec: Any, **headers: str) -> httpx.Response:
    return api.http.post("/v1/jobs", json=spec, headers=headers)


def post_raw(api: Api, content: bytes, **headers: str) -> httpx.Response:
    return api.http.post(
        "/v1/jobs", content=content, headers={"Content-Type": "application/json", **headers}
    )


def jobs(api: Api) -> list[Any]:
    found: list[Any] = api.http.get("/v1/jobs").json()["data"]
    return found


# --- good input --------------------------------------------------------------------------------


def test_a_new_job_shows_everything_about_itself(api: Api) -> None:
    answer = post_json(
        api,
        chat("a", "b", metadata={"team": "search"}, priority=5, max_attempts=7),
    )

    assert answer.status_code == 201
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    created_at = job.pop("created_at")
    assert created_at.endswith("Z")
    assert job.pop("started_at") == created_at
    assert job.pop("forecast")["code"] == "not_yet"
    assert job == {
        "id": str(UUID(job["id"])),
        "state": "running",
        "endpoint": CHAT,
        "account": "default",
        "producer": "default",
        "total": 2,
        "succeeded": 0,
        "failed": 0,
        "pending": 2,
        "attempts": 0,
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        "finished_at": None,
        "error": None,
        "metadata": {"team": "search"},
        "priority": 5,
        "max_attempts": 7,
        "input": None,
        "idempotency_key": None,
        "problems": None,
        "cancel_requested_at": None,
        "results_generation": 0,
        "canary": None,
        "canary_failures": None,
        "max_cost": None,
        "held_at": None,
        "deadline": None,
        "on_deadline": None,
        "deadline_at_risk_since": None,
        "deadline_missed_at": None,
        "raised_priority": None,
        "parked_at": None,
        "last_error": None,
    }


@pytest.mark.parametrize(
    "media_type",
    ["application/x-ndjson", "application/jsonl", "application/jsonlines; charset=utf-8"],
)
def test_jsonl_is_taken_with_the_other_fields_in_the_query(api: Api, media_type: str) -> None:
    answer = api.http.post(
        "/v1/jobs",
        params={
            "endpoint": CHAT,
            "account": "default",
            "max_attempts": 9,
            "priority": -3,
            "metadata": '{"team": "search", "n": [1, null]}',
            "notify": "[]",
            "check": "json",
            "max_cost": "2.50",
            "deadline": "2999-12-01T07:00:00+01:00",
            "on_deadline": "priority",
            "idempotency_key": "k",
        },
        content=jsonl("a", "b", "c"),
        headers={"Content-Type": media_type},
    )

    assert answer.status_code == 201
    job = answer.json()
    assert (job["total"], job["max_attempts"], job["priority"]) == (3, 9, -3)
    assert job["metadata"] == {"team": "search", "n": [1, None]}
    assert (job["idempotency_key"], job["max_cost"]) == ("k", "2.5")
    assert (job["deadline"], job["on_deadline"]) == ("2999-12-01T06:00:00Z", "priority")
    assert api.http.get(f"/v1/jobs/{job['id']}").json()["check"] == "json"


def test_blank_lines_windows_line_ends_and_a_missing_last_one_do_no_harm(api: Api) -> None:
    body = b"\n" + chat_line("a") + b"\r\n\r\n" + chat_line("b")

    assert post_lines(api, body).json()["total"] == 2


def test_audio_is_taken_with_its_method(api: Api) -> None:
    request = {
        "custom_id": "a",
        "method": "FILE",
        "body": {"model": "openai/whisper-large-v3", "file": "https://example.com/a.mp3"},
    }

    assert post_json(api, {"endpoint": AUDIO, "requests": [request]}).status_code == 201


def test_an_input_under_an_allowed_root_is_accepted_to_be_read_later(
    api_settings: Settings, tmp_path: Path
) -> None:
    settings = api_settings.model_copy(update={"input_roots": (tmp_path.as_uri(),)})
    with serving(settings) as api:
        url = (tmp_path / "lines.jsonl").as_uri()
        answer = post_json(api, {"endpoint": CHAT, "input": url})

        assert answer.status_code == 201
        assert answer.json()["input"] == url
        elsewhere = (tmp_path.parent / "lines.jsonl").as_uri()
        refused = messages(post_json(api, {"endpoint": CHAT, "input": elsewhere}))
        assert "allowed input roots" in refused[0][1]


LINES = jsonl("a", "b")
SHAPED = b"".join(
    json.dumps({**chat_request(name), "method": "POST", "url": CHAT}).encode() + b"\n"
    for name in "ab"
)
NULLS = chat(
    *("a", "b"),
    **dict.fromkeys(["input", "account", "max_attempts", "priority", "metadata", "notify"]),
)
SPEC = json.dumps(chat("a", "b")).encode()
ZIPPED = {"Content-Encoding": "gzip"}
# (body, content type, further headers)
AS_THEY_ARE = {
    "lines in the shape of OpenAI": (SHAPED, "application/x-ndjson", {}),
    "lines with a mark": (b"\xef\xbb\xbf" + LINES, "application/x-ndjson", {}),
    "lines, gzipped on their way": (gzip.compress(LINES), "application/x-ndjson", ZIPPED),
    "a gzipped file of lines": (gzip.compress(SHAPED), "application/x-ndjson", {}),
    "a gzipped file by its type": (gzip.compress(LINES), "application/gzip", {}),
    "a gzipped file, gzipped": (gzip.compress(gzip.compress(LINES)), "application/gzip", ZIPPED),
    "a spec with nulls": (json.dumps(NULLS).encode(), "application/json", {}),
    "a spec with a mark": (b"\xef\xbb\xbf" + SPEC, "application/json", {}),
    "a spec, gzipped on its way": (gzip.compress(SPEC), "application/json", ZIPPED),
    "a gzipped file of a spec": (gzip.compress(SPEC), "application/json", {}),
}


@pytest.mark.parametrize(("content", "kind", "headers"), AS_THEY_ARE.values(), ids=AS_THEY_ARE)
def test_input_is_taken_as_clients_send_it(
    api: Api, content: bytes, kind: str, headers: dict[str, str]
) -> None:
    query = {} if kind == "application/json" else {"endpoint": CHAT}
    answer = api.http.post(
        "/v1/jobs", content=content, params=query, headers={"Content-Type": kind, **headers}
    )

    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert (job["total"], job["account"], job["priority"]) == (2, "default", 0)
    assert api.http.get(f"/v1/jobs/{job['id']}/requests/b").json()["ordinal"] == 1


def test_null_in_a_query_means_that_the_parameter_was_left_out(api: Api) -> None:
    names = ["account", "max_attempts", "priority", "metadata", "notify", "idempotency_key"]
    answers = [post_lines(api, LINES, **dict.fromkeys(names, "null")) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [201, 201]  # without a key, they are two
    assert answers[0].json()["max_attempts"] == 3


def test_either_shape_of_a_request_is_the_same_content(api: Api) -> None:
    shaped = chat("a", idempotency_key="k")
    shaped["requests"] = [
        {"url": CHAT, "method": "POST", **one, "id": None} for one in shaped["requests"]
    ]
    for one in shaped["requests"]:
        del one["id"]
    first = post_json(api, chat("a", idempotency_key="k"))
    again = post_json(api, shaped)

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]


# --- bad input ---------------------------------------------------------------------------------

BAD_LINES = [
    (b"hello", "is not JSON"),
    (b'{"custom_id": "x", "body": {"model": "m"}', "is not JSON"),
    (b'{"custom_id": "x\xff", "body": {"model": "m"}}', "is not UTF-8"),
    (b'"text"', "expected `object`"),
    (b'{"body": {"model": "m"}}', "`custom_id`"),
    (b'{"custom_id": "", "body": {"model": "m"}}', "custom_id"),
    (chat_line("x" * 65), "custom_id"),
    (chat_line("a"), "custom_id 'a' was used before"),
    (b'{"custom_id": "x", "body": "text"}', "body"),
    (b'{"custom_id": "x", "body": {}}', "`model`"),
    (b'{"custom_id": "x", "body": {"model": "m"}, "url": "/v1"}', "url"),
    (chat_line("x", pad="x" * 10_000_000), "is longer than 10,000,000 bytes"),
]


@pytest.mark.parametrize(("bad", "words"), BAD_LINES, ids=[words for _, words in BAD_LINES])
def test_a_bad_line_is_refused_with_its_number(refusing_api: Api, bad: bytes, words: str) -> None:
    body = b"\n".join([chat_line("a"), b"", bad, chat_line("b")])

    found = messages(post_lines(refusing_api, body))

    assert [line for line, _ in found] == [3]
    assert words in found[0][1]
    assert jobs(refusing_api) == []


def test_a_bad_request_of_a_json_spec_is_refused_with_its_place(refusing_api: Api) -> None:
    spec = chat("a", "a", "b")
    spec["requests"].append({"custom_id": "c"})

    found = messages(post_json(refusing_api, spec))

    assert [line for line, _ in found] == [2, 4]
    assert "used before" in found[0][1]
    assert "`body`" in found[1][1]
    assert jobs(refusing_api) == []


def test_audio_without_its_method_is_refused(refusing_api: Api) -> None:
    line = {"custom_id": "a", "body": {"model": "m", "file": "https://example.com/a.mp3"}}

    found = messages(post_lines(refusing_api, json.dumps(line).encode(), endpoint=AUDIO))

    assert found == [(1, 'must have "method": "FILE" (audio endpoints need it)')]


def test_more_than_a_hundred_bad_lines_are_counted(refusing_api: Api) -> None:
    body = b"".join(
        b"bad\n" if number % 2 else chat_line(f"r{number}") + b"\n" for number in range(500)
    )

    document = problem(post_lines(refusing_api, body), 422)

    assert [found["line"] for found in document["problems"]] == list(range(2, 202, 2))
    assert document["more"] == 150


@pytest.mark.parametrize("body", [b"", b"\n", b"\n \r\n\n"])
def test_an_empty_input_is_refused(refusing_api: Api, body: bytes) -> None:
    assert messages(post_lines(refusing_api, body)) == [(None, "the input holds no requests")]


BAD_SPECS = [
    (b"", "the spec is not JSON"),
    (b"{", "the spec is not JSON"),
    (b'{"endpoint": "\xff"}', "UTF-8"),
    (b"[" * 100_000, "the spec is not"),
    (b"[]", "Expected `object`"),
    (b"{}", "`endpoint`"),
    (b'{"endpoint": "/v1/chat/completions"}', "`requests` or `input` is missing"),
    (b'{"endpoint": "/v1/chat/completions", "requests": []}', "no requests"),
    (b'{"endpoint": "/v1/chat/completions", "requests": {}}', "requests"),
    (b'{"endpoint": "/v1/chat/completions", "requests": [], "input": "s3://b/k"}', "not both"),
    (b'{"endpoint": "/v1/embeddings", "requests": []}', "cannot be batched"),
    (b'{"endpoint": "/v1/chat/completions", "input": "https://x/y"}', "allowed input roots"),
    (b'{"endpoint": "/v1/chat/completions", "input": "file:///etc/passwd"}', "input roots"),
    (b'{"endpoint": "/v1/chat/completions", "requests": [], "surprise": 1}', "surprise"),
    (b'{"endpoint": "/v1/chat/completions", "requests": [], "max_attempts": 0}', "max_attempts"),
    (b'{"endpoint": "/v1/chat/completions", "requests": [], "priority": 5000}', "priority"),
    (b'{"endpoint": "/v1/chat/completions", "requests": [], "priority": "1"}', "priority"),
    (b'{"endpoint": "/v1/chat/completions", "requests": [], "account": "other"}', "not yours"),
    (b'{"endpoint": "/v1/chat/completions", "requests": [], "metadata": []}', "metadata"),
    (b'{"endpoint": "/v1/chat/completions", "requests": [], "metadata": {"a": "\\u0000"}}', "NUL"),
    (b'{"endpoint": "/v1/chat/completions", "requests": [], "idempotency_key": ""}', "key"),
    (b'{"endpoint": "/v1/chat/completions", "requests": [], "check": "xml"}', "`check` 'xml'"),
    (b'{"endpoint": "/v1/chat/completions", "requests": [], "check": 7}', "check"),
    (b'{"endpoint": "/v1/chat/completions", "requests": [], "check": {"regex": "("}}', "`regex`"),
    (b'{"endpoint": "/v1/chat/completions", "requests": [], "check": ["\\u0000"]}', "NUL"),
]


@pytest.mark.parametrize(("body", "words"), BAD_SPECS)
def test_a_bad_spec_is_refused_with_what_is_wrong(
    refusing_api: Api, body: bytes, words: str
) -> None:
    found = messages(post_raw(refusing_api, body))

    assert any(words in message for _, message in found), found
    assert [line for line, _ in found] == [None] * len(found)
    assert jobs(refusing_api) == []


BAD_QUERIES = [
    ({"endpoint": "/v1/nothing"}, "cannot be batched"),
    ({"colour": "red"}, "query colour: there is no such parameter"),
    ({"input": "s3://b/k"}, "query input: there is no such parameter"),
    ({"requests": "[]"}, "query requests: there is no such parameter"),
    ({"max_attempts": "many"}, "query max_attempts: is not a whole number"),
    ({"max_attempts": "0"}, "max_attempts"),
    ({"max_attempts": "9" * 5000}, "max_attempts"),
    ({"priority": "1.5"}, "query priority: is not a whole number"),
    ({"metadata": "{"}, "query metadata: is not JSON"),
    ({"metadata": "[]"}, "metadata"),
    ({"metadata": "[" * 10_000}, "query metadata: is not JSON"),
    ({"metadata": '{"a": "\\u0000"}'}, "NUL"),
    ({"notify": "nobody"}, "query notify: is not JSON"),
    ({"notify": '[{"webhook": "https://10.0.0.1/"}]'}, "10.0.0.1 is a private address"),
    ({"account": "other"}, "not yours"),
    ({"idempotency_key": ""}, "idempotency_key"),
    ({"priority": ["1", "2"]}, "query priority: is given more than once"),
    ({"canary": "0"}, "canary"),
    ({"max_cost": "0"}, "`max_cost` must be"),
    ({"max_cost": "-5"}, "`max_cost` must be"),
    ({"max_cost": "1e30"}, "`max_cost` must be"),
    ({"max_cost": "a lot"}, "max_cost"),
    ({"max_cost": "0.0000001"}, "six decimal places"),
    ({"canary": "2", "canary_failures": "2"}, "`canary_failures` must be below"),
    ({"canary_failures": "2"}, "`canary_failures` says nothing"),
    ({"deadline": "soon"}, "`deadline` 'soon' is not an instant with its zone"),
    ({"deadline": "0"}, "`deadline` must be a duration above 0"),
    ({"deadline": "2026-11-22T12:00:00Z"}, "`deadline` '2026-11-22T12:00:00Z' is past"),
    ({"on_deadline": "priority"}, "`on_deadline` says nothing without"),
    ({"deadline": "1h", "on_deadline": "panic"}, "on_deadline"),
    ({"check": "xml"}, "`check` 'xml' is unknown"),
    ({"check": "{"}, "query check: is not JSON"),
    ({"check": '{"regex": "(?=a)"}'}, "no lookaround"),
    ({"check": "[" * 10_000}, "query check: is not JSON"),
]


@pytest.mark.parametrize(("query", "words"), BAD_QUERIES)
def test_a_bad_query_is_refused(refusing_api: Api, query: dict[str, Any], words: str) -> None:
    found = messages(post_lines(refusing_api, jsonl("a"), **query))

    assert any(words in message for _, message in found), found
    assert jobs(refusing_api) == []


def test_jsonl_without_an_endpoint_is_refused(refusing_api: Api) -> None:
    answer = refusing_api.http.post(
        "/v1/jobs", content=jsonl("a"), headers={"Content-Type": "application/jsonl"}
    )

    assert messages(answer) == [(None, "query endpoint: is missing")]


def test_a_json_spec_takes_no_query_parameters(refusing_api: Api) -> None:
    answer = refusing_api.http.post("/v1/jobs", params={"priority": 3}, json=chat("a"))

    assert "takes no query parameters" in messages(answer)[0][1]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "multipart/form-data"},
        {},
        {"Content-Type": "application/json", "Content-Encoding": "br"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip, gzip"},
    ],
)
def test_other_content_types_and_codings_are_refused(
    refusing_api: Api, headers: dict[str, str]
) -> None:
    answer = refusing_api.http.post("/v1/jobs", content=b"{}", headers=headers)

    problem(answer, 415)


BOMB = gzip.compress(b" " * 40_000_000)
# (body, content type, further headers; status, words)
NOT_TAKEN = {
    "an array": (b"[{}]", "application/x-ndjson", {}, (422, "the input is a JSON array")),
    "UTF-16": ("{}".encode("utf-16"), "application/x-ndjson", {}, (422, "the input is UTF-16")),
    "a table": (b"a;b\n1;2\n" * 200, "application/x-ndjson", {}, (422, "separated by semicolons")),
    "lines as a spec": (SHAPED, "application/json", {}, (422, "it is JSONL: send it as")),
    "a bomb": (BOMB, "application/json", {}, (413, "unpacks to more than 32,000,000 bytes")),
    "a bomb on its way": (BOMB, "application/json", ZIPPED, (413, "32,000,000 bytes")),
    "half of it": (BOMB[:99], "application/x-ndjson", ZIPPED, (422, "the gzip data is cut off")),
    "no gzip": (LINES, "application/x-ndjson", ZIPPED, (422, "the gzip data is damaged")),
}


@pytest.mark.parametrize(
    ("content", "kind", "headers", "refusal"),
    [(*sent, refusal) for *sent, refusal in NOT_TAKEN.values()],
    ids=NOT_TAKEN,
)
def test_what_is_something_else_is_refused_in_one_line(
    refusing_api: Api, content: bytes, kind: str, headers: dict[str, str], refusal: tuple[int, str]
) -> None:
    status, words = refusal
    query = {} if kind == "application/json" else {"endpoint": CHAT}
    answer = refusing_api.http.post(
        "/v1/jobs", content=content, params=query, headers={"Content-Type": kind, **headers}
    )

    found = problem(answer, status)["problems"]
    assert len(found) == 1
    assert words in found[0]["message"]
    assert jobs(refusing_api) == []


def test_a_json_spec_over_32_mb_is_refused_and_told_the_way(refusing_api: Api) -> None:
    body = json.dumps(chat("a", metadata={"x": "y" * 32_000_000})).encode()

    document = problem(post_raw(refusing_api, body), 413)

    assert "application/x-ndjson" in document["detail"]
    assert jobs(refusing_api) == []


def test_metadata_over_its_limit_is_refused(refusing_api: Api) -> None:
    found = messages(post_json(refusing_api, chat("a", metadata={"x": "y" * 20_000})))

    assert "`metadata` may have" in found[0][1]


def test_a_number_that_no_float_holds_is_passed_on_as_it_was_written(api: Api) -> None:
    body = (
        b'{"endpoint": "/v1/chat/completions", "idempotency_key": "k", "requests":'
        b' [{"custom_id": "a", "body": {"model": "m", "n": 1e999}}]}'
    )

    assert post_raw(api, body).status_code == 201
    assert post_raw(api, body).status_code == 200


# --- the same again ----------------------------------------------------------------------------


def test_the_same_spec_again_finds_its_job_whatever_the_order_of_its_keys(api: Api) -> None:
    first = post_json(api, chat("a", "b", metadata={"x": 1, "y": 2}, idempotency_key="k"))
    turned = {
        "idempotency_key": "k",
        "metadata": {"y": 2, "x": 1},
        "requests": [dict(reversed(chat_request(custom_id).items())) for custom_id in ("a", "b")],
        "endpoint": CHAT,
    }

    again = post_json(api, turned)

    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert len(jobs(api)) == 1


def test_the_same_lines_again_find_their_job(api: Api) -> None:
    first = post_lines(api, jsonl("a", "b"), idempotency_key="k")
    again = post_lines(api, jsonl("a", "b"), idempotency_key="k")

    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == first.json()["id"]


def test_the_header_is_the_same_as_the_field(api: Api) -> None:
    first = post_json(api, chat("a"), **{"Idempotency-Key": "k"})
    again = post_json(api, chat("a", idempotency_key="k"))

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["idempotency_key"] == "k"


OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("other requests", chat("a", "c")),
    ("another order", chat("b", "a")),
    ("fewer requests", chat("a")),
    ("other metadata", chat("a", "b", metadata={"x": 1})),
    ("other attempts", chat("a", "b", max_attempts=5)),
    ("another check", chat("a", "b", check="json")),
    ("a canary", chat("a", "b", canary=1)),
    ("a bound", chat("a", "b", max_cost=5)),
    ("a deadline", chat("a", "b", deadline=3600)),
]


@pytest.mark.parametrize("other", [spec for _, spec in OTHERS], ids=[name for name, _ in OTHERS])
def test_a_key_that_stands_for_other_content_is_refused(api: Api, other: dict[str, Any]) -> None:
    first = api.submit("a", "b", idempotency_key="k")

    document = problem(post_json(api, {**other, "idempotency_key": "k"}), 409)

    assert document["type"] == "urn:haulier:problem:idempotency-key-reused"
    assert str(first) in document["detail"]
    assert len(jobs(api)) == 1


def test_a_refused_job_does_not_hold_its_key(api: Api) -> None:
    problem(post_json(api, chat("a", "a", idempotency_key="k")), 422)

    assert post_json(api, chat("a", "b", idempotency_key="k")).status_code == 201


def test_two_keys_that_differ_are_refused(api: Api) -> None:
    answer = post_json(api, chat("a", idempotency_key="k"), **{"Idempotency-Key": "l"})

    assert "differ" in messages(answer)[0][1]
    assert post_lines(api, jsonl("a"), idempotency_key="k").status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_header_key_is_held_to_the_rule_of_the_field(refusing_api: Api, key: str) -> None:
    assert (
        "Idempotency-Key"
        in messages(post_json(refusing_api, chat("a"), **{"Idempotency-Key": key}))[0][1]
    )


def test_jobs_without_a_key_are_all_new(api: Api) -> None:
    assert len({api.submit("a"), api.submit("a"), uuid4()}) == 3


def test_the_same_key_sent_many_times_at_once_makes_one_job(api: Api) -> None:
    def send(_: int) -> httpx.Response:
        return post_json(api, chat("a", "b", idempotency_key="k"))

    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(send, range(50)))

    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_other_content_under_one_key_sent_at_once_is_refused_alone(api: Api) -> None:
    def send(number: int) -> httpx.Response:
        same = chat("a", "b", idempotency_key="k")
        return post_json(api, [same, chat("c", idempotency_key="k"), chat("d")][number % 3])

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(send, range(24)))

    statuses = [sorted(answer.status_code for answer in answers[kind::3]) for kind in range(3)]
    assert statuses[2] == [201] * 8
    assert sorted(statuses[:2]) == [[200] * 7 + [201], [409] * 8]


@pytest.mark.parametrize("form", ["json", "lines"])
def test_a_key_in_the_header_follows_the_rule_of_the_field(refusing_api: Api, form: str) -> None:
    headers = [(b"Idempotency-Key", b"night\x9bly")]  # a header may carry Latin-1
    if form == "json":
        answer = refusing_api.http.post("/v1/jobs", json=chat("a"), headers=headers)
    else:
        headers.append((b"Content-Type", b"application/x-ndjson"))
        answer = refusing_api.http.post(
            "/v1/jobs", params={"endpoint": CHAT}, content=chat_line("a"), headers=headers
        )
    assert "header Idempotency-Key: holds U+009B" in problem(answer, 422)["detail"]
