"""Wrong tokens are throttled by address; those who know theirs do not notice."""

from collections.abc import Iterator

import httpx
import pytest

from config.settings import Settings
from service.api.failures import COUNTERS, Failures
from service.store.producers import add_producer
from tests.api import Api, problem, serving

UNKNOWN = f"haulier_{'0' * 16}_{'x' * 43}"


@pytest.fixture
def strict(api_settings: Settings) -> Iterator[Api]:
    """An API that takes three wrong tokens a minute from an address."""
    with serving(api_settings.model_copy(update={"failed_logins_per_minute": 3})) as api:
        yield api


def test_after_a_few_wrong_tokens_an_address_has_to_wait(strict: Api) -> None:
    for token in (UNKNOWN, "wrong", UNKNOWN):
        problem(get(strict, "/v1/jobs", token), 401)

    for path in ("/v1/jobs", "/v1/nothing"):
        answer = get(strict, path, UNKNOWN)
        assert problem(answer, 429)["type"] == "urn:haulier:problem:too-many-failures"
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    answer = get(strict, "/together/v1/batches", UNKNOWN)
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "too_many_failures"
    # A right token from the same address is not affected, and no token is no guess.
    assert strict.http.get("/v1/jobs").status_code == 200
    assert get(strict, "/v1/jobs", add_producer(strict.db, "billing").text).status_code == 200
    assert httpx.get(f"{strict.url}/v1/jobs", trust_env=False).status_code == 401


def get(api: Api, path: str, token: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.get(f"{api.url}{path}", headers=headers, trust_env=False)


def test_addresses_are_counted_for_themselves_and_networks_of_ipv6_as_one() -> None:
    failures = Failures(per_minute=1)
    assert failures.note("192.0.2.1") is None
    assert failures.note("192.0.2.1") is not None
    assert failures.note("2001:db8::1") is None
    assert failures.note("2001:db8::2") is not None


def test_no_number_of_addresses_takes_more_memory() -> None:
    failures = Failures(per_minute=1)
    for number in range(3 * COUNTERS):
        failures.note(f"10.0.{number // 256}.{number % 256}")

    assert len(failures.counters.storage) <= COUNTERS
