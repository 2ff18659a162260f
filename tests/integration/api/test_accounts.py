"""Accounts that an operator pauses, apart from those that Together refuses."""

import os
from pathlib import Path

from service.rules.admission import Capacity
from service.rules.outcomes import Pause
from service.rules.states import Stage
from service.store.claim import claim_batches
from tests.api import TOKEN, Api, problem
from tests.cli import Cli
from tests.factories import LEASE, admit

CAPACITY = Capacity(batches=None, tokens=10**12)
ACCOUNT = "/v1/accounts/default"


def shown(api: Api) -> tuple[str, str | None, str | None]:
    (found,) = api.http.get("/v1/accounts").json()["data"]
    return found["state"], found["pause_reason"], found["reason"]


def kind(api: Api, verb: str) -> str:
    return str(problem(api.http.post(f"{ACCOUNT}/{verb}"), 409)["type"]).rpartition(":")[2]


def test_a_paused_account_is_sent_nothing_and_says_why(api: Api, tmp_path: Path) -> None:
    cli = Cli(api.url, tmp_path, dict(os.environ, HAULIER_TOKEN=TOKEN))
    sent = api.submit("a")
    (batch,) = [due.id for due in admit(api.db, limit=9, capacity=CAPACITY)]
    waits = api.submit("b")

    problem(api.http.post(f"{ACCOUNT}/pause"), 422)
    problem(api.http.post("/v1/accounts/nobodys/pause", json={"reason": "x"}), 404)
    trial = api.http.post(f"{ACCOUNT}/pause?dry_run=true", json={"reason": "x"}).json()
    assert trial["changes"][0]["after"] == {"paused": True, "reason": "x"}
    assert shown(api) == ("open", None, None)

    assert "is paused" in cli("pause", "account", "default", "--reason", "budget review").out
    assert shown(api) == ("paused", "budget review", None)
    assert claim_batches(api.db, [batch], Stage.UPLOAD, LEASE) == []
    assert admit(api.db, limit=9, capacity=CAPACITY) == []
    for job_id in (sent, waits):
        waiting = api.job(job_id)["waiting"]
        assert (waiting["code"], waiting["until"]) == ("account_stopped", None)
        assert "budget review" in waiting["detail"]
    (lane,) = api.http.get("/v1/lanes").json()["data"]
    assert "paused its account" in lane["next"]
    assert "budget review" in cli("status").err
    assert "budget review" in cli("accounts").out
    assert kind(api, "probe") == "account-paused"

    assert "is resumed" in cli("resume", "account", "default").out
    assert kind(api, "resume") == kind(api, "probe") == "account-not-paused"
    assert len(claim_batches(api.db, [batch], Stage.UPLOAD, LEASE)) == 1
    audited = api.http.get("/v1/audit", params={"object": "accounts/default"}).json()["data"]
    assert [line["verb"] for line in audited] == ["resume", "pause"]


def test_what_together_refuses_and_what_an_operator_pauses_end_each_by_itself(
    api: Api, tmp_path: Path
) -> None:
    cli = Cli(api.url, tmp_path, dict(os.environ, HAULIER_TOKEN=TOKEN))
    (first,) = api.harness.split(1)
    refused = Pause("402 no credit", blocked=True, spending=True)
    api.harness.apply(api.harness.claim(first, Stage.UPLOAD), refused)
    api.harness.run("UPDATE haulier.accounts SET paused_until = now() + interval '1 hour'")
    assert kind(api, "resume") == "account-not-paused"

    assert api.http.post(f"{ACCOUNT}/pause", json={"reason": "away"}).status_code == 200
    assert shown(api) == ("paused", "away", "402 no credit")
    assert "Together still refuses it: 402 no credit" in cli("resume", "account", "default").out
    assert shown(api) == ("paused", None, "402 no credit")
    assert api.http.post(f"{ACCOUNT}/probe").json()["state"] == "open"


def test_what_together_holds_of_a_paused_account_is_fetched(api: Api) -> None:
    batch = api.harness.created(1)
    api.http.post(f"{ACCOUNT}/pause", json={"reason": "away"})
    api.harness.run("UPDATE haulier.batches SET not_before = now()")
    assert len(claim_batches(api.db, [batch], Stage.POLL, LEASE)) == 1
