"""The API behind a proxy that ends TLS: its URLs, and whose address a call has."""

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
from together import Together

from config.settings import Settings
from service.store.producers import add_producer
from tests.api import Api, chat, client, serving
from tests.eventually import eventually
from tests.tls_proxy import TlsProxy, tls_proxy
from tests.together_by_hand import chat_line, jsonl

TRUSTED: dict[str, Any] = {"trusted_proxies": (ip_network("127.0.0.0/8"),)}


def location(url: str, token: str, *, verify: Any = True, **headers: str) -> str:
    """Where Together's SDK is told to send the bytes of a file."""
    form = {"purpose": "batch-api", "file_name": "a.jsonl", "file_type": "jsonl"}
    answer = httpx.post(
        f"{url}/together/v1/files",
        files={name: (None, value) for name, value in form.items()},
        headers={"Authorization": f"Bearer {token}", **headers},
        verify=verify,
        trust_env=False,
    )
    assert answer.status_code == 302, answer.text
    return answer.headers["location"]


def upload(api: Api, proxy: TlsProxy, directory: Path) -> bytes:
    """What can be read of a file that the SDK has sent through the proxy."""
    path = directory / "in.jsonl"
    path.write_bytes(jsonl([chat_line("a")]))
    with httpx.Client(verify=proxy.trust, trust_env=False) as http:
        sdk = Together(
            base_url=f"{proxy.url}/together/v1",
            api_key=add_producer(api.db, "billing").text,
            http_client=http,
        )
        return sdk.files.content(sdk.files.upload(path, purpose="batch-api").id).read()


def test_an_upload_goes_through_the_proxy_that_is_trusted(
    api_settings: Settings, tmp_path: Path
) -> None:
    with (
        serving(api_settings.model_copy(update=TRUSTED)) as api,
        tls_proxy(api.url, tmp_path) as proxy,
    ):
        token = add_producer(api.db, "another").text
        url = location(proxy.url, token, verify=proxy.trust)
        assert url.startswith(f"{proxy.url}/together/v1/files/file-")
        assert upload(api, proxy, tmp_path)


def test_an_upload_goes_to_the_public_url_with_its_path(
    api_settings: Settings, tmp_path: Path
) -> None:
    with serving(api_settings) as inner, tls_proxy(inner.url, tmp_path, prefix="/queue") as found:
        # The settings are read once, so another API on the same database knows the proxy's URL.
        settings = api_settings.model_copy(update={"public_url": found.url})
        with serving(settings) as api, tls_proxy(api.url, tmp_path, prefix="/queue") as proxy:
            token = add_producer(api.db, "another").text
            url = location(proxy.url, token, verify=proxy.trust)
            assert url.startswith(f"{found.url}/together/v1/files/file-")
            answer = api.http.post("/v1/jobs", json=chat("a"))
            assert answer.headers["location"] == f"{found.url}/v1/jobs/{answer.json()['id']}"
        with httpx.Client(verify=found.trust, trust_env=False) as http:
            assert http.put(url, content=jsonl([chat_line("a")])).status_code == 200


def logged(capfd: pytest.CaptureFixture[str], text: str) -> str:
    """What is in the log once it holds a text: a line is written after its answer was sent."""
    seen: list[str] = []

    def found() -> str:
        seen.extend(capfd.readouterr())
        return "".join(seen) if text in "".join(seen) else ""

    return eventually(found)


def test_forwarded_headers_of_others_are_not_believed(
    api: Api, capfd: pytest.CaptureFixture[str]
) -> None:
    token = add_producer(api.db, "another").text
    said = {
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-For": "192.0.2.7",
    }

    assert location(api.url, token, **said).startswith(f"{api.url}/together/v1/files/file-")
    assert "192.0.2.7" not in logged(capfd, "127.0.0.1")


def test_who_calls_through_a_trusted_proxy_is_known_by_its_own_address(
    api_settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    few = {**TRUSTED, "failed_logins_per_minute": 3}
    with serving(api_settings.model_copy(update=few)) as api, client(api.url) as http:

        def status(address: str, token: str = "wrong") -> int:
            # What stands before the proxy's own entry is the client's invention.
            said = {"X-Forwarded-For": f"198.51.100.1, {address}"}
            headers = {"Authorization": f"Bearer {token}", **said}
            return http.get("/v1/jobs", headers=headers).status_code

        assert [status("192.0.2.1") for _ in range(4)] == [401, 401, 401, 429]
        assert status("192.0.2.2") == 401
        assert status("192.0.2.1", add_producer(api.db, "billing").text) == 200
    logged(capfd, "192.0.2.1")


@pytest.mark.parametrize("host", ["a b", "x/y", "evil.example@good.example", ""])
def test_a_forwarded_host_that_is_none_is_passed_over(api_settings: Settings, host: str) -> None:
    with serving(api_settings.model_copy(update=TRUSTED)) as api:
        token = add_producer(api.db, "another").text

        url = location(api.url, token, **{"X-Forwarded-Host": host})

        assert url.startswith(f"{api.url}/together/v1/files/file-")
