"""The switches: every position of what nobody knows about Together."""

from collections.abc import Iterator

import httpx
import pytest

from tests.simulator import Simulator
from tests.together_by_hand import CHAT, ByHand, Json, chat_line


@pytest.fixture
def api(simulator: Simulator) -> Iterator[ByHand]:
    with ByHand(simulator.url) as by_hand:
        yield by_hand


LINES = [chat_line(f"r{n}", f"text {n}") for n in range(10)]


def test_a_new_batch_can_be_missing_from_the_list(api: ByHand, simulator: Simulator) -> None:
    simulator.switch(list_lag_seconds=1)
    batch_id = api.create(api.upload(LINES))
    assert api.http.get("/v1/batches").json() is None
    assert api.batch(batch_id)["id"] == batch_id
    while not (listed := api.http.get("/v1/batches").json()):
        pass
    assert listed[0]["id"] == batch_id


@pytest.mark.parametrize(("order", "reverse"), [("oldest", False), ("newest", True)])
def test_the_list_can_have_an_order(
    api: ByHand, simulator: Simulator, order: str, reverse: bool
) -> None:
    simulator.switch(list_order=order)
    file_id = api.upload(LINES)
    created = [api.create(file_id) for _ in range(5)]
    listed = [job["id"] for job in api.http.get("/v1/batches").json()]
    assert listed == (created[::-1] if reverse else created)


def test_a_create_can_be_answered_without_the_job(api: ByHand, simulator: Simulator) -> None:
    simulator.switch(job_null_on_create=True, create_warning="slow today")
    answer = api.post_batch(api.upload(LINES))
    assert answer.status_code == 201
    assert answer.json() == {"job": None, "warning": "slow today"}
    assert simulator.batches_created == 1


def test_an_unknown_file_can_be_refused_at_once(api: ByHand, simulator: Simulator) -> None:
    simulator.switch(refuse_unknown_file=True)
    answer = api.post_batch("file-unknown")
    assert answer.status_code == 400
    assert "file-unknown" in answer.json()["error"]
    assert simulator.batches_created == 0


def test_a_model_can_be_refused_for_the_batch_or_the_line(
    api: ByHand, simulator: Simulator
) -> None:
    simulator.switch(refused_models=["gone"])
    bad, good = chat_line("bad", model="gone"), chat_line("good")
    job = api.run([bad, good]).job
    assert job["status"] == "FAILED"
    assert job["error"].startswith("Invalid model ID: Unable to access non-serverless model gone")
    outcome = api.run([good, bad])
    assert outcome.job["status"] == "COMPLETED"
    assert "Unable to access model gone" in outcome.errors["bad"]["error"]["message"]


def test_an_ended_batch_can_show_its_files_later(api: ByHand, simulator: Simulator) -> None:
    simulator.switch(terminal_reads_without_files=2)
    batch_id = api.create(api.upload(LINES))
    assert "output_file_id" not in api.ended(batch_id)
    (listed,) = api.http.get("/v1/batches").json()
    assert "output_file_id" not in listed
    assert "output_file_id" in api.batch(batch_id)


def test_progress_can_be_full_before_the_end(api: ByHand, simulator: Simulator) -> None:
    simulator.switch(progress_early=True)
    simulator.batch_rule(hang=True)
    batch_id = api.create(api.upload(LINES))
    while (job := api.batch(batch_id))["status"] == "VALIDATING":
        pass
    assert (job["status"], job["progress"]) == ("IN_PROGRESS", 100)


def test_statuses_can_have_older_names_and_be_lower_case(api: ByHand, simulator: Simulator) -> None:
    simulator.switch(status_names={"CANCELLED": "CANCELED"}, lower_case_statuses=True)
    simulator.batch_rule(outcome="cancel")
    batch_id = api.create(api.upload(LINES))
    while (status := api.batch(batch_id)["status"]) in ("validating", "in_progress"):
        pass
    assert status == "canceled"


def test_a_range_is_honoured_or_not(api: ByHand, simulator: Simulator) -> None:
    file_id = api.upload(b"0123456789")
    part = api.content(file_id, Range="bytes=4-")
    assert (part.status_code, part.content) == (206, b"456789")
    assert part.headers["content-range"] == "bytes 4-9/10"
    assert api.content(file_id, Range="bytes=4-5").content == b"45"
    assert api.content(file_id, Range="bytes=10-").status_code == 416
    simulator.switch(range="ignored")
    whole = api.content(file_id, Range="bytes=4-")
    assert (whole.status_code, whole.content) == (200, b"0123456789")


