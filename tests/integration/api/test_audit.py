"""The audit log: whatever an operator changes leaves a line, and nobody takes it back."""

import json
import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest

from config.settings import Settings
from service.rules.credentials import Scope
from service.rules.outcomes import Fail, Park
from service.rules.permissions import Permissions
from service.rules.spec import read_spec
from service.rules.states import Stage
from service.store.account_verbs import pause
from service.store.heartbeats import beat
from service.store.notices import deliveries
from service.store.producers import add_credential, add_producer, disable
from service.store.submit import Submission
from tests.api import Api, chat, messages, problem
from tests.factories import CHAT, chat_request, ill_lane, settlement, submit
from tests.integration.api.test_walls import as_bearer, everything, filled, of_admins

HOOK = [{"webhook": "https://example.com/hook"}]

# What an operation needs in its body; {} if it is not named. What is added to the API is tried by
# itself: if it needs a body that is not here, its test fails.
BODIES: dict[str, dict[str, Any]] = {
    "POST /v1/producers": {"name": "newcomer"},
    "PATCH /v1/producers/{name}": {"requests_per_day": 7},
    "POST /v1/jobs/{job_id}/abandon": {"requests": "dead"},
    "POST /v1/accounts/{account}/pause": {"reason": "a review"},
}


def parked(api: Api) -> UUID:
    """A job whose batch waits for an operator."""
    batch_id = api.harness.created()
    api.harness.due_now(batch_id)
    api.harness.apply(api.harness.claim(batch_id, Stage.POLL), Park("404"))
    return api.harness.part(batch_id).job_id


def paused_account(api: Api, verb: str) -> str:
    """An account that nothing else here uses, and that a verb can be done to."""
    if verb != "probe":
        pause(api.db, "idle", "a review", by=None)
        return "idle"
    api.harness.run(
        "INSERT INTO haulier.accounts (name, paused_until, blocked_since)"
        " VALUES ('spare', now() + interval '1 hour', now()) ON CONFLICT DO NOTHING"
    )
    return "spare"


def process(api: Api, name: str) -> str:
    beat(api.db, name=name, kind="worker", host="h", pid=1, queues=[], slots=1)
    return name


def lines(api: Api, **filters: Any) -> list[dict[str, Any]]:
    """What is in the log, newest first, but for the migrations of this test's own database."""
    answer = api.http.get("/v1/audit", params=filters)
    assert answer.status_code == 200, answer.text
    return [line for line in answer.json()["data"] if line["object"] != "database"]


def test_whatever_only_an_admin_may_change_leaves_a_line(api: Api, api_settings: Settings) -> None:
    add_producer(api.db, "boss")
    boss = add_credential(api.db, "boss", scopes=[Scope.ADMIN])
    add_producer(api.db, "stranger")
    changing = sorted(found for found in of_admins(api, api_settings) if found[0] != "GET")
    assert len(changing) >= 7
    with as_bearer(api, boss.text) as client:
        for number, (method, path) in enumerate(changing):
            name = f"billing-{number}"
            token = add_producer(api.db, name)
            if path.endswith("/enable"):
                disable(api.db, name)
            known = {"name": name, "token_id": token.id, "job_id": str(parked(api))}
            known["lane_id"] = ill_lane(api.db, f"model-{number}")
            known["account"] = paused_account(api, path.rpartition("/")[2])
            known["process_id"] = process(api, f"process-{number}")
            body = None if method == "DELETE" else BODIES.get(f"{method} {path}", {})
            before = lines(api)[0]["id"]

            stored = everything(api_settings.database_url or "")
            trial = client.request(
                method, filled(path, **known), json=body, params={"dry_run": "true"}
            )
            assert trial.status_code in {200, 201, 202}, (path, trial.text)
            (change,) = trial.json()["changes"]
            assert everything(api_settings.database_url or "") == stored, path

            answer = client.request(method, filled(path, **known), json=body)

            assert answer.is_success, f"{method} {path}: give it a body in BODIES; {answer.text}"
            newest, *_ = lines(api)
            assert newest["id"] > before, f"{method} {path} leaves no line in the audit log"
            assert (newest["actor"], newest["credential"]) == ("producer:boss", boss.id)
            assert newest["origin"] == "127.0.0.1"
            assert (change["verb"], change["before"]) == (newest["verb"], newest["before"]), path


