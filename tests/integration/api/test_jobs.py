"""Lists, single jobs, cancelling, and what an operator sees."""

import base64
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from config.settings import Account, Settings
from service.rules.outcomes import Park, Pause
from service.rules.states import BatchState, Stage
from service.store.heartbeats import beat
from service.store.producers import add_producer
from tests.api import TOKEN, Api, chat, messages, problem, serving
from tests.factories import settlement
from tests.integration.api.test_walls import as_bearer


def pages(api: Api, path: str, **query: Any) -> Iterator[list[Any]]:
    """Every page of a list."""
    cursor = None
    while True:
        asked = query if cursor is None else {**query, "cursor": cursor}
        answer = api.http.get(path, params=asked)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert set(page) == {"data", "next_cursor"}
        yield page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            return


# --- lists -------------------------------------------------------------------------------------


def test_jobs_are_listed_newest_first_in_pages(api: Api) -> None:
    made = [str(api.submit("a")) for _ in range(5)]

    found = list(pages(api, "/v1/jobs", limit=2))

    assert [len(page) for page in found] == [2, 2, 1]
    assert [job["id"] for page in found for job in page] == made[::-1]


def test_a_new_job_does_not_shift_the_pages_behind_it(api: Api) -> None:
    made = [str(api.submit("a")) for _ in range(4)]
    walk = pages(api, "/v1/jobs", limit=2)
    first = next(walk)
    api.submit("a")

    assert [job["id"] for job in [*first, *next(walk)]] == made[::-1]


def test_a_page_that_is_just_full_is_the_last(api: Api) -> None:
    api.submit("a")

    assert api.http.get("/v1/jobs", params={"limit": 1}).json()["next_cursor"] is None


def test_jobs_are_filtered_by_their_states(api: Api) -> None:
    accepted = str(api.harness.unread())
    running = str(api.submit("a"))

    def found(**query: Any) -> list[str]:
        return [job["id"] for page in pages(api, "/v1/jobs", **query) for job in page]

    assert found(state="accepted") == [accepted]
    assert found(state="running") == [running]
    assert found(state=["accepted", "running"]) == [running, accepted]
    assert found(state="completed") == []


def test_jobs_are_found_by_what_their_metadata_contains(api: Api) -> None:
    search = str(api.submit("a", metadata={"team": "search", "run": {"day": 1, "parts": [1, 2]}}))
    ads = str(api.submit("a", metadata={"team": "ads", "url": "https://x:1/ü"}))
    api.submit("a")

    def found(*marks: str, **query: Any) -> list[str]:
        listed = pages(api, "/v1/jobs", metadata=list(marks), **query)
        return [job["id"] for page in listed for job in page]

    assert found("team:search") == [search]
    assert found("url:https://x:1/ü") == [ads]
    assert found('{"run": {"day": 1}}') == [search]
    assert found('{"run": {"parts": [2]}}', "team:search") == [search]
    assert found("team:search", "team:ads") == found("team:") == found("day:1") == []
    assert found("team:ads", state="running") == [ads]
    assert found("team:ads", state="completed") == []


def test_the_pages_of_found_jobs_hold_each_of_them_once(api: Api) -> None:
    made = [str(api.submit("a", metadata={"run": str(n % 2)})) for n in range(8)]

    walk = pages(api, "/v1/jobs", metadata="run:0", limit=2)
    first = next(walk)
    api.submit("a", metadata={"run": "0"})

    assert [job["id"] for page in [first, *walk] for job in page] == made[-2::-2]


def test_jobs_of_a_while_begin_with_its_start_and_do_not_hold_its_end(api: Api) -> None:
    made = [api.job(api.submit("a")) for _ in range(3)]
    oldest, middle, newest = (job["created_at"] for job in made)

    def found(**query: Any) -> list[str]:
        listed = pages(api, "/v1/jobs", limit=1, **query)
        return [job["created_at"] for page in listed for job in page]

    assert found(created_after=middle) == [newest, middle]
    assert found(created_before=middle) == [oldest]
    assert found(created_after=oldest, created_before=newest) == [middle, oldest]
    assert found(created_after=newest, created_before=oldest) == []
    assert found(created_after="0001-01-01T00:00:00+14:00") == [newest, middle, oldest]
    assert found(created_before="9999-12-31T23:59:59-14:00") == [newest, middle, oldest]