@pytest.mark.parametrize("sent", [True, False])
def test_the_content_length_is_sent_or_not(api: ByHand, simulator: Simulator, sent: bool) -> None:
    simulator.switch(content_length=sent)
    answer = api.content(api.upload(b"0123456789"))
    assert ("content-length" in answer.headers) == sent
    assert answer.content == b"0123456789"


@pytest.mark.parametrize("where", ["path", "host"])
def test_content_can_lie_behind_a_redirect(api: ByHand, simulator: Simulator, where: str) -> None:
    simulator.switch(content_redirect=where)
    answer = api.content(api.upload(b"0123456789"))
    assert answer.status_code == 302
    location = httpx.URL(answer.headers["location"])
    assert location.host == ("localhost" if where == "host" else "127.0.0.1")
    assert httpx.get(location).content == b"0123456789"
    key = {"Authorization": api.http.headers["authorization"]}
    with_key = httpx.get(location, headers=key).status_code
    assert with_key == (400 if where == "host" else 200)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_an_upload_can_be_redirected(api: ByHand, simulator: Simulator, status: int) -> None:
    simulator.switch(upload_redirects=2, upload_redirect_status=status)
    announced = api.announce()
    location = announced.headers["location"]
    for _ in range(2):
        answer = api.put(location, b"0123456789")
        assert answer.status_code == status
        location = answer.headers["location"]
    assert api.put(location, b"0123456789").status_code == 200
    file_id = announced.headers["x-together-file-id"]
    assert api.content(file_id).content == b"0123456789"


def test_checksums_can_be_ignored(api: ByHand, simulator: Simulator) -> None:
    simulator.switch(checksum_conflict=False)
    api.put(api.announce(checksum="c0ffee").headers["location"], b"{}\n")
    assert api.announce(checksum="c0ffee").status_code == 302


@pytest.mark.parametrize("status", ["RUNNING", None])
def test_the_processing_status_is_shown_or_not(
    api: ByHand, simulator: Simulator, status: str | None
) -> None:
    simulator.switch(processing_status=status)
    shown = api.http.get(f"/v1/files/{api.upload(LINES)}").json()
    assert shown.get("processing_status") == status
    assert ("processing_status" in shown) == (status is not None)


def test_calls_can_be_limited(api: ByHand, simulator: Simulator) -> None:
    simulator.switch(requests_per_second=2)
    answers = [api.http.get("/v1/batches") for _ in range(20)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert answers[0].status_code == 200
    assert "x-ratelimit-reset" in refused[0].headers


@pytest.mark.parametrize(("agent", "status"), [("python-httpx/0.28", 403), ("haulier/1", 200)])
def test_default_user_agents_can_be_blocked(
    api: ByHand, simulator: Simulator, agent: str, status: int
) -> None:
    simulator.switch(refuse_default_agents=True)
    answer = api.http.get("/v1/batches", headers={"User-Agent": agent})
    assert answer.status_code == status
    assert answer.text == "null" if status == 200 else "Cloudflare" in answer.text


def test_lines_can_come_without_ids_and_without_a_last_newline(
    api: ByHand, simulator: Simulator
) -> None:
    assert all(line["id"].startswith("br_") for line in api.run(LINES).output.values())
    simulator.switch(line_ids=False, trailing_newline=False)
    job = api.ended(api.create(api.upload(LINES), CHAT))
    content = api.content(job["output_file_id"]).content
    assert not content.endswith(b"\n")
    assert len(content.splitlines()) == 10
    assert b'"id":"br_' not in content
    assert api.http.get(f"/v1/files/{job['output_file_id']}").json()["bytes"] == len(content)


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        ({"switches": {"colour": "red"}}, "colour"),
        ({"switches": {"range": "sometimes"}}, "sometimes"),
        ({"switches": {"list_lag_seconds": "long"}}, "list_lag_seconds"),
        ({"keys": {"k": 418}}, "418"),
        ({"everything": "wrong"}, "everything"),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_scenario_that_makes_no_sense_is_refused(
    simulator: Simulator, method: str, scenario: Json, reason: str
) -> None:
    answer = httpx.request(method, f"{simulator.url}/_control/scenario", json=scenario)
    assert answer.status_code == 422
    assert reason in answer.json()["error"]
