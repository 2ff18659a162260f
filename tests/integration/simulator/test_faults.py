"""What can go wrong with a call: each fault does what it says, as often as it says."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.eventually import eventually
from tests.simulator import Simulator
from tests.together_by_hand import ByHand, chat_line, jsonl

CONTENT = jsonl([chat_line(f"r{n}") for n in range(100)])


@pytest.fixture
def api(simulator: Simulator) -> Iterator[ByHand]:
    with ByHand(simulator.url) as by_hand:
        yield by_hand


def put_somewhere(api: ByHand) -> object:
    return api.put(api.announce().headers["location"], CONTENT)


def content_of_new_file(api: ByHand) -> object:
    return api.content(api.upload(CONTENT))


def delete_new_file(api: ByHand) -> object:
    return api.http.delete(f"/v1/files/{api.upload(CONTENT)}")


CALLS: dict[str, Callable[[ByHand], object]] = {
    "create_file": lambda api: api.announce(),
    "put": put_somewhere,
    "preprocess": lambda api: api.http.post("/v1/files/unknown/preprocess"),
    "upload": lambda api: api.upload_directly(CONTENT),
    "create": lambda api: api.post_batch("file-unknown"),
    "retrieve": lambda api: api.http.get("/v1/batches/unknown"),
    "list": lambda api: api.http.get("/v1/batches"),
    "cancel": lambda api: api.http.post("/v1/batches/unknown/cancel"),
    "content": content_of_new_file,
    "file": lambda api: api.http.get("/v1/files/unknown"),
    "files": lambda api: api.http.get("/v1/files"),
    "delete": delete_new_file,
}


@pytest.mark.parametrize("operation", CALLS)
@pytest.mark.parametrize("after_commit", [False, True])
def test_any_answer_can_be_lost_once(
    api: ByHand, simulator: Simulator, operation: str, after_commit: bool
) -> None:
    simulator.fault(operation, "lost", after_commit=after_commit)
    with pytest.raises(httpx.TransportError):
        CALLS[operation](api)
    CALLS[operation](api)
    lost, answered = simulator.requests(operation)
    assert (lost.status, lost.fault) == (None, "lost")
    assert answered.status is not None


@pytest.mark.parametrize(("after_commit", "bought"), [(False, 0), (True, 1)])
def test_a_lost_create_has_done_nothing_or_all(
    api: ByHand, simulator: Simulator, after_commit: bool, bought: int
) -> None:
    file_id = api.upload(CONTENT)
    simulator.fault("create", "lost", after_commit=after_commit)
    with pytest.raises(httpx.TransportError):
        api.post_batch(file_id)
    assert simulator.batches_created == bought
    listed = api.http.get("/v1/batches").json() or []
    assert [job["input_file_id"] for job in listed] == [file_id] * bought


@pytest.mark.parametrize("operation", ["put", "upload"])
@pytest.mark.parametrize(("after_commit", "stored"), [(False, 0), (True, 1)])
def test_a_lost_upload_has_stored_nothing_or_all(
    api: ByHand, simulator: Simulator, operation: str, after_commit: bool, stored: int
) -> None:
    simulator.fault(operation, "lost", after_commit=after_commit)
    with pytest.raises(httpx.TransportError):
        CALLS[operation](api)
    files = [file for file in api.http.get("/v1/files").json()["data"] if file["bytes"]]
    assert [file["bytes"] for file in files] == [len(CONTENT)] * stored


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 500, 503, 504])
@pytest.mark.parametrize("body", ["string", "object", "html", "empty"])
def test_an_error_has_the_shape_that_was_asked_for(
    api: ByHand, simulator: Simulator, status: int, body: str
) -> None:
    simulator.fault("list", "status", status=status, body=body, message="so it goes")
    answer = api.http.get("/v1/batches")
    assert answer.status_code == status
    match body:
        case "string":
            assert answer.json()["error"] == "so it goes"
        case "object":
            assert answer.json()["error"]["message"] == "so it goes"
        case "html":
            assert answer.headers["content-type"].startswith("text/html")
            assert answer.text.startswith("<!DOCTYPE html>")
        case _:
            assert answer.content == b""
    assert api.http.get("/v1/batches").status_code == 200


@pytest.mark.parametrize(("after_commit", "bought"), [(False, 0), (True, 1)])
def test_a_gateway_error_can_hide_a_create_that_worked(
    api: ByHand, simulator: Simulator, after_commit: bool, bought: int
) -> None:
    simulator.fault("create", "status", status=504, body="html", after_commit=after_commit)
    assert api.post_batch("file-unknown").status_code == 504
    assert simulator.batches_created == bought


@pytest.mark.parametrize(
    ("switch", "present", "absent"),
    [
        ("x-ratelimit-reset", {"x-ratelimit-reset"}, {"retry-after"}),
        ("retry-after", {"retry-after"}, {"x-ratelimit-reset"}),
        ("both", {"retry-after", "x-ratelimit-reset"}, set()),
        ("none", set(), {"retry-after", "x-ratelimit-reset"}),
    ],
)
def test_a_rate_limit_tells_when_to_come_back_or_not(
    api: ByHand, simulator: Simulator, switch: str, present: set[str], absent: set[str]
) -> None:
    simulator.switch(rate_limit_header=switch)
    simulator.fault("list", "status", status=429, reset_seconds=7)
    answer = api.http.get("/v1/batches")
    assert answer.status_code == 429
    assert {name: answer.headers[name] for name in present} == dict.fromkeys(present, "7")
    assert not absent & set(answer.headers)


def test_an_error_can_bring_headers_of_its_own(api: ByHand, simulator: Simulator) -> None:
    simulator.fault("list", "status", status=429, headers={"Retry-After": "soon"})
    answer = api.http.get("/v1/batches")
    assert answer.headers["retry-after"] == "soon"
    assert "x-ratelimit-reset" not in answer.headers


def test_a_slow_answer_outlasts_a_timeout_though_the_work_is_done(
    api: ByHand, simulator: Simulator
) -> None:
    simulator.fault("create", "slow", seconds=1)
    with pytest.raises(httpx.ReadTimeout):
        api.http.post(
            "/v1/batches",
            json={"endpoint": "/v1/chat/completions", "input_file_id": "file-unknown"},
            timeout=0.2,
        )
    assert simulator.batches_created == 1


def test_a_download_can_trickle(api: ByHand, simulator: Simulator) -> None:
    file_id = api.upload(CONTENT)
    simulator.fault("content", "slow", bytes_per_second=len(CONTENT) * 4)
    began = time.monotonic()
    assert api.content(file_id).content == CONTENT
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("operation", ["put", "upload"])
def test_an_upload_can_trickle(api: ByHand, simulator: Simulator, operation: str) -> None:
    simulator.fault(operation, "slow", bytes_per_second=len(CONTENT) * 4)
    began = time.monotonic()
    CALLS[operation](api)
    assert time.monotonic() - began >= 0.2


def received_from(api: ByHand, file_id: str) -> tuple[bytes, bool]:
    """What came of a file, and whether it broke off."""
    received = b""
    with api.http.stream("GET", f"/v1/files/{file_id}/content") as answer:
        try:
            for block in answer.iter_raw():
                received += block
        except httpx.RemoteProtocolError:
            return received, True
    return received, False


@pytest.mark.parametrize("length_sent", [True, False])
@pytest.mark.parametrize(
    ("measure", "expected"), [({"bytes": 1000}, 1000), ({"fraction": 0.5}, len(CONTENT) // 2)]
)
def test_a_cut_download_breaks_off(
    api: ByHand,
    simulator: Simulator,
    length_sent: bool,
    measure: dict[str, float],
    expected: int,
) -> None:
    file_id = api.upload(CONTENT)
    simulator.switch(content_length=length_sent)
    simulator.fault("content", "cut", **measure)
    received, broken = received_from(api, file_id)
    assert broken
    assert received == CONTENT[:expected]
    assert api.content(file_id).content == CONTENT


def test_a_clean_cut_looks_whole_but_is_shorter_than_its_file(
    api: ByHand, simulator: Simulator
) -> None:
    file_id = api.upload(CONTENT)
    simulator.fault("content", "cut", bytes=1000, clean=True)
    assert api.content(file_id).content == CONTENT[:1000]
    assert api.http.get(f"/v1/files/{file_id}").json()["bytes"] == len(CONTENT)


@pytest.mark.parametrize("operation", ["put", "upload"])
def test_a_cut_upload_breaks_off_and_stores_nothing(
    api: ByHand, simulator: Simulator, operation: str
) -> None:
    simulator.fault(operation, "cut", fraction=0.5)
    with pytest.raises(httpx.TransportError):
        CALLS[operation](api)
    assert not any(file["bytes"] for file in api.http.get("/v1/files").json()["data"])
    assert list((simulator.data / "files").iterdir()) == []


@pytest.mark.parametrize("operation", ["put", "upload"])
def test_a_cleanly_cut_upload_shows_in_the_bytes_of_the_file(
    api: ByHand, simulator: Simulator, operation: str
) -> None:
    simulator.fault(operation, "cut", bytes=1000, clean=True)
    CALLS[operation](api)
    assert [file["bytes"] for file in api.http.get("/v1/files").json()["data"]] == [1000]


@pytest.mark.parametrize("after_commit", [False, True])
def test_a_held_call_waits_for_its_release(
    api: ByHand, simulator: Simulator, after_commit: bool
) -> None:
    simulator.hold("create", after_commit=after_commit)
    with ThreadPoolExecutor(1) as thread:
        pending = thread.submit(api.post_batch, "file-unknown")
        (held,) = simulator.wait_held("create")
        assert held.after_commit == after_commit
        assert held.targets == ("file-unknown",)
        assert simulator.batches_created == int(after_commit)
        assert not pending.done()
        assert simulator.release("list") == 0
        assert simulator.release("create") == 1
        assert pending.result(10).status_code == 201
    assert simulator.batches_created == 1
    assert simulator.held() == []


@pytest.mark.parametrize(("after_commit", "bought"), [(False, 0), (True, 1)])
def test_a_held_call_can_be_released_into_nothing(
    api: ByHand, simulator: Simulator, after_commit: bool, bought: int
) -> None:
    simulator.hold("create", after_commit=after_commit)
    with ThreadPoolExecutor(1) as thread:
        pending = thread.submit(api.post_batch, "file-unknown")
        simulator.wait_held("create")
        simulator.release(answered=False)
        with pytest.raises(httpx.TransportError):
            pending.result(10)
    assert simulator.batches_created == bought


def test_a_held_call_is_carried_out_though_its_client_is_gone(
    api: ByHand, simulator: Simulator
) -> None:
    simulator.hold("create")
    with pytest.raises(httpx.ReadTimeout):
        api.http.post(
            "/v1/batches",
            json={"endpoint": "/v1/chat/completions", "input_file_id": "file-unknown"},
            timeout=0.2,
        )
    simulator.release()
    eventually(lambda: simulator.batches_created == 1, 5)


def test_waiting_for_a_call_that_does_not_come_ends(simulator: Simulator) -> None:
    with pytest.raises(TimeoutError, match="no create was held"):
        simulator.wait_held("create", timeout=0.05)


def statuses(api: ByHand, calls: int) -> list[int]:
    return [api.http.get("/v1/batches").status_code for _ in range(calls)]


def test_faults_happen_so_often_and_after_so_many(api: ByHand, simulator: Simulator) -> None:
    simulator.fault("list", "status", status=500, times=2, after=1)
    simulator.fault("list", "status", status=503)
    assert statuses(api, 5) == [503, 500, 500, 200, 200]


def test_a_fault_can_last_until_it_is_cleared(api: ByHand, simulator: Simulator) -> None:
    simulator.fault("*", "status", status=500, times=None)
    assert statuses(api, 3) == [500, 500, 500]
    assert api.announce().status_code == 500
    simulator.clear_faults()
    assert statuses(api, 1) == [200]


def test_chaos_has_a_probability_and_repeats_itself(api: ByHand, simulator: Simulator) -> None:
    runs = []
    for _ in range(2):
        simulator.clear_faults()
        simulator.fault("list", "status", status=500, times=None, probability=0.5, seed=7)
        runs.append(statuses(api, 20))
    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 500}


def test_a_fault_can_aim_at_one_account(api: ByHand, simulator: Simulator) -> None:
    simulator.fault("list", "status", status=500, key="other-key", times=None)
    assert statuses(api, 1) == [200]
    with ByHand(simulator.url, "other-key") as other:
        assert statuses(other, 1) == [500]


@pytest.mark.parametrize("operation", ["create_file", "create"])
def test_a_fault_can_aim_at_one_file_by_name(
    api: ByHand, simulator: Simulator, operation: str
) -> None:
    simulator.fault(operation, "status", status=500, target=r"^bad\.jsonl$", times=None)
    if operation == "create_file":
        assert api.announce("good.jsonl").status_code == 302
        assert api.announce("bad.jsonl").status_code == 500
    else:
        assert api.post_batch(api.upload(CONTENT, "good.jsonl")).status_code == 201
        assert api.post_batch(api.upload(CONTENT, "bad.jsonl")).status_code == 500


def test_many_calls_can_be_held_at_once(simulator: Simulator) -> None:
    simulator.hold("list", times=3)
    answers: list[int] = []

    def look() -> None:
        with ByHand(simulator.url) as api:
            answers.append(api.http.get("/v1/batches").status_code)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    simulator.wait_held("list", count=3)
    assert simulator.release() == 3
    for thread in threads:
        thread.join(10)
    assert answers == [200, 200, 200]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"operation": "create", "fault": "lots"}, "lots"),
        ({"operation": "destroy", "fault": "lost"}, "destroy"),
        ({"operation": "create", "fault": "lost", "sometimes": True}, "sometimes"),
        ({"operation": "create", "fault": "cut"}, "either bytes or fraction"),
        ({"operation": "create", "fault": "lost", "probability": 2}, "probability"),
        ({"operation": "create", "fault": "lost", "target": "("}, "regular expression"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(
    simulator: Simulator, fault: dict[str, object], reason: str
) -> None:
    answer = httpx.post(f"{simulator.url}/_control/faults", json=fault)
    assert answer.status_code == 422
    assert reason in answer.json()["error"]
