"""The console without a browser: who gets in, what they may do, and what its answers say."""

import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest

from config.settings import Settings
from service.rules.credentials import Scope
from service.rules.outcomes import Park
from service.rules.states import Stage
from service.store.credentials import revoke_token
from service.store.producers import add_credential, add_producer, disable
from tests.api import TOKEN, Api, serving
from tests.factories import ill_lane
from tests.servers import Databases
from tests.visitors import browser, csrf

USER = "X-Forwarded-User"


@pytest.fixture(scope="module")
def api(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One API for all, where a proxy on this machine may name people."""
    owners_url = databases.create()
    settings = Settings.model_validate(
        {
            "DATABASE_URL": databases.runtime(owners_url),
            "blob_url": tmp_path_factory.mktemp("blobs").as_uri(),
            "admin_token": TOKEN,
            "failed_logins_per_minute": 100_000,
            "trusted_proxies": "127.0.0.1",
            "console_user_header": USER,
            "console_roles": '{"ann": "admin", "oli": "operator", "vic": "viewer"}',
        }
    )
    with serving(settings) as running:
        add_producer(running.db, "billing")
        add_producer(running.db, "search")
        yield running
    databases.give_back(owners_url)


def token_of(api: Api, producer: str, *scopes: Scope) -> str:
    return add_credential(api.db, producer, scopes=scopes or tuple(Scope)[:3]).text


def parked(api: Api, producer: str = "billing") -> UUID:
    batch_id = api.harness.created(producer=producer)
    api.harness.due_now(batch_id)
    api.harness.apply(api.harness.claim(batch_id, Stage.POLL), Park("404"))
    return api.harness.part(batch_id).job_id


def last_audit(api: Api) -> dict[str, Any]:
    line: dict[str, Any] = api.http.get("/v1/audit", params={"limit": 1}).json()["data"][0]
    return line


# --- getting in ----------------------------------------------------------------------------------


def test_the_root_leads_to_the_console_and_that_to_the_login(api: Api) -> None:
    with browser(api) as client:
        assert client.get("/").headers["location"] == "/console/"
        assert client.get("/console").headers["location"] == "/console/"
        asked = client.get("/console/jobs?q=state%3Arunning&x=1")
        assert asked.status_code == 303
        assert (
            asked.headers["location"] == "/console/login?back=jobs%3Fq%3Dstate%253Arunning%26x%3D1"
        )
        live = client.get("/console/", headers={"Accept": "text/event-stream"})
        assert live.status_code == 401


def test_a_login_is_a_cookie_that_scripts_and_other_sites_do_not_get(api: Api) -> None:
    with browser(api) as client:
        answer = client.post("/console/login", data={"token": f" {TOKEN} ", "back": "jobs?q=a"})

        assert answer.headers["location"] == "/console/jobs?q=a"
        cookie = answer.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict", "Path=/console", "Max-Age=43200"} <= set(
            cookie.split("; ")
        )
        assert "Secure" not in cookie
        tls = client.post(
            "/console/login", data={"token": TOKEN}, headers={"X-Forwarded-Proto": "https"}
        )
        assert "Secure" in tls.headers["set-cookie"].split("; ")
        secret = client.cookies["haulier_session"]
    stored = api.harness.rows("SELECT encode(digest, 'escape') FROM haulier.console_sessions")
    assert all(secret not in row for row in stored)


@pytest.mark.parametrize(
    "back", ["//evil.example", "/\\evil.example", "https://evil.example", "a/../../x", "a\r\nb"]
)
def test_a_login_leads_to_no_other_place(api: Api, back: str) -> None:
    with browser(api) as client:
        answer = client.post("/console/login", data={"token": TOKEN, "back": back})
        target = httpx.URL(api.url).join(answer.headers["location"])

    assert target.host == httpx.URL(api.url).host
    assert target.path.startswith("/console/")


def test_a_wrong_token_is_refused_and_too_many_are_throttled(
    api_settings: Settings,
) -> None:
    settings = api_settings.model_copy(update={"failed_logins_per_minute": 2})
    with serving(settings) as strict, browser(strict) as client:
        statuses = [
            client.post("/console/login", data={"token": f"haulier_{n}"}).status_code
            for n in range(4)
        ]
        assert statuses == [401, 401, 429, 429]
        assert client.post("/console/login", data={"token": TOKEN}).status_code == 303


def test_a_token_that_may_not_read_does_not_get_in(api: Api) -> None:
    with browser(api) as client:
        token = token_of(api, "billing", Scope.SUBMIT)
        assert client.post("/console/login", data={"token": token}).status_code == 401


def test_a_session_ends_with_its_logout_its_token_its_producer_and_its_time(api: Api) -> None:
    def is_in(client: httpx.Client) -> bool:
        return client.get("/console/").status_code == 200

    add_producer(api.db, "leaving")
    tokens = [add_credential(api.db, "leaving") for _ in range(2)]
    with (
        browser(api, TOKEN) as first,
        browser(api, tokens[0].text) as second,
        browser(api, tokens[1].text) as third,
        browser(api, TOKEN) as fourth,
    ):
        assert all(map(is_in, (first, second, third, fourth)))
        cookie = first.cookies["haulier_session"]
        first.post("/console/logout", data={"csrf": csrf(first)})
        first.cookies.set("haulier_session", cookie, path="/console")  # as a thief has kept it
        revoke_token(api.db, "leaving", tokens[0].id)
        assert [is_in(client) for client in (first, second, third)] == [False, False, True]
        disable(api.db, "leaving")
        api.harness.run("UPDATE haulier.console_sessions SET expires_at = now()")
        assert not is_in(third)
        assert not is_in(fourth)


def test_a_new_admin_token_ends_all_sessions(api: Api, api_settings: Settings) -> None:
    with serving(api_settings) as old, browser(old, TOKEN) as client:
        cookie = client.cookies["haulier_session"]
    changed = api_settings.model_validate(
        {
            **api_settings.model_dump(),
            "DATABASE_URL": api_settings.database_url,
            "admin_token": "another-admin-token-now",
        }
    )
    with serving(changed) as new, browser(new) as client:
        client.cookies.set("haulier_session", cookie, path="/console")
        assert client.get("/console/").status_code == 303


def test_a_stream_ends_with_its_session(api: Api) -> None:
    with (
        browser(api, TOKEN) as client,
        client.stream("GET", "/console/lanes", headers={"Accept": "text/event-stream"}) as live,
    ):
        assert live.headers["content-type"].startswith("text/event-stream")
        pieces = live.iter_text()
        assert "event: content" in next(pieces) + next(pieces)
        with browser(api) as other:
            other.cookies = client.cookies
            other.post("/console/logout", data={"csrf": csrf(other)})
        assert "data" not in "".join(pieces)  # ends within seconds, and shows nothing more


def test_it_can_be_turned_off(api_settings: Settings) -> None:
    settings = api_settings.model_copy(update={"console": False})
    with serving(settings) as without:
        assert without.http.get("/console/").status_code == 404
        assert without.http.get("/").status_code == 404


# --- people whom a proxy names -------------------------------------------------------------------


def test_a_trusted_proxy_names_people_and_their_roles_say_what_they_may_do(api: Api) -> None:
    lane = ill_lane(api.db, "roles")
    job_id = api.submit()
    forms = {
        "vic": (f"/console/lanes/{lane}/pause", 403, f"/console/jobs/{job_id}/cancel", 403),
        "oli": (f"/console/lanes/{lane}/pause", 303, f"/console/jobs/{job_id}/cancel", 303),
    }
    for name, (pause, paused, cancel, cancelled) in forms.items():
        with browser(api, **{USER: name}) as client:
            shown = client.get("/console/lanes").text
            assert ("Pause</button>" in shown) is (paused == 303)
            assert ("Cancel" in client.get(f"/console/jobs/{job_id}").text) is (cancelled == 303)
            # Whoever is shown no form has no token to send; so it is taken from another's page.
            token = api_csrf(api, name)
            assert client.post(pause, data={"csrf": token}).status_code == paused
            assert client.post(cancel, data={"csrf": token}).status_code == cancelled
    line = last_audit(api)
    assert (line["actor"], line["verb"], line["request_id"]) == ("user:oli", "cancel", "console")


def api_csrf(api: Api, name: str) -> str:
    """The token of somebody whom the proxy names: no page need show it."""
    from service.api.auth import Authenticator

    settings = Settings.model_validate({"DATABASE_URL": "postgresql://x/y", "admin_token": TOKEN})
    return Authenticator(settings, api.db).proof(f"csrf of user {name}").hex()


def test_nobody_else_can_name_people(api: Api, api_settings: Settings) -> None:
    roles = {"console_user_header": USER, "console_roles": {"ann": "admin"}}
    with (
        serving(api_settings.model_copy(update=roles)) as direct,
        browser(direct, **{USER: "ann"}) as client,
    ):
        assert client.get("/console/").status_code == 303
    for sent in ([(USER, "bob")], [(USER, "ann"), (USER, "vic")], [(USER, "a\x1b[1m")]):
        answer = httpx.get(f"{api.url}/console/", headers=sent, trust_env=False)
        assert answer.status_code == 401
    assert httpx.get(f"{api.url}/console/", trust_env=False).status_code == 303


# --- verbs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 415),
    ],
)
def test_a_form_of_another_site_does_nothing(
    api: Api, headers: dict[str, str], status: int
) -> None:
    job_id = api.submit()
    with browser(api, TOKEN) as client:
        token = csrf(client)
        for path in (f"/console/jobs/{job_id}/cancel", "/console/login", "/console/logout"):
            answer = client.post(path, data={"csrf": token, "token": TOKEN}, headers=headers)
            assert answer.status_code == status, path
    assert api.job(job_id)["cancel_requested_at"] is None


def test_a_form_without_the_token_of_its_session_does_nothing(api: Api) -> None:
    job_id = api.submit()
    with browser(api, TOKEN) as client, browser(api, TOKEN) as other:
        for token in ("", "0" * 64, csrf(other), "ä"):
            answer = client.post(f"/console/jobs/{job_id}/cancel", data={"csrf": token})
            assert answer.status_code == 403
        del client.headers["Sec-Fetch-Site"]
        answer = client.post(f"/console/jobs/{job_id}/cancel", data={"csrf": csrf(client)})
        assert answer.status_code == 403  # neither Origin nor Sec-Fetch-Site: no browser's form
        origin = {"Origin": api.url}
        answer = client.post(
            f"/console/jobs/{job_id}/cancel", data={"csrf": csrf(client)}, headers=origin
        )
        assert answer.status_code == 303
    assert api.job(job_id)["cancel_requested_at"] is not None


def test_verbs_leave_the_lines_of_the_apis_own_in_the_audit_log(api: Api) -> None:
    job_id = api.submit()
    with browser(api, TOKEN) as client:
        client.post(f"/console/jobs/{job_id}/cancel", data={"csrf": csrf(client)})

    line = last_audit(api)
    assert (line["actor"], line["verb"], line["object"]) == ("admin", "cancel", f"jobs/{job_id}")
    assert re.fullmatch("console:[0-9a-f]{12}", line["request_id"])


def test_what_was_done_is_told_once(api: Api) -> None:
    job_id = api.submit()
    with browser(api, TOKEN) as client:
        cancel = f"/console/jobs/{job_id}/cancel"
        form = {"csrf": csrf(client), "back": f"jobs/{job_id}"}
        assert client.post(cancel, data=form).headers["location"] == f"/console/jobs/{job_id}"
        assert "is being cancelled" in client.get(f"/console/jobs/{job_id}").text
        assert "is being cancelled" not in client.get(f"/console/jobs/{job_id}").text


@pytest.mark.parametrize("body", [b"x" * 70_000, b"a=1&" * 101, b"csrf=%ff", b"csrf=%00"])
def test_a_form_that_is_none_is_refused(api: Api, body: bytes) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    with browser(api, TOKEN) as client:
        answer = client.post(f"/console/jobs/{UUID(int=1)}/cancel", content=body, headers=kind)
        assert answer.status_code in {413, 422}


def test_what_needs_somebody_has_its_verb(api: Api) -> None:
    rows = api.harness
    held = rows.submitted(20, producer="search")
    rows.run(
        "UPDATE haulier.jobs SET held = 'canary', held_at = now(), canary = 10,"
        " canary_failures = 1, failed = 8, pending = 12 WHERE id = :job",
        job=held,
    )
    rows.run(
        "INSERT INTO haulier.deliveries (id, job_id, event, target, endpoint, parked_at) VALUES"
        " (gen_random_uuid(), :job, 'completed', '{}', 'hooks.example:443', now())",
        job=held,
    )
    stuck = parked(api)
    lane = ill_lane(api.db, "needy")
    rows.run(
        "INSERT INTO haulier.accounts (name, paused_until, blocked_since)"
        " VALUES ('broke', now() + interval '1 hour', now())"
    )
    forms = {
        f"jobs/{held}/release": {},
        f"jobs/{stuck}/retry": {},
        f"lanes/{lane}/resume": {},
        "accounts/broke/probe": {},
        "notices/again": {"endpoint": "hooks.example:443"},
    }
    with browser(api, TOKEN) as client:
        shown = client.get("/console/").text
        assert "No worker is running" in shown
        for path, fields in forms.items():
            assert f'action="/console/{path}"' in shown, path
            answer = client.post(f"/console/{path}", data={"csrf": csrf(client), **fields})
            assert answer.status_code == 303
        shown = client.get("/console/").text
        assert not [path for path in forms if f'action="/console/{path}"' in shown]
    verbs = [line["verb"] for line in api.http.get("/v1/audit").json()["data"][:5]]
    assert verbs == ["redeliver", "probe", "resume", "unpark", "release"]


# --- producers -----------------------------------------------------------------------------------


def test_a_producer_sees_and_changes_its_own_alone(api: Api) -> None:
    theirs, ours = parked(api, "search"), parked(api, "billing")
    with browser(api, token_of(api, "billing")) as client:
        pages = ["/console/", "/console/jobs", "/console/jobs?q=producer:search", "/console/lanes"]
        for path in [*pages, f"/console/jobs?q=id:{theirs}", "/console/jobs?q=waiting:parked"]:
            shown = client.get(path)
            assert shown.status_code == 200, path
            rows = shown.text.partition("<main")[2]  # the search shows what was asked for
            assert str(theirs) not in rows, path
        assert str(ours) in client.get("/console/jobs").text
        assert "producer:search" not in client.get("/console/jobs/suggestions?q=producer:s").text
        assert client.get(f"/console/jobs/{theirs}").status_code == 404
        token = csrf(client)
        assert (
            client.post(f"/console/jobs/{theirs}/cancel", data={"csrf": token}).status_code == 404
        )
        lane = ill_lane(api.db, "walls")
        for path in (f"lanes/{lane}/pause", f"lanes/{lane}/resume", "accounts/default/probe"):
            answer = client.post(f"/console/{path}", data={"csrf": token})
            assert answer.status_code == 403, path
        assert client.post(f"/console/jobs/{ours}/cancel", data={"csrf": token}).status_code == 303
    assert api.job(theirs)["cancel_requested_at"] is None


def test_a_token_does_in_the_console_what_its_scopes_allow(api: Api) -> None:
    job_id = parked(api)
    with browser(api, token_of(api, "billing", Scope.READ)) as client:
        shown = client.get(f"/console/jobs/{job_id}")
        assert "Cancel" not in shown.text
        for verb in ("cancel", "retry"):
            answer = client.post(f"/console/jobs/{job_id}/{verb}", data={"csrf": csrf(client)})
            assert answer.status_code == 403


# --- what answers say ----------------------------------------------------------------------------


def test_every_answer_lets_the_browser_run_our_own_files_alone(api: Api) -> None:
    with browser(api, TOKEN) as client:
        page = client.get("/console/")
        (script, *_) = re.findall(r'src="(/console/assets/[^"]+\.js)"', page.text)
        paths = ["/console/", "/console/login", "/console/nowhere", f"/console/jobs/{UUID(int=0)}"]
        for answer in [*map(client.get, paths), client.get(script)]:
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"<script(?! src=)|<style| style=| on\w+=|javascript:", page.text)
        assert page.headers["cache-control"] == "no-store"
        assert "immutable" in client.get(script).headers["cache-control"]
        other = re.sub(r"assets/\w+", "assets/000000000000", script)
        assert client.get(other).status_code == 404
        assert client.get("/console/assets/x/..%2Fapp.py").status_code == 404


def test_the_files_come_with_their_licences(api: Api) -> None:
    from service.api.console.assets import FOLDER

    for library in ("htmx", "idiomorph", "uPlot"):
        assert (FOLDER / f"{library}.LICENSE").read_text()


def test_a_page_that_is_not_there_and_one_that_cannot_be_read_say_so(api: Api) -> None:
    with browser(api, TOKEN) as client:
        for path, status in (("nowhere", 404), ("jobs/x", 404), ("jobs?before=x", 422)):
            answer = client.get(f"/console/{path}")
            assert answer.status_code == status
            assert answer.headers["content-type"].startswith("text/html")
        assert client.post("/console/jobs").status_code == 405
