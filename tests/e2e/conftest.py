from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from tests.conftest import CHROMIUM
from tests.support.media import audio_file, tone

CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-background-networking",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    """Its microphone hears a tone."""
    heard = tmp_path_factory.mktemp("microphone") / "tone.wav"
    heard.write_bytes(audio_file(tone(2)))
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=(*CHROMIUM_ARGUMENTS, f"--use-file-for-fake-audio-capture={heard}"),
        )
        yield browser
        await browser.close()