def test_only_an_admin_finds_jobs_of_another_producer(api: Api) -> None:
    answer = api.http.post("/v1/producers", json={"name": "team-a"})
    bearer = {"Authorization": f"Bearer {answer.json()['token']}"}
    api.submit("a")
    own = api.http.post("/v1/jobs", json=chat("a"), headers=bearer).json()["id"]

    def found(headers: dict[str, str], **query: str) -> list[str]:
        answer = api.http.get("/v1/jobs", params=query, headers=headers)
        assert answer.status_code == 200
        return [job["id"] for job in answer.json()["data"]]

    assert (
        found({}, producer="team-a") == found(bearer) == found(bearer, producer="team-a") == [own]
    )
    assert found(bearer, producer="default") == found({}, producer="nobody") == []


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"metadata": "team"}, "send key:value, or a JSON object"),
        ({"metadata": "{team"}, "is no JSON object"),
        ({"metadata": '{"a": 1e999}'}, "is no JSON object"),
        ({"metadata": '{"a":' * 150 + "1" + "}" * 150}, "nests too deep"),
        ({"metadata": '{"a": "' + "x" * 5000 + '"}'}, "4,096 characters"),
        ({"metadata": "{}"}, "name a value"),
        ({"metadata": '{"a": [{}]}'}, "name a value"),
        ({"metadata": "a:\x00"}, "NUL"),
        ({"metadata": '{"a": "\\u0000"}'}, "NUL"),
        ({"metadata": ["a:1"] * 21}, "query metadata"),
        ({"producer": "a\x00"}, "NUL"),
        ({"created_after": "yesterday"}, "2026-11-22T12:00:00Z"),
        ({"created_after": "1763812800"}, "2026-11-22T12:00:00Z"),
        ({"created_before": "2026-11-22T12:00:00"}, "with its zone"),
        ({"created_before": "2026-11-22T12:00:00 02:00"}, "%2B"),
        ({"created_before": "2026-02-30T12:00:00Z"}, "query created_before"),
        ({"cursor": "W" * 60_000}, "query cursor"),
        ({"limit": 0}, "query limit"),
        ({"limit": 1001}, "query limit"),
        ({"limit": "all"}, "query limit"),
        ({"state": "happy"}, "query state"),
        ({"colour": "red"}, "query colour: there is no such parameter"),
    ],
)
def test_a_bad_query_of_a_list_is_refused(
    refusing_api: Api, query: dict[str, Any], words: str
) -> None:
    found = messages(refusing_api.http.get("/v1/jobs", params=query))

    assert words in found[0][1]


CURSORS = [
    "x",
    "made up",
    base64.urlsafe_b64encode(b"[" * 1000).decode(),
    "ÿ",
    "\x00",
    "WyJqb2IiLDFd",  # ["job",1]
    "WyJldmVudCIsMV0",  # ["event",1]: another list's
    "WyJqb2IiLCIyMDI2LTExLTIyVDEyOjAwOjAwIiwieCJd",  # no zone, no UUID
    "eyJhIjoxfQ",  # {"a":1}
    "WyJldmVudCIsOTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5XQ",  # ["event",999999999999999999999999]
]


@pytest.mark.parametrize("cursor", CURSORS)
def test_a_cursor_that_no_list_gave_is_refused(api: Api, cursor: str) -> None:
    job_id = api.submit("a")
    found = messages(api.http.get("/v1/jobs", params={"cursor": cursor}))
    assert found[0][1].startswith("query cursor")
    for part in ("batches", "failures"):
        messages(api.http.get(f"/v1/jobs/{job_id}/{part}", params={"cursor": cursor}))


