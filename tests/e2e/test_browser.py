"""Debian's Chromium as a client: the README's own HTML, then pages that call the API.

All pages lie at an origin that is not the service's. A test fails if its page shows an error that
the test does not expect.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Error

from tests.support.browser import Site, Tab, html_in_readme
from tests.support.engines import expected_pcm
from tests.support.service import API_KEY, Service

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

PATIENCE_MS = 60_000
SPEED = 8  # of playing, to keep the tests short

SEED = 7
PARAGRAPH = (
    "It was a bright cold day in the hills, and the clock on the old tower had stopped again. "
    "Nobody in the village was surprised, for so it did each winter, when the oil grew thick. "
    "The baker opened his shop by the light in the east, the school by the smell of his bread. "
    "When at last the hands began to move, the bells rang four, and everyone went home to lunch."
)

MIME_TYPES = {"fmp4": 'audio/mp4; codecs="mp4a.40.2"', "webm": 'audio/webm; codecs="opus"'}
IN_CI = ["fmp4", pytest.param("webm", marks=pytest.mark.heavy)]
TOLERANCE_S = {"mp3": 3 * 576 / 24_000, "fmp4": 3 * 1024 / 24_000}
TOLERANCE_S["webm"] = 0.02 + 312 / 48_000 + 0.001  # the last packet's padding and Opus's pre-skip
TOLERANCE_S |= {"opus": 0.02, "aac": 3 * 1024 / 24_000, "wav": 0.001}
TOLERANCE_S["flac"] = 2304 / 24_000  # its last block is played, but not counted

SPEED_UP_AND_NOTE_FIRST_SOUND = """speed => {
    const audio = document.querySelector("audio");
    audio.defaultPlaybackRate = speed;
    audio.addEventListener("timeupdate", () => {
        if (audio.currentTime > 0) window.firstSoundAt ??= performance.now();
    });
}"""

ANSWER_ENDED_AT = """performance.getEntriesByType("resource")
    .find(entry => entry.name.includes("/tts/generate")).responseEnd"""

HOLD_ANSWERS_UNTIL_WHOLE = """pieceSize => {
    const realFetch = window.fetch;
    window.fetch = async url => {
        const whole = await (await realFetch(url)).arrayBuffer();
        const pieces = new ReadableStream({
            start(stream) {
                for (let at = 0; at < whole.byteLength; at += pieceSize)
                    stream.enqueue(new Uint8Array(whole.slice(at, at + pieceSize)));
                stream.close();
            },
        });
        return new Response(pieces);
    };
}"""


PLAY_ANSWER = """async ([url, options]) => {
    const audio = document.querySelector("audio");
    audio.src = URL.createObjectURL(await (await fetch(url, options)).blob());
    audio.play();
}"""


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    with Site.running() as site:
        yield site


@pytest_asyncio.fixture(loop_scope="session")
async def tab(browser: Browser, site: Site) -> AsyncIterator[Tab]:
    """An empty page, in a browser context of its own."""
    context = await browser.new_context()
    context.set_default_timeout(PATIENCE_MS)
    tab = Tab(await context.new_page(), site)
    await tab.show("<!DOCTYPE html>")
    yield tab
    await context.close()
    assert tab.complaints == []


# --- The README's HTML ---------------------------------------------------------------------------


@pytest.mark.covers("browser playback")
async def test_audio_tag_plays_mp3_to_the_end(preview: Service, tab: Tab) -> None:
    html = html_in_readme(uses_mse=False)
    await tab.show(with_real(html, preview, key="<YOUR_API_KEY>"))
    await tab.page.evaluate("document.querySelector('audio').play()")
    assert await seconds_played(tab) == pytest.approx(
        seconds_of("Hello world", preview), abs=TOLERANCE_S["mp3"]
    )
    assert sum("/tts/generate" in url for url in tab.requested) == 1


@pytest.mark.covers("browser playback")
@pytest.mark.parametrize("format", IN_CI)
async def test_mse_page_plays_during_generation(format: str, preview: Service, tab: Tab) -> None:
    await show_mse_page(tab, preview, format)
    await tab.page.fill("input", PARAGRAPH)
    await tab.page.click("button")
    assert await seconds_played(tab) == pytest.approx(
        seconds_of(PARAGRAPH, preview), abs=TOLERANCE_S[format]
    )
    first_sound_at = await tab.page.evaluate("firstSoundAt")
    assert first_sound_at < await tab.page.evaluate(ANSWER_ENDED_AT)


@pytest.mark.parametrize("piece_size", [64, 1_000_000])
@pytest.mark.parametrize("format", IN_CI)
async def test_mse_page_queues_data_that_arrives_faster_than_it_is_appended(
    format: str, piece_size: int, preview: Service, tab: Tab
) -> None:
    await show_mse_page(tab, preview, format)
    await tab.page.evaluate(HOLD_ANSWERS_UNTIL_WHOLE, piece_size)
    text = await tab.page.input_value("input")
    await tab.page.click("button")
    assert await seconds_played(tab) == pytest.approx(
        seconds_of(text, preview), abs=TOLERANCE_S[format]
    )


async def test_second_play_cancels_first_response(preview: Service, tab: Tab) -> None:
    await show_mse_page(tab, preview, "fmp4")
    await tab.page.fill("input", PARAGRAPH)
    await tab.page.click("button")
    await tab.page.wait_for_function("window.firstSoundAt")
    await tab.page.fill("input", "And now for something else.")
    await tab.page.click("button")
    assert await seconds_played(tab) < 5
    preview.wait_until(lambda: preview.busy() == 0)


async def show_mse_page(tab: Tab, service: Service, format: str) -> None:
    """The README's page, set to `format` by its constants."""
    html = with_real(html_in_readme(uses_mse=True), service, key="YOUR_API_KEY")
    constants = {'format = "fmp4"': f'format = "{format}"', MIME_TYPES["fmp4"]: MIME_TYPES[format]}
    await tab.show(replaced(html, constants))
    await tab.page.evaluate(SPEED_UP_AND_NOTE_FIRST_SOUND, SPEED)