def test_a_line_says_what_was_and_what_is(api: Api) -> None:
    headers = {"X-Request-ID": "req-7"}
    api.http.post("/v1/producers", json={"name": "billing", "open_requests": 5}, headers=headers)
    changed = {"open_requests": None, "highest_priority": 9}  # the latter is so already
    api.http.patch("/v1/producers/billing", json=changed)
    api.http.patch("/v1/producers/billing", json=changed)

    newest, oldest = lines(api)

    assert (newest["verb"], newest["object"]) == ("change", "producers/billing")
    assert (newest["before"], newest["after"]) == ({"open_requests": 5}, {"open_requests": None})
    assert (oldest["verb"], oldest["actor"], oldest["request_id"]) == ("add", "admin", "req-7")
    assert (oldest["before"], oldest["after"]["open_requests"]) == (None, 5)


def test_a_refused_change_leaves_no_line(api: Api) -> None:
    api.http.post("/v1/producers", json={"name": "default"})
    api.http.patch("/v1/producers/default", json={"lowest_priority": 10})
    api.http.delete(f"/v1/producers/default/tokens/{'0' * 16}")
    api.http.post(f"/v1/jobs/{api.submit('a')}/abandon", json={"requests": "dead"})
    assert lines(api) == []


def test_no_secret_and_no_digest_gets_into_the_log(api: Api, database_url: str) -> None:
    first = api.http.post("/v1/producers", json={"name": "billing"}).json()["token"]
    second = api.http.post("/v1/producers/billing/tokens", json={"label": "x"}).json()
    path = f"/v1/producers/billing/tokens/{second['id']}"
    third = api.http.post(f"{path}/rotate", json={"grace_seconds": 60}).json()
    secret = api.http.post("/v1/producers/billing/signing-secret").json()["secret"]
    api.http.delete(path)

    found = json.dumps(lines(api, object="producers/billing"))
    assert [line["verb"] for line in lines(api)] == ["revoke", "new-secret", "rotate", "add", "add"]
    with psycopg.connect(database_url) as connection:
        digests = connection.execute("SELECT encode(digest, 'hex') FROM haulier.tokens").fetchall()
    hidden = [secret, *(digest for (digest,) in digests)]
    hidden += [token.split("_", 2)[2] for token in (first, second["token"], third["token"])]
    assert not [text for text in hidden if text in found]


def submitted(api: Api, token: str) -> str:
    with as_bearer(api, token) as client:
        return str(client.post("/v1/jobs", json=chat("a")).json()["id"])


def notice(api: Api, producer: str) -> str:
    """The path of a notice of a job that has failed."""
    content = {"endpoint": CHAT, "requests": [chat_request("a")], "notify": HOOK}
    spec = read_spec(msgspec.json.encode(content), Permissions())
    job_id = uuid4()
    submit(api.db, [Submission(id=job_id, producer=producer, spec=spec)])
    api.harness.apply(api.harness.claim_job(job_id, Stage.SPLIT), Fail("no more"))
    (found,) = deliveries(api.db, job_id, after=None, limit=2)
    return f"jobs/{job_id}/deliveries/{found.id}"


def test_of_what_is_done_to_jobs_only_what_an_operator_does_is_logged(api: Api) -> None:
    owner = add_producer(api.db, "owner").text
    add_producer(api.db, "boss")
    boss = add_credential(api.db, "boss", scopes=[Scope.ADMIN]).text
    own, others, more = (submitted(api, owner) for _ in range(3))
    told = notice(api, "owner")
    with as_bearer(api, owner) as client:
        assert client.post(f"/v1/jobs/{own}/cancel").status_code == 202
        assert client.post(f"/v1/{told}/redeliver").status_code == 202
    assert lines(api, object=f"jobs/{own}") == lines(api, object=told) == []

    with as_bearer(api, boss) as client:
        mine = submitted(api, boss)
        for job_id in (mine, others, others):
            assert client.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
        assert client.post(f"/v1/{told}/redeliver").status_code == 202
    api.http.post(f"/v1/jobs/{more}/cancel")
    stuck = parked(api)
    assert api.http.post(f"/v1/jobs/{stuck}/retry").status_code == 202

    found = [(line["actor"], line["verb"], line["object"]) for line in lines(api)]
    assert [one for one in reversed(found) if one[2].startswith("jobs/")] == [
        ("producer:boss", "cancel", f"jobs/{others}"),
        ("producer:boss", "redeliver", told),
        ("admin", "cancel", f"jobs/{more}"),
        ("admin", "unpark", f"jobs/{stuck}"),
    ]