def test_batches_events_and_failures_come_in_order_and_in_pages(api: Api) -> None:
    harness = api.harness
    batch_ids = harness.split(3, 3, 3)
    job_id = harness.job_of(batch_ids[0]).id
    for batch_id in reversed(batch_ids):
        ordinal = batch_ids.index(batch_id) * 3
        harness.settle(batch_id, settlement(1, dead=[ordinal, ordinal + 1]))

    batches = [row for page in pages(api, f"/v1/jobs/{job_id}/batches", limit=2) for row in page]
    failures = [row for page in pages(api, f"/v1/jobs/{job_id}/failures", limit=4) for row in page]
    events = [row for page in pages(api, f"/v1/jobs/{job_id}/events", limit=3) for row in page]

    assert [row["id"] for row in batches] == [str(batch_id) for batch_id in batch_ids]
    assert [row["shard"] for row in batches] == [0, 1, 2]
    assert {(row["state"], row["requests"], row["succeeded"], row["dead"]) for row in batches} == {
        ("settled", 3, 1, 2)
    }
    assert [row["custom_id"] for row in failures] == [f"r{n}" for n in (0, 1, 3, 4, 6, 7)]
    assert failures[0] == {"custom_id": "r0", "code": "error", "message": "no", "attempts": 1}
    assert [row["id"] for row in events] == sorted(row["id"] for row in events)
    moves = [row["target"] for row in events if row["batch_id"] == str(batch_ids[0])]
    assert moves == ["queued", "uploaded", "created", "ended", "settled"]
    job = api.job(job_id)
    assert (job["succeeded"], job["failed"], job["pending"]) == (3, 6, 0)


# --- single jobs -------------------------------------------------------------------------------


NOBODYS = "9d3ff1a6-3f4e-4a30-a1c5-31b4a25f0f6c"


@pytest.mark.parametrize(
    "job_id", [NOBODYS, "1", "none", "' OR 1=1", "%00", "a" * 5000, NOBODYS[:-1]]
)
@pytest.mark.parametrize("part", ["", "/batches", "/events", "/failures", "/results"])
def test_a_job_that_is_not_there_is_not_found(refusing_api: Api, job_id: str, part: str) -> None:
    problem(refusing_api.http.get(f"/v1/jobs/{job_id}{part}"), 404)


def test_a_job_that_is_not_there_cannot_be_cancelled(refusing_api: Api) -> None:
    problem(refusing_api.http.post(f"/v1/jobs/{uuid4()}/cancel"), 404)


def test_cancelling_is_accepted_and_asking_again_changes_nothing(api: Api) -> None:
    job_id = api.submit()

    first = api.http.post(f"/v1/jobs/{job_id}/cancel")
    again = api.http.post(f"/v1/jobs/{job_id}/cancel")

    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["cancel_requested_at"] is not None
    assert again.json() == first.json()
    assert [event["target"] for event in next(pages(api, f"/v1/jobs/{job_id}/events"))] == [
        "running",
        "cancel_requested",
    ]


def test_a_completed_job_cannot_be_cancelled(api: Api, finished: str) -> None:
    document = problem(api.http.post(f"/v1/jobs/{finished}/cancel"), 409)

    assert document["type"] == "urn:haulier:problem:already-ended"
    assert "completed" in document["detail"]


@pytest.fixture
def finished(api: Api) -> str:
    """The id of a completed job, without result lines."""
    harness = api.harness
    batch_id = harness.queued(2)
    harness.settle(batch_id, settlement(2))
    job = harness.job_of(batch_id)
    harness.run(
        "UPDATE haulier.jobs SET state = 'completed', finished_at = now() WHERE id = :id", id=job.id
    )
    return str(job.id)


# --- operating ---------------------------------------------------------------------------------


def test_accounts_show_their_state_and_never_a_key(api_settings: Settings) -> None:
    more = {"research": Account.model_validate({"api_key": "research-secret"})}
    settings = api_settings.model_copy(update={"accounts": more})
    with serving(settings) as api:
        assert [account["name"] for account in api.http.get("/v1/accounts").json()["data"]] == [
            "default",
            "research",
        ]
        batch_id = api.harness.queued()
        api.harness.apply(api.harness.claim(batch_id, Stage.UPLOAD), Pause("the key is refused"))

        answer = api.http.get("/v1/accounts")

    default, research = answer.json()["data"]
    assert (default["name"], default["state"]) == ("default", "paused")
    assert default["reason"] == "the key is refused"
    assert default["paused_until"] is not None
    assert default["configured"] is False
    assert research == {
        "name": "research",
        "state": "open",
        "configured": True,
        "paused_until": None,
        "reason": None,
        "paused_at": None,
        "pause_reason": None,
    }
    assert "secret" not in answer.text


