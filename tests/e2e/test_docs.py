"""`/docs` in Debian's Chromium: trying out the API."""

import pytest
from playwright.async_api import Browser, Route, expect

from tests.support.browser import Watched
from tests.support.service import API_KEY, Service

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

PATIENCE_MS = 30_000


async def test_reason_why_the_api_is_not_shown(browser: Browser, preview: Service) -> None:
    context = await browser.new_context()
    context.set_default_timeout(PATIENCE_MS)
    page = await context.new_page()
    await page.goto(f"{preview.url}/docs")
    answers = {
        "The server does not take this key.": (401, "invalid_api_key", "the key is wrong"),
        "Too many clients.": (503, "too_many_connections", "too many clients"),
    }
    coming = iter(answers.values())

    async def refuse(route: Route) -> None:
        status, code, message = next(coming)
        await route.fulfill(status=status, json={"error": {"code": code, "message": message}})

    await page.route("**/openapi.json", refuse)
    for shown in answers:
        await page.fill("#key", "a key")
        await page.press("#key", "Enter")
        await expect(page.locator("#problem")).to_have_text(shown)
    await context.close()


async def test_swagger_ui_works_without_other_hosts(browser: Browser, preview: Service) -> None:
    context = await browser.new_context()
    context.set_default_timeout(PATIENCE_MS)
    tab = Watched(await context.new_page())
    page = tab.page
    await page.goto(f"{preview.url}/docs")
    await page.fill("#key", API_KEY)
    await page.press("#key", "Enter")
    await expect(page.locator("#ask")).to_be_hidden()
    await page.reload()  # the key is kept
    with preview.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    await expect(page.locator(".opblock")).to_have_count(sum(map(len, paths.values())))

    speech = page.locator(".opblock-post", has=page.locator('[data-path="/tts/generate"]'))
    await speech.locator(".opblock-summary-control").click()
    await speech.get_by_role("button", name="Try it out").click()
    await speech.locator("textarea").fill('{"text": "Hello there."}')
    await speech.get_by_role("button", name="Execute").click()
    errors = speech.locator(".responses-table:not(.live-responses-table) .response")
    unknown = errors.filter(has_text="voice_not_found")
    await expect(unknown).not_to_contain_text("message")
    await unknown.get_by_role("button", name="Example").click()
    await expect(errors.filter(has_text="There is no voice")).to_be_visible()
    answer = speech.locator(".live-responses-table")
    await expect(answer.locator("tbody .response-col_status")).to_have_text("200")
    heard = answer.locator("audio")
    await heard.evaluate("audio => audio.play()")
    assert 0.5 < await heard.evaluate("audio => audio.duration") < 3

    assert tab.complaints == []
    assert all(url.startswith((f"{preview.url}/", "data:", "blob:")) for url in tab.requested)
    await context.close()
