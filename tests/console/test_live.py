"""The console in a real browser: it follows what happens."""

from playwright.sync_api import expect

from tests.api import Api
from tests.console.conftest import Looker


def test_a_job_that_is_submitted_appears_by_itself(admin: Looker, service: Api) -> None:
    admin.open("/jobs")
    expect(admin.page.locator("#live")).to_have_text("live")

    job_id = service.submit()

    expect(admin.page.get_by_role("link", name=str(job_id)[:8])).to_be_visible()
    admin.open()
    expect(admin.page.get_by_role("heading", name="Needs somebody")).to_be_visible()
    admin.page.get_by_role("link", name="Jobs", exact=True).click()
    admin.page.get_by_role("link", name=str(job_id)[:8]).click()
    expect(admin.page.get_by_role("heading", level=1)).to_contain_text(str(job_id))
    admin.page.get_by_text("Cancel …").click()
    admin.page.get_by_role("button", name="Cancel").click()
    expect(admin.page.locator(".told")).to_contain_text("is being cancelled")
    admin.open("/lanes")
    expect(admin.page.get_by_role("heading", level=1)).to_have_text("Lanes")
