"""The API as a process: how it starts, what it says, how it ends, and one job all the way."""

import signal
import socket
from typing import Any

import msgspec
import psycopg
import pytest

from service.rules.credentials import id_of
from tests.api import TOKEN, chat, client, jsonl, problem, started_url
from tests.eventually import eventually
from tests.pipeline import Pipeline
from tests.processes import Processes, Running
from tests.simulator import Simulator


def logged(process: Running) -> list[dict[str, Any]]:
    """The lines of its log."""
    return [msgspec.json.decode(line) for line in process.output.splitlines()]


def test_a_job_goes_all_the_way_over_http(pipeline: Pipeline, simulator: Simulator) -> None:
    simulator.line_rule("error", custom_id="b", message="Invalid model")
    pipeline.worker()
    pipeline.scheduler()
    with client(started_url(pipeline.processes.haulier("api", "--port", "0"))) as http:
        path = http.post("/v1/jobs", json=chat("c", "b", "a")).headers["location"]
        eventually(lambda: http.get(path).json()["state"] == "completed", 60)

        job = http.get(path).json()
        results = http.get(f"{path}/results")
        failures = http.get(f"{path}/failures").json()
        batches = http.get(f"{path}/batches").json()["data"]
        events = http.get(f"{path}/events").json()["data"]

    assert (job["total"], job["succeeded"], job["failed"], job["pending"]) == (3, 2, 1, 0)
    assert job["usage"]["total_tokens"] > 0
    assert [msgspec.json.decode(line)["custom_id"] for line in results.content.splitlines()] == [
        "c",
        "b",
        "a",
    ]
    assert results.headers["content-length"] == str(len(results.content))
    assert [failure["custom_id"] for failure in failures["data"]] == ["b"]
    assert set(failures["data"][0]) == {"custom_id", "code", "message", "attempts"}
    assert [batch["state"] for batch in batches] == ["settled"]
    assert events[0]["target"] == "running"
    assert events[-1]["target"] == "completed"


def test_an_error_that_nobody_expected_is_logged_and_tells_nothing_of_the_inside(
    api_process: Running, database_url: str
) -> None:
    with client(started_url(api_process)) as http:
        path = http.post("/v1/jobs", json=chat("payload")).headers["location"]
        with psycopg.connect(database_url) as connection:
            connection.execute("""UPDATE haulier.jobs SET metadata = '["inside"]'""")

        document = problem(http.get(path), 500)

        assert document["type"] == "urn:haulier:problem:internal-error"
        assert "inside" not in str(document)
        assert http.get("/v1/status").status_code == 200
    (line,) = (line for line in logged(api_process) if line["event"] == "request_failed")
    assert line["level"] == "error"
    assert line["exception"]
    assert "payload" not in api_process.output
    assert TOKEN not in api_process.output


def test_it_takes_jobs_without_redis(api_process: Running) -> None:
    with client(started_url(api_process)) as http:
        assert http.post("/v1/jobs", json=chat("a")).status_code == 201
        assert http.get("/readyz").json() == {"status": "ok"}


def test_its_log_has_a_line_for_each_request_and_nothing_of_its_content(
    api_process: Running,
) -> None:
    with client(started_url(api_process)) as http:
        made = http.post(
            "/v1/jobs",
            params={"endpoint": "/v1/chat/completions", "metadata": '{"who": "query-secret"}'},
            content=jsonl("payload-secret"),
            headers={"Content-Type": "application/jsonl"},
        )
        job_id = made.json()["id"]
        http.get(f"/v1/jobs/{job_id}/batches")
        http.get("/v1/jobs", headers={"Authorization": "Bearer token-secret"})
        http.get("/healthz")
    api_process.stop()

    asked = [line for line in logged(api_process) if line["event"] == "request_answered"]
    assert [(line["method"], line["path"], line["status"], line.get("job")) for line in asked] == [
        ("POST", "/v1/jobs", 201, job_id),
        ("GET", f"/v1/jobs/{job_id}/batches", 200, job_id),
        ("GET", "/v1/jobs", 401, None),
    ]
    assert all(line["ms"] >= 0 for line in asked)
    assert "secret" not in api_process.output
    assert TOKEN not in api_process.output


def test_its_log_says_who_called(api_process: Running) -> None:
    with client(started_url(api_process)) as http:
        token = http.post("/v1/producers", json={"name": "billing"}).json()["token"]
        known = {"Authorization": f"Bearer {token}"}
        http.get("/v1/jobs", headers=known)
        http.get("/together/v1/batches", headers=known)
        http.get("/v1/nothing", headers={"Authorization": "Bearer wrong"})
    api_process.stop()

    asked = [line for line in logged(api_process) if line["event"] == "request_answered"]
    assert [(line.get("producer"), line.get("credential")) for line in asked] == [
        ("default", "admin"),
        ("billing", id_of(token)),
        ("billing", id_of(token)),
        (None, None),
    ]
    assert {line["client"] for line in asked} == {"127.0.0.1"}
    assert token not in api_process.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(api_process: Running, number: signal.Signals) -> None:
    api_process.signal(number)

    assert api_process.wait(timeout=10) == 0
    assert "api_stopped" in api_process.output
    assert "Traceback" not in api_process.output


@pytest.mark.parametrize("variable", ["DATABASE_URL", "HAULIER_ADMIN_TOKEN"])
@pytest.mark.parametrize("value", ["", None])
def test_it_does_not_start_without(
    processes: Processes, environment: dict[str, str], variable: str, value: str | None
) -> None:
    if value is None:
        del environment[variable]
    else:
        environment[variable] = value

    process = processes.haulier("api", "--port", "0")

    assert process.wait() == 2
    assert variable in process.output
    assert "Traceback" not in process.output


def test_a_port_that_is_taken_is_named(processes: Processes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = processes.haulier("api", "--port", port)

        assert process.wait() == 2
        assert f"cannot listen on 127.0.0.1:{port}" in process.output
        assert "Traceback" not in process.output
