"""Processes over HTTP and on the command line: who is there, draining one, and undoing that."""

import os
from pathlib import Path
from typing import Any

from service.store import heartbeats
from tests.api import TOKEN, Api, problem
from tests.cli import Cli


def beat(api: Api, name: str, kind: str = "worker", *, is_idle: bool = False) -> None:
    heartbeats.beat(
        api.db, name=name, kind=kind, host="h", pid=7, queues=["q"], slots=2, is_idle=is_idle
    )


def workers(api: Api) -> dict[str, Any]:
    return {one["id"]: one["state"] for one in api.http.get("/v1/status").json()["workers"]}


def audited(api: Api) -> list[str]:
    lines = api.http.get("/v1/audit", params={"actor": "admin"}).json()["data"]
    return [line["verb"] for line in lines]


def test_a_process_is_drained_and_resumed_by_an_operator(api: Api) -> None:
    beat(api, "worker@h:7:abc")
    path = "/v1/processes/worker@h:7:abc"

    trial = api.http.post(f"{path}/drain", params={"dry_run": True})
    assert trial.json() == {
        "dry_run": True,
        "changes": [
            {
                "verb": "drain",
                "object": "processes/worker%40h%3A7%3Aabc",
                "before": {"draining": False},
                "after": {"draining": True},
            }
        ],
    }
    assert workers(api) == {"worker@h:7:abc": "running"}
    assert audited(api) == []

    assert api.http.post(f"{path}/drain").json()["state"] == "draining"
    beat(api, "worker@h:7:abc", is_idle=True)
    assert workers(api) == {"worker@h:7:abc": "drained"}
    assert api.http.post(f"{path}/resume").json()["state"] == "running"
    assert audited(api) == ["resume", "drain"]
    problem(api.http.post("/v1/processes/nobody/drain"), 404)
    problem(api.http.post("/v1/processes/nobody/resume?dry_run=true"), 404)


def test_the_command_line_drains_a_process_by_a_part_of_its_id(api: Api, tmp_path: Path) -> None:
    cli = Cli(api.url, tmp_path, dict(os.environ, HAULIER_TOKEN=TOKEN))
    for name in ("worker@h:7:abc", "worker@h:8:abd"):
        beat(api, name)

    assert "several processes" in cli("drain", "ab").err
    assert "there is no process" in cli("drain", "xyz").err
    trial = cli("drain", "abc", "--dry-run")
    assert "draining no → yes" in trial.out
    assert "Nothing was changed" in trial.out
    assert "only" not in trial.err
    assert workers(api) == {"worker@h:7:abc": "running", "worker@h:8:abd": "running"}

    assert "haulier resume process worker@h:7:abc" in cli("drain", "abc").out
    assert "draining" in cli("status").out
    assert "the only worker" in cli("drain", "abd").err
    assert cli("resume", "process", "abc", "--json").documents[0]["state"] == "running"
