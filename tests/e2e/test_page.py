"""The web page in Debian's Chromium, with typing, clicks and playback.

A test fails if the page shows an error that the test does not expect, or asks another host.
"""

import asyncio
import base64
import json
import subprocess
import unicodedata
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, FilePayload, Locator, Page, Route, expect

from app.voices.names import validate_voice_id
from tests.support.browser import Watched
from tests.support.media import audio_file, tone
from tests.support.recogniser import decode_audio
from tests.support.service import API_KEY, ROOT, SCRIPTED, Service, running_service

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

PATIENCE_MS = 30_000
SEED = 7
FORMATS = ("fmp4", "webm", "mp3", "wav", "raw_pcm")
SENTENCE = "The baker opened his shop by the light in the east, and then he went home again."
PAIR = f"{SENTENCE} {SENTENCE}"
RECORDING = audio_file(tone(2))
LONG = " ".join([SENTENCE] * 40)
BAD = "rgb(168, 37, 29)"
VALID_VOICE_IDS = {
    "Großmutter (1).wav": "Großmutter _1_.wav",
    "..what?\n.MP3": "what__.MP3",
    "声: e\u0301 ½.opus": "声_ é ½.opus",
    "😀.wav": "_.wav",
    ".wav": "_.wav",
    "a" * 200 + ".wav": "a" * 124 + ".wav",
    "語" * 100 + ".wav": "語" * 83 + ".wav",
}
"""By the name of an uploaded file."""
NASTY = 'It\'s "so" `id` $HOME $(id) \\n\nnew line & <b> 100% ?#+ 😀 !! é'

COLUMN_HEIGHTS = """canvas => {
    const { width, height } = canvas;
    const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
    const drawn = (x, y) => pixels[4 * (y * width + x) + 3] > 0;
    const rows = [...Array(height).keys()];
    const heights = [...Array(width).keys()].map(x => rows.filter(y => drawn(x, y)).length);
    return heights.map(drawn => drawn === height ? 0 : drawn);  // without the playhead
}"""

COUNT_OBJECT_URLS = """
    const live = new Set();
    const { createObjectURL, revokeObjectURL } = URL;
    URL.createObjectURL = thing => {
        const url = createObjectURL.call(URL, thing);
        live.add(url);
        return url;
    };
    URL.revokeObjectURL = url => { live.delete(url); revokeObjectURL.call(URL, url); };
    window.liveObjectUrls = () => live.size;
"""

BUFFER_TAKES_SECONDS = """
    const { appendBuffer } = SourceBuffer.prototype;
    window.refusals = 0;
    SourceBuffer.prototype.appendBuffer = function (bytes) {
        const { buffered } = this;
        if (buffered.length && buffered.end(0) - buffered.start(0) > 14) {
            window.refusals += 1;
            throw new DOMException("full", "QuotaExceededError");
        }
        return appendBuffer.call(this, bytes);
    };
"""

CLOSES_LATE_AND_ONCE = """
    const { close } = AudioContext.prototype;
    const closing = new WeakSet();
    AudioContext.prototype.close = async function () {
        if (closing.has(this)) throw new DOMException("Can't close an AudioContext twice");
        closing.add(this);
        await new Promise(later => setTimeout(later, 100));
        return close.call(this);
    };
"""
"""As in Firefox, where the context's state is "running" until it is closed."""

BLOCKS_THE_FIRST_PLAY = """
    const { play } = HTMLMediaElement.prototype;
    HTMLMediaElement.prototype.play = async function () {
        HTMLMediaElement.prototype.play = play;
        throw new DOMException("no click", "NotAllowedError");
    };
"""

DROP = """([name, content]) => {
    const dataTransfer = new DataTransfer();
    const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
    dataTransfer.items.add(new File([bytes], name));
    const zone = document.querySelector(".drop");
    zone.dispatchEvent(new DragEvent("drop", { dataTransfer, cancelable: true }));
}"""

DROP_BESIDE = """kind => {
    const dataTransfer = new DataTransfer();
    if (kind === "Files") dataTransfer.items.add(new File(["sound"], "a.wav"));
    else dataTransfer.setData(kind, "words");
    const drop = new DragEvent("drop", { dataTransfer, cancelable: true, bubbles: true });
    return document.body.dispatchEvent(drop) ? "left to the browser" : "prevented";
}"""