def test_status_shows_who_lives_and_what_is_under_way(api: Api) -> None:
    for kind in ("worker", "scheduler", "inbox", "notifier"):
        beat(api.db, name=f"{kind}@h:1", kind=kind, host="h", pid=1, queues=["q"], slots=2)
    api.harness.split(2, 2)
    api.harness.advance(api.harness.queued(), BatchState.CREATED)

    status = api.http.get("/v1/status").json()

    assert status["open_batches"] == {"queued": 2, "created": 1}
    for kind in ("workers", "schedulers", "inboxes", "notifiers"):
        (process,) = status[kind]
        assert process["id"] == f"{kind.rstrip('s').removesuffix('e')}@h:1"
        assert process["age_seconds"] >= 0
    assert status["workers"][0]["slots"] == 2
    assert status["version"]
    assert TOKEN not in str(status)

    seen = api.http.get("/v1/overview").json()
    assert seen["needs"] == []
    assert (seen["arrived"]["jobs"], seen["arrived"]["requests"]) == (2, 7)
    assert seen["batches"]["created"] == {"rows": 1, "requests": 3}
    assert [row["kind"] for row in seen["processes"]] == [
        "worker",
        "scheduler",
        "inbox",
        "notifier",
    ]
    assert len(seen["running"]) == 2
    assert seen["running"][0]["id"] == api.http.get("/v1/jobs").json()["data"][0]["id"]
    assert [day["estimated_cost"] for day in seen["spent"]] == ["0", "0"]
    job_id = seen["running"][0]["id"]
    api.harness.run("UPDATE haulier.jobs SET parked_at = now() WHERE id = :id", id=job_id)
    (need,) = api.http.get("/v1/overview").json()["needs"]
    assert (need["kind"], need["names"]) == ("job_parked", [job_id])
    assert (need["words"], need["command"]) == ("1 job is parked", f"haulier show {job_id}")


def test_the_newest_job_is_listed_as_it_shows_itself(api: Api) -> None:
    shown = api.http.post("/v1/jobs", json=chat("a", metadata={"x": [1]})).json()

    assert next(pages(api, "/v1/jobs")) == [shown]


@pytest.mark.parametrize("requests", ["dead", "again"])
def test_an_operator_gives_up_what_is_parked(api: Api, requests: str) -> None:
    batch_id = api.harness.created()
    job_id = api.harness.part(batch_id).job_id
    path = f"/v1/jobs/{job_id}/abandon"
    refused = api.http.post(path, json={"requests": requests})
    assert problem(refused, 409)["type"].endswith("nothing-parked")

    api.harness.due_now(batch_id)
    api.harness.apply(api.harness.claim(batch_id, Stage.POLL), Park("404 not known there"))
    shown = api.job(job_id)
    assert (shown["waiting"]["code"], shown["last_error"]) == ("parked", "404 not known there")
    answer = api.http.post(path, json={"requests": requests})
    assert answer.status_code == 202
    assert api.harness.claim(batch_id, Stage.POLL).ending == requests


@pytest.mark.parametrize("asked", [{}, {"requests": "both"}, {"requests": "dead", "x": 1}])
def test_giving_up_says_what_becomes_of_the_requests(
    refusing_api: Api, asked: dict[str, object]
) -> None:
    answer = refusing_api.http.post(f"/v1/jobs/{uuid4()}/abandon", json=asked)
    assert answer.status_code in {404, 422}


def test_a_job_is_found_by_the_first_digits_of_its_id_by_whom_it_belongs_to(api: Api) -> None:
    job_id = api.http.post("/v1/jobs", json=chat("a")).json()["id"]
    api.http.post("/v1/jobs", json=chat("a"))
    for digits in (job_id, job_id[:8], job_id[:11], job_id[:7].upper()):
        found = api.http.get("/v1/jobs", params={"id": digits}).json()["data"]
        assert [job["id"] for job in found] == [job_id]
    assert api.http.get("/v1/jobs", params={"id": job_id, "state": "failed"}).json()["data"] == []
    with as_bearer(api, add_producer(api.db, "stranger").text) as stranger:
        assert stranger.get("/v1/jobs", params={"id": job_id}).json()["data"] == []
    for wrong in ("", "93d", "xyzw", "0" * 33, "٣" * 4):
        problem(api.http.get("/v1/jobs", params={"id": wrong}), 422)
