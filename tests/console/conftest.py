"""One service, one browser and one week of work for all tests of the console."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from config.settings import Settings
from tests.api import TOKEN, Api, serving
from tests.console.world import World
from tests.factories import MODEL
from tests.servers import Databases

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PRICES = f'{{"{MODEL}": [{{"from": "2026-01-01", "input": 0.88, "output": 0.88}}]}}'
SETTINGS = {"admin_token": TOKEN, "failed_logins_per_minute": 100_000, "prices": PRICES}


@dataclass
class Looker:
    """Somebody who looks at the console in the browser; what their browser complains of."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str = "/") -> None:
        self.page.goto(f"{self.url}/console{path}")

    def log_in(self, token: str = TOKEN) -> None:
        self.open("/login")
        self.page.get_by_label("Token").fill(token)
        self.page.get_by_role("button", name="Log in").click()
        self.page.wait_for_url(lambda url: "/login" not in url)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The API with its console, in a thread of this process."""
    owners_url = databases.create()
    settings = Settings.model_validate(
        {
            "DATABASE_URL": databases.runtime(owners_url),
            "blob_url": tmp_path_factory.mktemp("blobs").as_uri(),
            **SETTINGS,
        }
    )
    with serving(settings) as running:
        yield running
    databases.give_back(owners_url)


@pytest.fixture(scope="session")
def world(service: Api) -> World:
    """Work of every kind behind the service. Tests that change it make their own jobs."""
    return World(service)


@contextmanager
def looking(browser: Browser, url: str, **options: Any) -> Iterator[Looker]:
    """A window of the browser. Whatever its console says at the end is an error."""
    context: BrowserContext = browser.new_context(**options)
    context.set_default_timeout(15_000)
    looker = Looker(context.new_page(), url)
    looker.page.on(
        "console",
        lambda said: (
            looker.complaints.append(said.text) if said.type in {"error", "warning"} else None
        ),
    )
    looker.page.on("pageerror", lambda error: looker.complaints.append(str(error)))
    yield looker
    context.close()
    assert looker.complaints == []


@pytest.fixture(scope="session")
def admin_state(browser: Browser, service: Api) -> Any:
    """The cookies of somebody who is logged in with the admin token."""
    with looking(browser, service.url) as looker:
        looker.log_in()
        return looker.page.context.storage_state()


@pytest.fixture
def admin(browser: Browser, service: Api, admin_state: Any) -> Iterator[Looker]:
    """A window of somebody who is logged in with the admin token."""
    with looking(browser, service.url, storage_state=admin_state) as looker:
        yield looker