def test_a_retry_by_an_operator_is_logged(api: Api) -> None:
    job_id = api.submit("a", "b")
    api.harness.let_in()
    (batch_id,) = api.harness.open_batches(job_id)
    api.harness.settle(batch_id, settlement(0, dead=range(2)))
    api.harness.end(job_id)
    assert api.http.post(f"/v1/jobs/{job_id}/retry").status_code == 202
    (line,) = lines(api, verb="retry")
    assert (line["before"], line["after"]["retried"]) == ({"state": "completed"}, 2)


def test_a_release_by_an_operator_is_logged(api: Api) -> None:
    owner = add_producer(api.db, "owner").text
    line = ({"held": "canary", "max_cost": None}, {"held": None, "max_cost": None})
    for token, logged in ((owner, []), (None, [line])):
        with as_bearer(api, owner) as client:
            job_id = client.post("/v1/jobs", json=chat("a", "b", canary=1)).json()["id"]
            answer = (client if token else api.http).post(f"/v1/jobs/{job_id}/release")
        assert answer.status_code == 202
        found = lines(api, object=f"jobs/{job_id}", verb="release")
        assert [(line["before"], line["after"]) for line in found] == logged


# --- reading it ---------------------------------------------------------------------------------


@pytest.fixture
def filled_log(api: Api) -> Api:
    for name in ("billing", "billing-2", "bill%"):
        add_producer(api.db, name)
    add_credential(api.db, "billing")
    api.http.patch("/v1/producers/billing", json={"open_requests": 5})
    return api


def pages(api: Api, **filters: Any) -> Iterator[list[dict[str, Any]]]:
    cursor = None
    while True:
        answer = api.http.get("/v1/audit", params={**filters, "cursor": cursor}).json()
        yield answer["data"]
        cursor = answer["next_cursor"]
        if cursor is None:
            return


def test_the_log_is_read_by_pages_that_stay_as_they_are(filled_log: Api) -> None:
    whole = [line["id"] for page in pages(filled_log) for line in page]
    assert whole == sorted(whole, reverse=True)
    read = []
    for page in pages(filled_log, limit=2):
        read += [line["id"] for line in page]
        filled_log.http.post("/v1/producers/billing/signing-secret")
    assert read == whole


def test_the_log_is_filtered(filled_log: Api) -> None:
    api = filled_log

    def verbs(**filters: Any) -> list[str]:
        return [line["verb"] for line in lines(api, **filters)]

    assert verbs(actor="admin") == ["change"]
    assert len(verbs(verb="add")) == 4
    # What belongs to it as well, and not what only begins like it.
    assert verbs(object="producers/billing") == ["change", "add", "add"]
    assert verbs(object="producers/bill%25") == ["add"]
    assert verbs(object="producers/bill%") == []
    newest = lines(api)[0]["at"]
    assert verbs(since=newest) == ["change"]
    assert len(verbs(until=newest)) == 4
    assert verbs(actor="nobody") == []


@pytest.mark.parametrize(
    "query", [{"since": "yesterday"}, {"actor": "a\x00"}, {"who": "x"}, {"cursor": "x"}]
)
def test_a_bad_filter_is_refused(refusing_api: Api, query: dict[str, str]) -> None:
    assert messages(refusing_api.http.get("/v1/audit", params=query))


def test_the_log_is_for_admins(api: Api) -> None:
    with as_bearer(api, add_producer(api.db, "billing").text) as client:
        problem(client.get("/v1/audit"), 403)


def test_a_database_command_is_that_of_the_user_of_the_machine(filled_log: Api) -> None:
    line = lines(filled_log, verb="add")[0]
    assert re.fullmatch(r"os:.+", line["actor"])
    assert line["credential"] is None
    assert re.fullmatch(r"\w+@.+", line["origin"])


# --- append-only --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE haulier.audit SET actor = 'nobody'",
        "DELETE FROM haulier.audit",
        "DELETE FROM haulier.audit WHERE false",
        "TRUNCATE haulier.audit",
        "TRUNCATE haulier.producers, haulier.audit CASCADE",
    ],
)
def test_not_even_the_owner_changes_a_line_by_mistake(database_url: str, statement: str) -> None:
    with (
        psycopg.connect(database_url) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="can only be added to"),
    ):
        connection.execute(statement)


def test_a_migration_leaves_a_line(api: Api) -> None:
    found = api.http.get("/v1/audit", params={"object": "database"}).json()["data"]
    (migrated,) = [line for line in found if line["after"].get("revision") == "0016"]
    assert migrated["object"] == "database"
    assert migrated["actor"].startswith("os:")
    assert migrated["before"] is not None
