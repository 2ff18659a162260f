"""The console in a real browser: it follows what happens, and goes by keys."""

from playwright.sync_api import Browser, expect

from service.rules.credentials import Scope
from service.store.producers import add_credential, add_producer
from tests.api import Api
from tests.console.conftest import Looker, looking


def test_a_job_that_is_submitted_appears_by_itself_and_can_be_cancelled(
    admin: Looker, service: Api
) -> None:
    page = admin.page
    admin.open("/jobs")
    expect(page.locator("#live")).to_have_text("live")

    job_id = service.submit()

    expect(page.get_by_role("link", name=str(job_id)[:8])).to_be_visible()
    page.get_by_role("link", name=str(job_id)[:8]).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(str(job_id))
    page.get_by_text("Cancel …").click()
    service.harness.run(
        "UPDATE haulier.jobs SET succeeded = 1, pending = pending - 1 WHERE id = :id", id=job_id
    )
    expect(page.get_by_role("img", name="1 succeeded")).to_be_visible()
    # What is open stays open while the page follows.
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".told")).to_contain_text("is being cancelled")


def test_a_hidden_page_asks_for_nothing(admin: Looker) -> None:
    page = admin.page
    admin.open("/lanes")
    expect(page.locator("#live")).to_have_text("live")
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
    tell = "document.dispatchEvent(new Event('visibilitychange'))"

    page.evaluate(hide % "true" + tell)
    expect(page.locator("#live")).to_have_text("paused")
    page.evaluate(hide % "false" + tell)
    expect(page.locator("#live")).to_have_text("live")


def test_keys_search_move_open_and_explain(admin: Looker, service: Api) -> None:
    page = admin.page
    add_producer(service.db, "keyed")
    first, second = (service.harness.submitted(1, producer="keyed") for _ in range(2))
    admin.open("/jobs")

    page.keyboard.press("/")
    page.keyboard.type("producer:key", delay=120)  # each letter asks, and replaces the one before
    option = page.get_by_role("option", name="producer:keyed")
    expect(option).to_be_visible()
    page.keyboard.press("ArrowDown")
    expect(option).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    expect(page.get_by_role("combobox")).to_have_value("producer:keyed ")
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "q=producer%3Akeyed" in url)
    rows = page.locator("table.rows tbody tr")
    expect(rows).to_have_count(2)

    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    expect(rows.nth(0)).to_have_class("here")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text(str(first))
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.keyboard.press("g")
    page.keyboard.press("l")
    expect(page.get_by_role("heading", level=1)).to_have_text("Lanes")
    assert second != first


def test_a_producer_logs_in_and_sees_its_own_and_no_verb_that_it_may_not_use(
    browser: Browser, service: Api
) -> None:
    add_producer(service.db, "reader")
    own = service.harness.submitted(2, producer="reader")
    token = add_credential(service.db, "reader", scopes=[Scope.READ]).text
    with looking(browser, service.url) as looker:
        page = looker.page
        looker.open(f"/jobs/{own}")
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text(str(own))
        expect(page.get_by_text("producer:reader")).to_be_visible()
        expect(page.get_by_text("Cancel …")).to_have_count(0)
        looker.open("/jobs")
        expect(page.locator("table.rows tbody tr")).to_have_count(1)
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        looker.open("/jobs")
        expect(page.get_by_label("Token")).to_be_visible()
