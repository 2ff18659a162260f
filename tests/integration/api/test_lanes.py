"""Lanes over HTTP and on the command line: how they are, and what operators do to them."""

import os
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from service.rules.lanes import Failure, Trouble
from service.rules.outcomes import Pause
from service.rules.states import Stage
from service.store.claim import claim_batches
from service.store.engine import clock
from service.store.producers import add_producer
from tests.api import TOKEN, Api, chat, problem
from tests.cli import Cli
from tests.factories import LEASE, ill_lane
from tests.integration.api.test_walls import as_bearer

MODEL = str(chat("a")["requests"][0]["body"]["model"])


def resting(api: Api, model: str = MODEL, text: str = "a secret host <place> timed out") -> str:
    now = clock(api.db)
    failures = tuple(
        Failure(
            batch=uuid4(),
            at=now,
            kind=Trouble.LINES,
            text=text,
            lines=30,
            producer="p",
            jobs=(UUID(int=job),),
        )
        for job in (1, 2)
    )
    return ill_lane(api.db, model, failures=failures)


def lane(api: Api, lane_id: str) -> dict[str, Any]:
    data = api.http.get("/v1/lanes").json()["data"]
    (found,) = [one for one in data if one["id"] == lane_id]
    return dict(found)


def test_a_lane_shows_its_state_its_evidence_and_the_next_step(api: Api) -> None:
    lane_id = resting(api)
    shown = lane(api, lane_id)
    assert (shown["account"], shown["endpoint"], shown["model"]) == (
        "default",
        "/v1/chat/completions",
        MODEL,
    )
    assert (shown["state"], shown["rests"], shown["paused_at"]) == ("resting", 1, None)
    assert shown["since"] < shown["until"]
    assert (shown["evidence"]["kind"], shown["evidence"]["batches"]) == ("lines", 2)
    assert shown["evidence"]["text"] == "a secret host <place> timed out"
    assert "probe" in shown["next"]


def test_a_job_says_that_it_waits_for_its_lane(api: Api) -> None:
    lane_id = resting(api)
    job_id = api.submit("a")
    waiting = api.job(job_id)["waiting"]
    assert (waiting["code"], waiting["until"]) == ("lane_resting", lane(api, lane_id)["until"])
    assert "secret" not in waiting["detail"]
    api.http.post(f"/v1/lanes/{lane_id}/pause")
    assert api.job(job_id)["waiting"]["code"] == "lane_paused"


def test_a_producer_sees_its_accounts_lanes_and_nobodys_words(api: Api) -> None:
    resting(api)
    inside = add_producer(api.db, "inside").text
    outside = add_producer(api.db, "outside").text
    assert api.http.patch("/v1/producers/outside", json={"accounts": []}).status_code == 200
    with as_bearer(api, inside) as client:
        (shown,) = client.get("/v1/lanes").json()["data"]
        assert shown["evidence"]["text"] == "timed out"
    with as_bearer(api, outside) as client:
        assert client.get("/v1/lanes").json()["data"] == []


def test_an_operator_pauses_resumes_and_probes(api: Api) -> None:
    lane_id = resting(api)
    probed = api.http.post(f"/v1/lanes/{lane_id}/probe").json()
    assert (probed["state"], probed["phase"]) == ("probing", "probe")
    paused = api.http.post(f"/v1/lanes/{lane_id}/pause").json()
    assert paused["paused_at"] is not None
    assert paused["paused_by"] == lane(api, lane_id)["paused_by"] == "admin"
    again = problem(api.http.post(f"/v1/lanes/{lane_id}/probe"), 409)
    assert again["type"] == "urn:haulier:problem:lane-not-probed"
    assert "resume" in again["detail"]
    assert api.http.post(f"/v1/lanes/{lane_id}/pause").status_code == 200
    resumed = api.http.post(f"/v1/lanes/{lane_id}/resume").json()
    assert (resumed["state"], resumed["paused_at"], resumed["evidence"]) == ("healthy", None, None)
    assert resumed["paused_by"] is None
    problem(api.http.post(f"/v1/lanes/{lane_id}/probe"), 409)
    problem(api.http.post("/v1/lanes/nothing/pause"), 404)
    verbs = [line["verb"] for line in api.http.get("/v1/audit").json()["data"]]
    assert verbs[:4] == ["resume", "pause", "pause", "probe"]


@pytest.mark.parametrize("by", ["id", "model", "whole"])
def test_the_command_line_names_a_lane(api: Api, tmp_path: Path, by: str) -> None:
    cli = Cli(api.url, tmp_path, dict(os.environ, HAULIER_TOKEN=TOKEN))
    lane_id = resting(api)
    name = {"id": lane_id, "model": MODEL, "whole": f"default /v1/chat/completions {MODEL}"}[by]
    paused = cli("pause", "lane", name, "--json").documents[0]
    assert (paused["id"], paused["paused_at"] is not None) == (lane_id, True)
    assert "goes on" in cli("resume", "lane", name).out
    if by == "id":
        resting(api, "other")
        assert "probed" in cli("probe", "lane", "other").out
        assert "probing" in cli("lanes").out
        refused = cli("probe", "lane", lane_id)
        assert (refused.status, "healthy" in refused.err) == (2, True)
        unknown = cli("pause", "lane", "nothing")
        assert (unknown.status, "haulier lanes" in unknown.err) == (2, True)


def test_an_account_is_probed_when_an_operator_has_topped_it_up(api: Api, tmp_path: Path) -> None:
    cli = Cli(api.url, tmp_path, dict(os.environ, HAULIER_TOKEN=TOKEN))
    open_one = problem(api.http.post("/v1/accounts/default/probe"), 409)
    assert open_one["type"] == "urn:haulier:problem:account-not-paused"
    problem(api.http.post("/v1/accounts/nobodys/probe"), 404)

    first, second = api.harness.split(1, 1)
    refused = Pause("402 no credit", blocked=True, spending=True)
    api.harness.apply(api.harness.claim(first, Stage.UPLOAD), refused)
    api.harness.run("UPDATE haulier.accounts SET paused_until = now() + interval '1 hour'")
    api.harness.run("UPDATE haulier.batches SET not_before = now() + interval '1 hour'")
    assert claim_batches(api.db, [first, second], Stage.UPLOAD, LEASE) == []
    assert "402 no credit" in cli("jobs").err

    assert "probed" in cli("probe", "account", "default").out
    (probe,) = claim_batches(api.db, [first, second], Stage.UPLOAD, LEASE)
    assert probe.account_blocked
    assert claim_batches(api.db, [first, second], Stage.UPLOAD, LEASE) == []
    line = api.http.get("/v1/audit").json()["data"][0]
    assert (line["verb"], line["object"]) == ("probe", "accounts/default")
    assert line["before"]["reason"] == "402 no credit"