def with_real(html: str, service: Service, *, key: str) -> str:
    """Insert the service's address and key, and a seed for reproducible speech."""
    route = "/tts/generate?"
    address = {f"http://localhost:8000{route}": f"{service.url}{route}seed={SEED}&"}
    return replaced(html, address | {key: API_KEY})


def replaced(html: str, real: dict[str, str]) -> str:
    for shown, meant in real.items():
        assert shown in html
        html = html.replace(shown, meant)
    return html


async def seconds_played(tab: Tab) -> float:
    """The length of the page's audio, once it has been played to its end."""
    await tab.page.wait_for_function("document.querySelector('audio').ended")
    seconds: float = await tab.page.evaluate("document.querySelector('audio').duration")
    return seconds


def seconds_of(text: str, service: Service) -> float:
    """Return the duration of the speech in PCM."""
    with service.client() as client:
        asked = {"text": text, "seed": SEED, "format": "raw_pcm"}
        return len(client.post("/tts/generate", json=asked).content) / 2 / 24_000


# --- Pages that call the API ---------------------------------------------------------------------


@pytest.mark.parametrize("format", ["opus", "aac", "flac"])
async def test_streamed_openai_format_plays_to_the_end(
    format: str, preview: Service, tab: Tab
) -> None:
    await tab.show("<!DOCTYPE html><audio></audio>")
    asked = {"input": "Hello world", "seed": SEED, "response_format": format}
    headers = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}
    options = {"method": "POST", "headers": headers, "body": json.dumps(asked)}
    await tab.page.evaluate(PLAY_ANSWER, [f"{preview.url}/v1/audio/speech", options])
    assert await seconds_played(tab) == pytest.approx(
        seconds_of("Hello world", preview), abs=TOLERANCE_S[format]
    )


async def test_any_origin_is_allowed_by_default(preview: Service, tab: Tab) -> None:
    for url, options in ways_to_ask(preview, "Hello."):
        status, headers, body = await tab.fetch(url, **options)
        assert status == 200
        assert body
        assert headers["x-tts-model"] == "preview"
        assert headers["x-request-id"]


@pytest.mark.covers("cross-origin requests")
async def test_only_listed_origins_are_allowed(start: Callable[..., Service], tab: Tab) -> None:
    service = start(CORS_ORIGINS=f"https://elsewhere.example, {tab.origin}")
    for url, options in ways_to_ask(service, "audio3"):
        status, _, body = await tab.fetch(url, **options)
        assert status == 200
        assert body == expected_pcm("audio3", SEED)

    await tab.page.goto(tab.origin.replace("127.0.0.1", "localhost"))
    tab.tolerated = ("blocked by CORS policy", "net::ERR_FAILED")
    for url, options in ways_to_ask(service, "audio3"):
        async with tab.page.expect_console_message(lambda message: "CORS policy" in message.text):
            with pytest.raises(Error, match="Failed to fetch"):
                await tab.fetch(url, **options)
    assert service.log().count("POST /tts/generate") == 1


async def test_cross_origin_page_can_read_wrong_key_error(preview: Service, tab: Tab) -> None:
    tab.tolerated = ("status of 401",)
    for url, options in ways_to_ask(preview, "Hello.", key="wrong"):
        status, headers, body = await tab.fetch(url, **options)
        assert status == 401
        assert json.loads(body)["error"]["code"] == "invalid_api_key"
        assert headers["x-request-id"]


def ways_to_ask(
    service: Service, text: str, key: str = API_KEY
) -> list[tuple[str, dict[str, Any]]]:
    """URL and `fetch` options of a plain GET, and of a POST that needs a preflight."""
    url = f"{service.url}/tts/generate"
    asked = {"text": text, "seed": SEED, "format": "raw_pcm"}
    headers = {"Content-Type": "application/json", "X-API-Key": key}
    return [
        (f"{url}?{urlencode(asked | {'api_key': key})}", {}),
        (url, {"method": "POST", "headers": headers, "body": json.dumps(asked)}),
    ]
