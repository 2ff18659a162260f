"""Runs jobs through the containers of docker-compose.yml, kills containers, and runs more."""

import json
import time
from typing import Any

import httpx

from tests.docker.deployment import HAULIER, LASTING, WORKERS, Deployment, deployed
from tests.eventually import eventually

MODEL = "meta-llama/Llama-3.3-70B-Instruct-Turbo"


def spec(name: str, requests: int) -> dict[str, object]:
    """A batch spec of that many small requests."""
    return {
        "endpoint": "/v1/chat/completions",
        "requests": [
            {
                "custom_id": f"{name}-{number}",
                "body": {"model": MODEL, "messages": [{"role": "user", "content": str(number)}]},
            }
            for number in range(requests)
        ],
    }


def say(text: str) -> None:
    """One step of the run, with the seconds since its start."""
    print(f"{time.monotonic() - STARTED:6.1f} s  {text}", flush=True)


def submit(api: httpx.Client, name: str, requests: int) -> str:
    """Submit a job over HTTP; gives its id."""
    answer = api.post("/v1/jobs", json=spec(name, requests))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def job(api: httpx.Client, job_id: str) -> dict[str, Any]:
    """The job as the API shows it."""
    answer = api.get(f"/v1/jobs/{job_id}")
    answer.raise_for_status()
    shown: dict[str, Any] = answer.json()
    return shown


def running(api: httpx.Client, job_id: str) -> None:
    """Wait until the job runs."""
    eventually(lambda: job(api, job_id)["state"] == "running", 60)


def check_completed(api: httpx.Client, job_id: str, name: str, requests: int) -> None:
    """Wait for the job's end; every request has its result, in input order."""

    def ended() -> bool:
        shown = job(api, job_id)
        if shown["finished_at"] is None:
            raise AssertionError(f"{name} is {shown['state']}: {shown}")
        return True

    eventually(ended, 180, interval=0.5)
    shown = job(api, job_id)
    assert shown["state"] == "completed", shown
    assert (shown["total"], shown["succeeded"]) == (requests, requests), shown
    lines = api.get(f"/v1/jobs/{job_id}/results").content.splitlines()
    assert [json.loads(line)["custom_id"] for line in lines] == [
        f"{name}-{n}" for n in range(requests)
    ]
    say(f"{name} completed: {requests} results, complete and in order")


def check_containers(deployment: Deployment) -> None:
    """The containers run as they should: unprivileged, and restarted when they end."""
    for service in (*HAULIER, "simulator"):
        assert deployment.execute(service, "id", "-u").strip() != "0", f"{service} runs as root"
    before = deployment.inspect(WORKERS[0])["State"]["StartedAt"]
    deployment.execute(WORKERS[0], "sh", "-c", "kill -TERM 1")
    eventually(lambda: deployment.inspect(WORKERS[0])["State"]["StartedAt"] != before, 90)
    deployment.healthy(WORKERS[0])
    say("a worker that ended was started again")


def check_books(deployment: Deployment, api: httpx.Client) -> None:
    """For all the killing, every request was bought once."""
    requests = sum(shown["total"] for shown in api.get("/v1/jobs").json()["data"])
    bought = deployment.bought()
    assert (bought["lines_billed"], bought["duplicate_successes"]) == (requests, 0), bought
    say(f"{requests} requests, {bought['lines_billed']} bought, none twice")


def is_json_object(line: str) -> bool:
    """Whether a line of a log is one."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def check_logs(deployment: Deployment) -> None:
    """Haulier's own containers log JSON, and nobody logs a secret."""
    for service in ("migrate", *HAULIER):
        for line in deployment.logs(service).splitlines():
            assert is_json_object(line), f"a line of {service} is no JSON object: {line}"
    for service in ("migrate", *LASTING):
        text = deployment.logs(service)
        for name, secret in deployment.secrets.items():
            assert secret not in text, f"{name} is in the log of {service}"
    say("logs are JSON without secrets")


def kill_them_all(deployment: Deployment, api: httpx.Client) -> None:
    """Kill whatever works on a job while it runs; it completes when they are back."""
    killed = (*WORKERS, "scheduler", "redis", "postgres")
    job_id = submit(api, "killed", 600)
    running(api, job_id)
    for service in killed:
        deployment.kill(service)
    say("killed " + ", ".join(killed))
    assert eventually(lambda: api.get("/readyz").status_code == 503, 30)
    for service in killed:
        deployment.start(service)
    deployment.healthy(*killed, "api")
    check_completed(api, job_id, "killed", 600)


def kill_one_by_one(deployment: Deployment, api: httpx.Client) -> None:
    """Kill each while a job runs, and bring it back before the next."""
    for service in (*WORKERS, "scheduler", "redis", "postgres", "api"):
        name = f"{service}-killed"
        job_id = submit(api, name, 200)
        running(api, job_id)
        deployment.kill(service)
        say(f"killed {service}")
        deployment.start(service)
        check_completed(api, job_id, name, 200)


def kill_the_broker_with_a_message(deployment: Deployment, api: httpx.Client) -> None:
    """A submission that lies in the queue outlives the broker and its reader."""
    deployment.kill("inbox")
    job_id = deployment.send(spec("waiting", 100))
    deployment.kill("redis")
    say("killed the inbox, sent a job over the queue, killed redis")
    deployment.start("redis")
    deployment.start("inbox")
    eventually(lambda: job(api, job_id), 60, interval=0.5)
    check_completed(api, job_id, "waiting", 100)


def main() -> None:
    """The whole run."""
    with deployed() as deployment:
        deployment.healthy(*LASTING)
        say("all containers are healthy")
        with httpx.Client(
            base_url=f"http://127.0.0.1:{deployment.port}",
            headers={"Authorization": f"Bearer {deployment.secrets['HAULIER_ADMIN_TOKEN']}"},
            timeout=30,
        ) as api:
            over_http = submit(api, "http", 300)
            over_queue = deployment.send(spec("queue", 300))
            check_completed(api, over_http, "http", 300)
            eventually(lambda: job(api, over_queue), 60, interval=0.5)
            check_completed(api, over_queue, "queue", 300)
            check_containers(deployment)
            kill_them_all(deployment, api)
            kill_one_by_one(deployment, api)
            kill_the_broker_with_a_message(deployment, api)
            check_books(deployment, api)
        deployment.healthy(*LASTING)
        check_logs(deployment)
    say("all well")


if __name__ == "__main__":
    STARTED = time.monotonic()
    main()