Open = Callable[..., Awaitable[Watched]]


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(browser: Browser) -> AsyncIterator[Open]:
    """`await open_page(service)` opens the page in a browser with or without a stored key."""
    opened: list[tuple[Watched, Service]] = []

    async def open_page(
        service: Service, *, key: str = API_KEY, script: str = "", **options: Any
    ) -> Watched:
        context = await browser.new_context(**options)
        context.set_default_timeout(PATIENCE_MS)
        tab = Watched(await context.new_page())
        opened.append((tab, service))
        await tab.page.add_init_script(script)
        await tab.page.goto(service.url)
        if key:
            await enter_key(tab.page, key)
            await expect(tab.page.locator("#parameters label")).to_have_count(15)
        return tab

    yield open_page
    for tab, _ in opened:
        await tab.page.context.close()
    for tab, service in opened:
        assert tab.complaints == []
        assert all(url.startswith((f"{service.url}/", "blob:")) for url in tab.requested)
        assert not [url for url in tab.requested if API_KEY in url]


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One slot, no queue, and a voice that cannot be deleted."""
    folder = tmp_path_factory.mktemp("page")
    with running_service(
        folder, MAX_QUEUED_REQUESTS=0, PRELOADED_VOICES_DIR=ROOT / "preloaded-voices"
    ) as service:
        yield service


async def enter_key(page: Page, key: str = API_KEY) -> None:
    await page.fill("#key", key)
    await page.press("#key", "Enter")


async def open_parameters(page: Page) -> None:
    await page.locator("#parameters-details").evaluate("details => { details.open = true; }")


async def upload(page: Page, name: str, content: bytes = RECORDING) -> None:
    file: FilePayload = {"name": name, "mimeType": "audio/wav", "buffer": content}
    await page.set_input_files("#upload", file)


async def speak(page: Page, text: str, format: str = "fmp4", seed: int | None = SEED) -> None:
    await page.fill("#text", text)
    await page.select_option("#format", format)
    if seed is not None:
        await open_parameters(page)
        await page.fill("#parameter-seed", str(seed))
    await page.click("#speak")


async def figure(page: Page, name: str) -> float | None:
    """Return a number from the figures below the waveform; None if a dash is shown."""
    text = await page.locator("#figures > div", has_text=name).locator("dd").inner_text()
    return None if text == "–" else float(text.removesuffix(" s"))


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(PATIENCE_MS / 1000):
        while not await condition():  # noqa: ASYNC110 - the page sends no event
            await asyncio.sleep(0.05)


async def file_of(link: Locator) -> tuple[str, bytes]:
    async with link.page.expect_download() as download:
        await link.click()
    saved = await download.value
    content = await asyncio.to_thread((await saved.path()).read_bytes)
    return saved.suggested_filename, content


def pcm_of(service: Service, text: str) -> Any:
    with service.client() as client:
        asked = {"text": text, "seed": SEED, "format": "raw_pcm"}
        return decode_audio(client.post("/tts/generate", json=asked).content, "raw_pcm")


# --- Speaking -------------------------------------------------------------------------------------


async def test_audio_plays_and_is_drawn_during_generation(
    open_page: Open, preview: Service
) -> None:
    page = (await open_page(preview)).page
    status = page.locator("#status")
    await expect(page.locator("#notice")).to_contain_text("This is the built-in preview voice")
    await expect(status.locator("li")).to_have_count(2)
    await expect(status).to_contain_text("0 running, 0 of at most 100 waiting")
    await speak(page, LONG)
    await until(lambda: figure(page, "First sound"))
    assert await page.inner_text("#state") == "Speaking, while the rest is being made…"
    first_byte, first_sound = await figure(page, "First byte"), await figure(page, "First sound")
    assert 0 < (first_byte or 0) < (first_sound or 0)
    assert await figure(page, "Real-time factor") is None
    at = await page.evaluate("audio.currentTime")
    await until(lambda: page.evaluate("at => audio.currentTime > at + 0.5", at))
    assert max(await page.locator("#waveform").evaluate(COLUMN_HEIGHTS)) > 20
    await expect(status).to_contain_text("1 of 1 slots busy")
    await page.click("#stop")
    await expect(page.locator("#state")).to_have_text("Stopped.")
    await expect(status).to_contain_text("0 running, 0 of at most 100 waiting")
    preview.wait_until(lambda: preview.busy() == 0)


@pytest.mark.parametrize("format", ["fmp4", pytest.param("raw_pcm", marks=pytest.mark.heavy)])
async def test_received_audio_stays_after_stop(
    format: str, open_page: Open, preview: Service
) -> None:
    page = (await open_page(preview, script=CLOSES_LATE_AND_ONCE)).page
    await speak(page, LONG, format)
    await until(lambda: figure(page, "First sound"))
    await page.keyboard.press("Escape")
    await expect(page.locator("#state")).to_have_text("Stopped.")
    name, content = await file_of(page.locator("#download"))
    assert name.startswith("speech-incomplete.")
    seconds = await figure(page, "Audio") or 0
    assert len(decode_audio(content, format)) / 24_000 == pytest.approx(seconds, abs=0.12)
    assert await page.evaluate("audio.paused")
    await page.evaluate("audio.playbackRate = 8; audio.play()")
    await until(lambda: page.evaluate("audio.ended"))
    assert await page.evaluate("audio.currentTime") == pytest.approx(seconds, abs=0.12)
    await expect(page.locator("#failure")).to_be_empty()
    if format == "raw_pcm":  # of fmp4, the next speech plays at once
        await page.evaluate("audio.currentTime = 0; audio.play()")
        await page.click("#speak")
        assert await page.evaluate("audio.paused")


@pytest.mark.parametrize(
    "format", ["fmp4", *(pytest.param(each, marks=pytest.mark.heavy) for each in FORMATS[1:])]
)
async def test_each_format_is_drawn_and_can_be_saved(
    format: str, open_page: Open, preview: Service
) -> None:
    tab = await open_page(preview)
    tab.tolerated = ("willReadFrequently",)  # this test reads
    page = tab.page
    await speak(page, PAIR, format)
    await expect(page.locator("#download")).to_be_visible()
    await until(lambda: figure(page, "First sound"))
    name, content = await file_of(page.locator("#download"))
    sound = decode_audio(content, format)
    assert name == f"speech.{ {'fmp4': 'mp4', 'raw_pcm': 'pcm'}.get(format, format) }"
    expected = pcm_of(preview, PAIR)
    if format in ("wav", "raw_pcm"):
        assert np.array_equal(sound, expected)
    if format == "wav":
        assert int.from_bytes(content[40:44], "little") == len(content) - 44
    assert len(sound) == pytest.approx(len(expected), abs=3000)
    assert await figure(page, "Audio") == pytest.approx(len(sound) / 24_000, abs=0.12)

    async def is_drawn() -> bool:
        heights = np.array(await page.locator("#waveform").evaluate(COLUMN_HEIGHTS), float)
        return similarity(heights, sound) > 0.95

    # The last audio may still be decoding, or the playhead may cover a loud bar.
    await until(is_drawn)


async def test_short_audio_fills_the_waveform_when_complete(
    open_page: Open, scripted: Service
) -> None:
    tab = await open_page(scripted)
    tab.tolerated = ("willReadFrequently",)  # this test reads
    page = tab.page
    await speak(page, "audio25 sleep2 audio25", "wav", seed=None)
    canvas = page.locator("#waveform")

    async def drawn() -> float:
        heights = np.array(await canvas.evaluate(COLUMN_HEIGHTS))[1::3]
        return float((heights > 20).mean())

    await until(drawn)
    assert await drawn() < 0.3
    await expect(page.locator("#state")).to_have_text("Done.")
    assert await drawn() > 0.95
    await canvas.click(position={"x": 3, "y": 20})
    assert await page.evaluate("audio.currentTime") < 0.1


def similarity(heights: Any, sound: Any) -> float:
    """Return the correlation of the drawn bars, 3 pixels each, with the audio's peaks."""
    peaks = [np.abs(sound[start : start + 480]).max() for start in range(0, len(sound), 480)]
    bars = heights[1::3][: len(heights) // 3]
    expected = np.zeros(len(bars))
    np.maximum.at(expected, np.arange(len(peaks)) * len(bars) // len(peaks), peaks)
    return float(np.corrcoef(bars, expected)[0, 1])


async def test_runs_are_charted_replayed_and_leak_no_object_url(
    open_page: Open, preview: Service
) -> None:
    page = (await open_page(preview, script=COUNT_OBJECT_URLS + CLOSES_LATE_AND_ONCE)).page
    for number, format in enumerate(FORMATS, start=1):
        await speak(page, "Hello there.", format)
        await expect(page.locator("#runs tbody tr")).to_have_count(number)
        await expect(page.locator("#download")).to_be_visible()
        await expect(page.locator("#state")).to_have_text("Done.")
    label = await page.locator("#runs svg").last.get_attribute("aria-label") or ""
    assert label.endswith(f"{await figure(page, 'First sound'):.2f} s")
    assert await page.evaluate("liveObjectUrls()") <= 2
    preview.wait_until(lambda: preview.busy() == 0)
    await expect(page.locator("#audio")).to_be_visible()
    await page.evaluate("audio.currentTime = 0; audio.play()")
    await until(lambda: page.evaluate("audio.ended"))
    await expect(page.locator("#answer")).to_contain_text("preview")


async def test_full_source_buffer_evicts_played_audio(open_page: Open, preview: Service) -> None:
    page = (await open_page(preview, script=BUFFER_TAKES_SECONDS)).page
    await page.evaluate("audio.defaultPlaybackRate = 8")
    await speak(page, " ".join([SENTENCE] * 6))
    await expect(page.locator("#state")).to_have_text("Done.", timeout=60_000)
    assert await page.evaluate("refusals") > 0
    made_s = await figure(page, "Audio")
    await until(lambda: page.evaluate("audio.readyState > 0"))  # the complete file was loaded again
    assert await page.evaluate("audio.duration") == pytest.approx(made_s, abs=0.2)


# --- Failures -------------------------------------------------------------------------------------


async def test_full_queue_shows_a_message(open_page: Open, scripted: Service) -> None:
    tab = await open_page(scripted)
    tab.tolerated = ("status of 429",)
    with scripted.client() as client:
        asked = {"text": "audio1 sleep30", "format": "raw_pcm"}
        with client.stream("POST", "/tts/generate", json=asked) as answer:
            pieces = answer.iter_raw()
            next(pieces)
            await speak(tab.page, "audio1", seed=None)
            failure = tab.page.locator("#failure")
            await expect(failure).to_have_text(
                "The server is busy, and its queue is full. Try again in 5 s."
            )
            await expect(tab.page.locator("#state")).to_have_text("Nothing was made.")
            await expect(tab.page.locator("#audio")).to_be_hidden()
            await expect(tab.page.locator("#status")).to_contain_text("1 of 1 slots busy")
    scripted.wait_until(lambda: scripted.busy() == 0)


async def test_blocked_autoplay_shows_a_message_until_it_plays(
    open_page: Open, preview: Service
) -> None:
    page = (await open_page(preview, script=BLOCKS_THE_FIRST_PLAY)).page
    await speak(page, "Hello there.")
    await expect(page.locator("#download")).to_be_visible()
    failure = page.locator("#failure")
    await expect(failure).to_have_text("Your browser waits for you to press play.")
    await page.evaluate("audio.play()")
    await expect(failure).to_be_empty()
    await expect(page.locator("#state")).to_have_text("Done.")


async def test_undecodable_audio_shows_a_message_and_can_be_saved(
    open_page: Open, preview: Service
) -> None:
    page = (await open_page(preview)).page
    await page.route("**/tts/generate", damage)
    await speak(page, PAIR)
    failure = page.locator("#failure")
    told = "This browser cannot play that; try another format."
    await expect(failure).to_have_text(told, timeout=PATIENCE_MS)  # it plays the first half before
    await expect(page.locator("#state")).to_have_text("Made, but not heard.")
    await expect(page.locator("#stop")).to_be_disabled()
    name, _ = await file_of(page.locator("#download"))
    assert name == "speech.mp4"


async def damage(route: Route) -> None:
    """Corrupt every fmp4 frame in the second half."""
    answer = await route.fetch()
    sound = bytearray(await answer.body())
    at = 0
    while at < len(sound):
        size, name = int.from_bytes(sound[at : at + 4]), sound[at + 4 : at + 8]
        if name == b"mdat" and at > len(sound) / 2:
            sound[at + 8 : at + size] = bytes([255]) * (size - 8)
        at += size
    await route.fulfill(response=answer, body=bytes(sound))


@pytest.mark.parametrize("format", [pytest.param("fmp4", marks=pytest.mark.heavy), "wav"])
async def test_aborted_response_is_shown_as_incomplete(
    format: str, open_page: Open, scripted: Service
) -> None:
    tab = await open_page(scripted)
    tab.tolerated = ("ERR_INCOMPLETE_CHUNKED_ENCODING",)
    await speak(tab.page, "audio50 sleep2 raise", format, seed=None)
    await expect(tab.page.locator("#failure")).to_contain_text("The answer broke off after")
    await expect(tab.page.locator("#state")).to_have_text("Not complete.")
    await expect(tab.page.locator("#audio")).to_be_visible()
    name, _ = await file_of(tab.page.locator("#download"))
    assert name.startswith("speech-incomplete.")
    assert await figure(tab.page, "Real-time factor") is None


@pytest.mark.parametrize("format", [pytest.param("fmp4", marks=pytest.mark.heavy), "raw_pcm"])
async def test_response_without_audio_shows_a_message(
    format: str, open_page: Open, scripted: Service
) -> None:
    page = (await open_page(scripted)).page
    await open_parameters(page)
    await page.fill("#parameter-remove_leading_milliseconds", "5000")
    await speak(page, "audio5", format, seed=None)
    await expect(page.locator("#failure")).to_have_text("The answer has no sound in it.")
    await expect(page.locator("#stop")).to_be_disabled()


async def test_server_error_is_shown_with_its_message(open_page: Open, scripted: Service) -> None:
    tab = await open_page(scripted)
    tab.tolerated = ("status of 400", "status of 413")
    failure = tab.page.locator("#failure")
    await speak(tab.page, "...", seed=None)
    await expect(failure).to_have_text("There is nothing in this text that can be spoken.")
    await speak(tab.page, "x" * 20_001, seed=None)
    await expect(failure).to_have_text(
        "The text has 20001 characters, 20000 are allowed (MAX_TEXT_LENGTH)."
    )
    await expect(tab.page.locator("#count")).to_have_class("small over")
    await speak(tab.page, "audio1", seed=None)
    await expect(failure).to_be_empty()


async def test_number_out_of_bounds_is_marked_and_not_sent(
    open_page: Open, scripted: Service
) -> None:
    tab = await open_page(scripted)
    page, failure = tab.page, tab.page.locator("#failure")
    await open_parameters(page)
    for button, name, value, bounds in (
        ("Speak", "seed", "-1", "a whole number, 0 to 4294967295."),
        ("Speak", "seed", "1.5", "a whole number, 0 to 4294967295."),
        ("Hear austen.wav", "top_p", "0", "a number, above 0 to 1."),
    ):
        field = page.locator(f"#parameter-{name}")
        await field.fill(value)
        await page.get_by_role("button", name=button).click()
        await expect(field).to_be_focused()
        await expect(failure).to_have_text(f"{name} must be {bounds}")
        await expect(field).to_have_css("color", BAD)
        await field.fill("")
        await expect(failure).to_be_empty()
        await expect(field).not_to_have_css("color", BAD)
    assert not [url for url in tab.requested if "tts" in url]


async def test_unreachable_or_starting_server_shows_a_message(
    open_page: Open, tmp_path: Path
) -> None:
    service = Service(tmp_path, {"MODEL": "tests.support.engines:LoadingEngine"})
    try:
        service.wait_until(service.answers, 30)
        tab = await open_page(service)
        tab.tolerated = ("status of 503", "ERR_CONNECTION_REFUSED", "ERR_EMPTY_RESPONSE")
        tab.tolerated += ("ERR_CONNECTION_RESET",)
        pill = tab.page.locator("#service")
        await expect(pill).to_contain_text("warms up")
        await speak(tab.page, "audio1", seed=None)
        await expect(tab.page.locator("#failure")).to_contain_text("Try again in 5 s.")
        (service.folder / "go").touch()
        await expect(pill).to_contain_text("Ready")
        tab.complaints.clear()  # those of before `tolerated` was set
    finally:
        service.stop()
    await expect(pill).to_contain_text("The server cannot be reached.")
    await expect(tab.page.locator("#status")).to_have_text("No answer.")
    await tab.page.click("#speak")
    await expect(tab.page.locator("#failure")).to_contain_text("The server cannot be reached.")


# --- The key --------------------------------------------------------------------------------------


async def test_key_is_requested_until_it_is_right_and_can_be_forgotten(
    open_page: Open, scripted: Service
) -> None:
    tab = await open_page(scripted, key="")
    tab.tolerated = ("status of 401",)
    page, dialog = tab.page, tab.page.locator("#key-dialog")
    for wrong in (f"{API_KEY}x", "schlüssel", "鍵"):
        await enter_key(page, wrong)
        failure = page.locator("#key-failure")
        await expect(failure).to_have_text("The server does not take this key.")
        assert await page.evaluate("localStorage.length") == 0
    await enter_key(page)
    await expect(dialog).to_be_hidden()
    await page.reload()
    await expect(page.locator("#voices li")).to_have_count(4)
    await expect(dialog).to_be_hidden()
    await page.evaluate("localStorage.setItem('chatterbox-tts-key', 'old')")
    await page.reload()
    await expect(dialog).to_be_visible()
    await expect(page.locator("#key-failure")).to_contain_text("no longer takes the key")
    await enter_key(page)
    await expect(dialog).to_be_hidden()
    await page.click("#key-button")
    await page.click("#key-forget")
    assert await page.evaluate("localStorage.length") == 0
    await page.reload()
    await expect(dialog).to_be_visible()


async def test_revoked_key_is_requested_once_and_choices_are_kept(
    open_page: Open, scripted: Service
) -> None:
    tab = await open_page(scripted)
    tab.tolerated = ("status of 401",)
    page, dialog = tab.page, tab.page.locator("#key-dialog")
    await page.select_option("#format", "mp3")
    await open_parameters(page)
    await page.fill("#parameter-seed", "7")
    await page.route("**/system-status", revoked)
    await expect(dialog).to_be_visible()
    await page.keyboard.press("Escape")
    for _ in range(3):
        async with page.expect_response("**/ready"):
            await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await expect(page.locator("#status")).to_have_text("Needs the key.")
    await expect(dialog).to_be_hidden()
    await upload(page, "a.wav")
    await expect(dialog).to_be_visible()
    await expect(page.locator("#key-failure")).to_be_empty()
    await page.unroute_all()
    await enter_key(page)
    await expect(page.locator("#status")).to_contain_text("slots busy")
    await expect(page.locator("#format")).to_have_value("mp3")
    await expect(page.locator("#parameter-seed")).to_have_value("7")


async def revoked(route: Route) -> None:
    await route.fulfill(status=401, json={"error": {"message": "no", "code": "invalid_api_key"}})


async def test_pending_text_is_spoken_after_key_is_entered(
    open_page: Open, scripted: Service
) -> None:
    tab = await open_page(scripted, key="")
    tab.tolerated = ("status of 401",)
    page, dialog = tab.page, tab.page.locator("#key-dialog")
    await page.keyboard.press("Escape")
    await page.fill("#text", "audio5")
    await page.click("#speak")
    await expect(dialog).to_be_visible()
    await page.click("#key-cancel")
    await page.click("#key-button")
    await enter_key(page)
    await expect(page.locator("#parameters label")).to_have_count(15)
    assert not [url for url in tab.requested if "tts" in url]

    await page.click("#key-button")
    await page.click("#key-forget")
    await page.click("#speak")
    await enter_key(page)
    await expect(page.locator("#state")).to_have_text("Done.")

    await page.route("**/tts/generate", revoked)
    await page.click("#speak")
    await expect(page.locator("#key-failure")).to_contain_text("no longer takes the key")
    await page.unroute_all()
    await enter_key(page)
    await expect(page.locator("#state")).to_have_text("Done.")
    await expect(page.locator("#failure")).to_be_empty()


async def test_key_is_shared_by_all_tabs(open_page: Open, scripted: Service) -> None:
    page = (await open_page(scripted)).page
    other = await page.context.new_page()
    await other.goto(scripted.url)
    await expect(other.locator("#voices li")).to_have_count(4)
    await other.click("#key-button")
    await other.click("#key-forget")
    await expect(page.locator("#key-button")).to_have_text("Enter the key…")
    await other.click("#key-button")
    await enter_key(other)
    await expect(page.locator("#status")).to_contain_text("slots busy")


# --- Models ---------------------------------------------------------------------------------------


@pytest.fixture
def several(tmp_path: Path) -> Iterator[Service]:
    models = f"{SCRIPTED},tests.support.engines:OtherEngine"
    with running_service(tmp_path, MODEL=models) as service:
        service.wait_until(service.all_ready)
        yield service


async def test_one_of_several_models_is_chosen_and_speaks(
    several: Service, open_page: Open
) -> None:
    page = (await open_page(several)).page
    await expect(page.locator("#model option")).to_have_text(["scripted", "other"])
    await page.select_option("#model", "other")
    await expect(page.locator("#snippets")).to_contain_text("other")
    await expect(page.locator("#language option")).to_have_text(["English", "German"])
    await page.select_option("#language", label="German")
    await page.fill("#text", "other")
    await page.get_by_role("button", name="[laugh]").click()
    await expect(page.locator("#text")).to_have_value("other [laugh]")
    await expect(page.locator("#snippets")).to_contain_text('"language":"de"')
    await page.click("#speak")
    await expect(page.locator("#answer")).to_contain_text("other")


async def test_the_only_model_is_not_to_be_chosen(open_page: Open, scripted: Service) -> None:
    page = (await open_page(scripted)).page
    await expect(page.locator("#model")).to_be_hidden()
    await expect(page.locator("#language")).to_be_hidden()
    await expect(page.locator("#tags")).to_be_hidden()


# --- Voices ---------------------------------------------------------------------------------------


async def test_voice_is_added_played_replaced_and_deleted(
    open_page: Open, scripted: Service
) -> None:
    tab = await open_page(scripted)
    tab.tolerated = ("status of 409",)
    page, voices = tab.page, tab.page.locator("#voices")
    await upload(page, "my voice.wav")
    await expect(voices).to_contain_text("“my voice.wav” is added and chosen.")
    await expect(page.get_by_role("radio", name="my voice.wav")).to_be_checked()
    uploaded = page.locator("#voices li", has_text="my voice.wav")
    await expect(uploaded.get_by_role("button")).to_have_count(2)
    await expect(uploaded).not_to_contain_text("preloaded")
    preloaded = page.locator("#voices li", has_text="austen.wav")
    await expect(preloaded.get_by_role("button")).to_have_count(1)
    await expect(preloaded).to_contain_text("preloaded")
    await page.click("#speak")
    await expect(page.locator("#failure")).to_be_empty()

    async with page.expect_request("**/tts/generate") as request:
        await page.get_by_role("button", name="Hear my voice.wav").click()
    sent = (await request.value).post_data_json
    assert (sent["voice_id"], sent["text"]) == ("my voice.wav", "This is how I sound.")

    await upload(page, "my voice.wav")
    await page.get_by_role("button", name="Replace it").click()
    await expect(voices).to_contain_text("“my voice.wav” is added and chosen.")
    await page.get_by_role("button", name="Delete my voice.wav").click()
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.get_by_role("radio", name="my voice.wav")).to_be_visible()
    await page.get_by_role("button", name="Delete my voice.wav").click()
    await page.get_by_role("button", name="Delete", exact=True).click()
    await expect(voices).to_contain_text("“my voice.wav” is deleted.")
    await expect(page.get_by_role("radio", name="Default voice")).to_be_checked()
    with scripted.client() as client:
        assert "my voice.wav" not in client.get("/voices").json()


async def test_voice_deleted_elsewhere_disappears(open_page: Open, scripted: Service) -> None:
    tab = await open_page(scripted)
    tab.tolerated = ("status of 404",)
    page, voices = tab.page, tab.page.locator("#voices")
    for name, button, told in (
        ("asked.wav", "Speak", "There is no voice 'asked.wav'."),
        ("deleted.wav", "Delete deleted.wav", "“deleted.wav” is deleted."),
    ):
        await upload(page, name)
        await expect(page.get_by_role("radio", name=name)).to_be_checked()
        with scripted.client() as client:
            client.delete(f"/voices/{name}").raise_for_status()
        await page.get_by_role("button", name=button).click()
        if "Delete" in button:
            await page.get_by_role("button", name="Delete", exact=True).click()
        await expect(page.locator("main")).to_contain_text(told)
        await expect(voices.locator("li")).to_have_count(4)
        await expect(page.get_by_role("radio", name="Default voice")).to_be_checked()
    await expect(page.get_by_role("radio", name="Default voice")).to_be_focused()


async def test_dropped_files_of_existing_names_are_confirmed_in_turn(
    open_page: Open, scripted: Service
) -> None:
    tab = await open_page(scripted)
    tab.tolerated = ("status of 409",)
    page, names = tab.page, ("first.wav", "second.wav")
    assert await page.evaluate(DROP_BESIDE, "Files") == "prevented"
    assert await page.evaluate(DROP_BESIDE, "text/plain") == "left to the browser"
    with scripted.client() as client:
        for name in names:
            client.post("/voices", files={"file": (name, RECORDING)}).raise_for_status()
        for name in names:
            async with page.expect_response("**/voices"):
                await page.evaluate(DROP, [name, ""])
        for name in names:
            await expect(page.locator("#question-text")).to_contain_text(name)
            await expect(page.get_by_role("button", name="Replace it")).to_be_visible()
            await page.keyboard.press("Escape")
        await expect(page.locator("#question")).to_be_hidden()
        for name in names:
            client.delete(f"/voices/{name}").raise_for_status()


async def test_reason_of_a_rejected_voice_is_shown_until_a_voice_is_used(
    open_page: Open, scripted: Service
) -> None:
    tab = await open_page(scripted)
    tab.tolerated = ("status of 422",)
    page, failure = tab.page, tab.page.locator("#voices .failure")
    await page.fill("#text", "audio5")
    for name, content, reason, use in (
        ("a.wav", b"no sound", "not", page.get_by_role("button", name="Speak", exact=True)),
        (
            "a.wav",
            audio_file(tone(0.2)),
            "shorter",
            page.get_by_role("button", name="Hear austen.wav"),
        ),
        (
            "a.wav.txt",
            b"no sound",
            "“a.wav.txt” is no recording that can be used: ",
            page.get_by_role("radio", name="austen.wav"),
        ),
    ):
        await upload(page, name, content)
        await expect(failure).to_contain_text(reason)
        await use.click()
        await expect(failure).to_be_empty()


async def test_file_name_is_adapted_to_a_valid_voice_id(open_page: Open, scripted: Service) -> None:
    page = (await open_page(scripted)).page
    content = base64.b64encode(RECORDING).decode()
    for name, voice_id in VALID_VOICE_IDS.items():
        await page.evaluate(DROP, [name, content])
        message = f"“{unicodedata.normalize('NFC', name)}” is added as “{voice_id}”, and chosen."
        await expect(page.locator("#voices [role=status]")).to_have_text(message)
        await expect(page.locator("#voices input:checked")).to_have_value(voice_id)
        with scripted.client() as client:
            assert validate_voice_id(voice_id) in client.get("/voices").json()
            client.delete(f"/voices/{voice_id}").raise_for_status()


async def test_unreachable_message_disappears_when_server_is_back(
    open_page: Open, scripted: Service
) -> None:
    tab = await open_page(scripted, key="")
    tab.tolerated = ("ERR_FAILED",)
    page, failure = tab.page, tab.page.locator("#failure")
    await page.fill("#key", API_KEY)
    await page.route("**/openapi.json", lambda route: route.abort())
    await page.press("#key", "Enter")
    await expect(failure).to_contain_text("The server cannot be reached.")
    for path in ("**/health", "**/tts/generate"):
        await page.route(path, lambda route: route.abort())
    await page.click("#speak")
    await expect(page.locator("#state")).to_have_text("Nothing was made.")
    await expect(failure).to_contain_text("The server cannot be reached.")
    await expect(page.locator("#service")).to_contain_text("The server cannot be reached.")
    await page.unroute_all()
    await expect(page.locator("#service")).to_contain_text("Ready")
    await expect(failure).to_be_empty()
    await expect(page.locator("#parameters label")).to_have_count(15)


# --- Parameters and snippets ----------------------------------------------------------------------


async def test_only_changed_parameters_are_sent(open_page: Open, scripted: Service) -> None:
    page = (await open_page(scripted)).page
    await open_parameters(page)
    await page.fill("#parameter-synthesis_temperature", "1.25")
    await page.fill("#parameter-min_p", "0.05")
    await page.select_option("#parameter-chunk_overlap_method", "zero")
    note = page.locator("#format-note")
    await expect(note).to_have_text("Heard while it is being made.")
    await page.uncheck("#parameter-stream")
    await expect(note).to_have_text("Heard once all of it is made.")
    await expect(page.locator("#changed")).to_have_text("3 changed")
    await expect(page.get_by_role("button", name="Reset all")).to_be_visible()
    changed = {"synthesis_temperature": 1.25, "chunk_overlap_method": "zero", "stream": False}
    assert await sent_by(page) == {"text": "audio1", "format": "mp3"} | changed
    await page.get_by_role("button", name="Reset stream").click()
    await page.get_by_role("button", name="Reset all").click()
    await expect(page.locator("#changed")).to_have_text("all at their defaults")
    await expect(page.get_by_role("button", name="Reset all")).to_be_hidden()
    await expect(page.locator("summary")).to_be_focused()
    assert await sent_by(page) == {"text": "audio1", "format": "mp3"}


async def sent_by(page: Page) -> Any:
    async with page.expect_request("**/tts/generate") as request:
        await speak(page, "audio1", "mp3", seed=None)
    await expect(page.locator("#download")).to_be_visible()
    return (await request.value).post_data_json


async def test_snippets_are_equivalent_to_the_request(
    open_page: Open, scripted: Service, tmp_path: Path
) -> None:
    page = (await open_page(scripted)).page
    await page.fill("#text", NASTY)
    await page.select_option("#format", "mp3")
    code = page.locator("#snippets code")
    command, tag = await code.nth(0).inner_text(), await code.nth(1).inner_text()
    assert API_KEY not in command + tag
    params = {"text": NASTY, "format": "mp3"}
    arguments = arguments_of(command)
    assert json.loads(arguments[arguments.index("--data-raw") + 1]) == params
    assert f"{scripted.url}/tts/generate" in arguments
    assert query_in(tag) == params | {"api_key": "<YOUR_API_KEY>"}
    await page.check("#reveal")
    await expect(code.nth(0)).to_contain_text(f"X-API-Key: {API_KEY}")
    assert query_in(await code.nth(1).inner_text())["api_key"] == API_KEY
    await page.fill("#text", "audio50")
    await page.select_option("#format", "wav")
    command = await code.nth(0).inner_text()
    await asyncio.to_thread(subprocess.run, ["bash", "-c", command], cwd=tmp_path, check=True)
    assert len((tmp_path / "speech.wav").read_bytes()) == 44 + 50 * 1920


async def test_missing_snippet_shows_the_reason_and_no_copy_button(
    open_page: Open, scripted: Service
) -> None:
    page = (await open_page(scripted)).page
    snippets, copy = page.locator("#snippets"), page.get_by_role("button", name="Copy")
    await page.select_option("#format", "raw_pcm")
    await expect(snippets).to_contain_text("no audio tag plays it")
    await expect(copy).to_have_count(1)
    await page.select_option("#format", "mp3")
    await expect(copy).to_have_count(2)
    await page.fill("#text", "long " * 15_000)
    await expect(snippets).to_contain_text("too long for a URL")
    await expect(copy).to_have_count(1)
    await page.fill("#text", "audio5")
    await open_parameters(page)
    await page.fill("#parameter-seed", "-1")
    reason = "seed must be a whole number, 0 to 4294967295."
    await expect(snippets.locator("p")).to_have_text([reason, reason])
    await expect(snippets.locator("code").first).to_be_hidden()
    await expect(copy).to_have_count(0)
    await page.get_by_role("button", name="Reset all").click()
    await expect(copy).to_have_count(2)


def arguments_of(command: str) -> list[str]:
    """Return the arguments that a shell passes to curl."""
    shown = "curl() { printf '%s\\0' \"$@\"; }\n" + command
    done = subprocess.run(["bash", "-c", shown], capture_output=True, check=True, text=True)
    return done.stdout.split("\0")


def query_in(tag: str) -> dict[str, str]:
    """The query of the `src` that a browser reads."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append(dict(attrs)["src"] or "")

    Reader().feed(tag)
    return dict(parse_qsl(urlsplit(found[0]).query))


# --- Keyboard, screen readers, small screens ------------------------------------------------------


async def test_page_works_with_keyboard_only(open_page: Open, preview: Service) -> None:
    page = (await open_page(preview, key="")).page
    keys = page.keyboard
    await keys.type(API_KEY)
    await keys.press("Enter")
    await expect(page.locator("#parameters label")).to_have_count(15)
    await tab_to(page, "#text")
    await keys.press("Control+A")
    await keys.type(SENTENCE * 3)
    await keys.press("Control+Enter")
    await until(lambda: figure(page, "First sound"))
    await tab_to(page, "#stop")
    await keys.press("Enter")
    await expect(page.locator("#state")).to_have_text("Stopped.")
    await expect(page.locator("#speak")).to_be_focused()
    await keys.press("Enter")
    await tab_to(page, "#audio")
    await keys.press("Escape")
    await expect(page.locator("#state")).to_have_text("Stopped.")
    await expect(page.locator("#speak")).to_be_focused()
    await tab_to(page, "#format")
    await keys.press("ArrowDown")
    await tab_to(page, "#reveal")
    await keys.press("Space")
    await expect(page.locator("#snippets")).to_contain_text(API_KEY)
    await tab_to(page, "#voices input")
    await keys.press("ArrowDown")
    await expect(page.get_by_role("radio", name="austen.wav")).to_be_checked()
    await tab_to(page, "#upload")
    await tab_to(page, "summary")
    await keys.press("Enter")
    await tab_to(page, "#key-button")
    await keys.press("Enter")
    await expect(page.locator("#key")).to_be_focused()
    await keys.press("Escape")
    await expect(page.locator("#key-button")).to_be_focused()


async def test_held_shortcut_speaks_once(open_page: Open, scripted: Service) -> None:
    tab = await open_page(scripted)
    await tab.page.fill("#text", "audio5")
    await tab.page.keyboard.down("Control")
    for _ in range(5):
        await tab.page.keyboard.down("Enter")
    await tab.page.keyboard.up("Enter")
    await expect(tab.page.locator("#state")).to_have_text("Done.")
    assert [url for url in tab.requested if "generate" in url] == [f"{scripted.url}/tts/generate"]


async def tab_to(page: Page, selector: str) -> None:
    """Move the focus with the Tab key; fails if the element is unreachable."""
    wanted = page.locator(selector).first
    for _ in range(80):
        if await wanted.evaluate("element => element === document.activeElement"):
            return
        await page.keyboard.press("Tab")
    raise AssertionError(f"{selector} cannot be reached")


LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark phone": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}},
}


@pytest.mark.parametrize("look", LOOKS)
async def test_axe_finds_nothing_serious(look: str, open_page: Open, preview: Service) -> None:
    tab = await open_page(preview, key="", **LOOKS[look])
    tab.tolerated = ("status of 404",)
    page = tab.page
    assert await serious_findings(page) == []
    await enter_key(page)
    await expect(page.locator("#parameters label")).to_have_count(15)
    await speak(page, "Hello there.")
    await expect(page.locator("#state")).to_have_text("Done.")
    await page.get_by_role("radio", name="austen.wav").check()
    assert await serious_findings(page) == []
    width = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert width <= 0


async def serious_findings(page: Page) -> list[str]:
    results = await Axe().run(page)
    return [
        f"{found['id']}: {[node['html'] for node in found['nodes']]}"
        for found in results.response["violations"]
        if found["impact"] in ("serious", "critical")
    ]
