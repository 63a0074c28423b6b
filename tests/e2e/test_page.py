"""The web page in Debian's Chromium, with typing, clicks and playback.

A test fails if the page shows an error that the test does not expect, or asks another host.
"""

import asyncio
import base64
import json
import re
import subprocess
import sys
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

from app.audio.formats import FORMATS as AUDIO_FORMATS
from app.voices.names import validate_voice_id
from tests.support.browser import Watched
from tests.support.media import audio_file, tone
from tests.support.recogniser import decode_audio
from tests.support.service import API_KEY, ROOT, SCRIPTED, Service, running_service

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

PATIENCE_MS = 30_000
SEED = 7
FORMATS = ("fmp4", "webm", "mp3", "wav", "raw_pcm", "opus", "aac", "flac")
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

DROP = """([kind, name, content]) => {
    const dataTransfer = new DataTransfer();
    const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
    if (kind === "Files") dataTransfer.items.add(new File([bytes], name));
    else dataTransfer.setData(kind, name);
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
            await loaded(tab.page)
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
        with service.client() as client:
            service.wait_until(lambda: len(client.get("/voices").json()) == 3)
        yield service


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Service]:
    """One slot, and places to wait."""
    with running_service(tmp_path) as service:
        yield service


async def enter_key(page: Page, key: str = API_KEY) -> None:
    await page.fill("#key", key)
    await page.press("#key", "Enter")


async def loaded(page: Page) -> None:
    """Wait until the page knows the server's parameters, and open all that is folded."""
    await expect(page.locator("#parameters label").first).to_be_attached()
    await page.locator("details").evaluate_all("all => { for (const one of all) one.open = true; }")


async def upload(page: Page, name: str, content: bytes = RECORDING) -> None:
    """Choose a file in the dialog; the next step is shown, or an error."""
    if not await page.locator("#add-dialog").is_visible():
        await page.click("#add-voice")
    file: FilePayload = {"name": name, "mimeType": "audio/wav", "buffer": content}
    await page.set_input_files("#upload", file)


async def add(page: Page, name: str, content: bytes = RECORDING) -> None:
    await upload(page, name, content)
    await page.click("#add-send")


async def speak(page: Page, text: str, format: str = "fmp4", seed: int | None = SEED) -> None:
    await page.fill("#text", text)
    await page.select_option("#format", format)
    if seed is not None:
        await page.fill("#parameter-seed", str(seed))
    await page.click("#speak")


async def figure(page: Page, name: str) -> float | None:
    """Return one of the figures in the details; None if a dash is shown."""
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
    await expect(page.locator("#download")).to_be_visible(timeout=PATIENCE_MS)
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
    await page.click("#seek", position={"x": 3, "y": 20})
    assert await page.evaluate("audio.currentTime") < 0.1
    await page.focus("#seek")
    await page.keyboard.press("End")
    assert await page.evaluate("audio.currentTime") > 1


def similarity(heights: Any, sound: Any) -> float:
    """Return the correlation of the drawn bars, 3 pixels each, with the audio's peaks."""
    peaks = [np.abs(sound[start : start + 480]).max() for start in range(0, len(sound), 480)]
    bars = heights[1::3][: len(heights) // 3]
    expected = np.zeros(len(bars))
    np.maximum.at(expected, np.arange(len(peaks)) * 480 * len(bars) // len(sound), peaks)
    return float(np.corrcoef(bars, expected)[0, 1])


async def test_runs_are_charted_replayed_and_leak_no_object_url(
    open_page: Open, preview: Service
) -> None:
    page = (await open_page(preview, script=COUNT_OBJECT_URLS + CLOSES_LATE_AND_ONCE)).page
    for number, format in enumerate(("fmp4", "raw_pcm", "opus", "aac", "flac"), start=1):
        await speak(page, "Hello there.", format)
        await expect(page.locator("#runs tbody tr")).to_have_count(number)
        await expect(page.locator("#download")).to_be_visible()
        await expect(page.locator("#state")).to_have_text("Done.")
    label = await page.locator("#runs svg").last.get_attribute("aria-label") or ""
    assert label.endswith(f"{await figure(page, 'First sound'):.2f} s")
    assert await page.evaluate("liveObjectUrls()") <= 2
    preview.wait_until(lambda: preview.busy() == 0)
    await page.get_by_role("button", name="Play", exact=True).click()
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


async def test_history_and_choices_survive_a_reload(open_page: Open, scripted: Service) -> None:
    page = (await open_page(scripted)).page
    await page.get_by_role("radio", name="austen").check()
    await speak(page, "audio50", "wav")
    rows = page.locator("#history li")
    await expect(rows).to_have_count(1)
    await page.fill("#text", "audio5 once more")
    await page.select_option("#format", "webm")
    await page.fill("#parameter-seed", "8")
    await page.click("#speak")
    await page.reload()
    await loaded(page)
    await expect(page.locator("#text")).to_have_value("audio5 once more")
    await expect(page.locator("#format")).to_have_value("webm")
    await expect(page.locator("#parameter-seed")).to_have_value("8")
    await expect(page.get_by_role("radio", name="austen")).to_be_checked()
    await expect(rows.last).to_contain_text("audio50")
    await expect(rows.last).to_contain_text("austen · 2.0 s")
    name, content = await file_of(page.get_by_role("button", name="Download: audio50"))
    assert (name, len(content)) == ("speech.wav", 44 + 50 * 1920)
    await page.get_by_role("button", name="Play: audio50").click()
    await until(lambda: page.evaluate("audio.ended"))
    await expect(page.locator("#clock")).to_have_text("0:02 / 0:02")
    await page.get_by_role("button", name="Use again: audio50").click()
    await expect(page.locator("#text")).to_have_value("audio50")
    await expect(page.locator("#format")).to_have_value("wav")
    await expect(page.locator("#parameter-seed")).to_have_value(str(SEED))
    await page.click("#history-clear")
    await page.get_by_role("button", name="Clear", exact=True).click()
    await expect(rows).to_have_count(0)
    await page.reload()
    await expect(page.locator("#history")).to_contain_text("What you have spoken is kept here")


@pytest.mark.heavy
async def test_speech_interrupted_by_a_reload_is_in_the_history(
    open_page: Open, preview: Service
) -> None:
    page = (await open_page(preview)).page
    rows = page.locator("#history li")
    await speak(page, LONG, "wav")

    async def is_kept() -> bool:
        return bool((await page.evaluate(COUNT_KEPT))[1] >= 2)

    await until(is_kept)
    await page.reload()
    await loaded(page)
    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text("s, interrupted")
    name, content = await file_of(rows.get_by_role("button", name="Download"))
    sound = decode_audio(content, "wav")
    assert name == "speech-incomplete.wav"
    assert f" {len(sound) / 24_000:.1f} s, interrupted" in await rows.inner_text()
    assert np.abs(sound).max() > 0.1
    await rows.get_by_role("button", name="Play").click()
    await until(lambda: page.evaluate("audio.currentTime > 0.1"))

    await page.route("**/tts/generate", lambda route: asyncio.sleep(0))  # without an answer
    await speak(page, "Not heard.")
    await expect(page.locator("#stop")).to_be_enabled()
    await page.reload()
    await loaded(page)
    await expect(rows.first).to_contain_text("interrupted before the first sound")
    await expect(rows.first.get_by_role("button", name="Play")).to_be_disabled()
    await page.fill("#text", "")
    await rows.first.get_by_role("button", name="Use again").click()
    await expect(page.locator("#text")).to_have_value("Not heard.")
    await page.click("#history-clear")
    await page.get_by_role("button", name="Clear", exact=True).click()
    await expect(rows).to_have_count(0)
    await page.reload()
    assert await page.evaluate(COUNT_KEPT) == [0, 0]
    preview.wait_until(lambda: preview.busy() == 0)


COUNT_KEPT = """async () => {
    const opening = indexedDB.open("chatterbox-tts", 1);
    await new Promise(done => { opening.onsuccess = done; });
    const transaction = opening.result.transaction(["runs", "sounds"]);
    const counts = ["runs", "sounds"].map(name => transaction.objectStore(name).count());
    await new Promise(done => { transaction.oncomplete = done; });
    return counts.map(one => one.result);
}"""


FILL = """async count => {
    const opening = indexedDB.open("chatterbox-tts", 1);
    await new Promise(done => { opening.onsuccess = done; });
    const transaction = opening.result.transaction(["runs", "sounds"], "readwrite");
    for (let n = 1; n <= count; n++) {
        const request = { text: `number ${n}`, format: "wav" };
        const facts = { size: 1e3, seconds: 1, madeAt: n, name: "speech.wav", incomplete: false };
        const run = { text: request.text, request, ...facts };
        const adding = transaction.objectStore("runs").add(run);
        adding.onsuccess = () =>
            transaction.objectStore("sounds").put(new Blob(["sound"]), adding.result);
    }
    await new Promise(done => { transaction.oncomplete = done; });
}"""

TYPING = """async id => {
    const input = document.getElementById(id) ?? document.querySelector(id);
    const times = [];
    for (const letter of "voice 499") {
        const began = performance.now();
        input.value += letter;
        input.dispatchEvent(new Event("input", { bubbles: true }));
        document.body.getBoundingClientRect();
        await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
        times.push(performance.now() - began);
    }
    return times.sort((a, b) => a - b);
}"""


@pytest.mark.heavy
async def test_page_stays_quick_with_500_voices_and_500_runs(
    open_page: Open, scripted: Service
) -> None:
    tab = await open_page(scripted)
    page = tab.page
    facts = {"language": None, "preloaded": True}
    many = [facts | {"voice_id": f"voice {number}.wav"} for number in range(500)]
    await page.route("**/voices?*", lambda route: route.fulfill(json=many))
    await page.evaluate(FILL, 500)
    await page.reload()
    await loaded(page)
    await expect(page.locator("#voices li").nth(11)).to_contain_text("voice 10")
    for _ in range(10):
        await page.get_by_role("button", name="Show more").click()
    await expect(page.locator("#history li")).to_have_count(500)
    await expect(page.locator("#history li").first).to_contain_text("number 500")
    for field in ("#text", "#voices [type=search]"):
        times = await page.evaluate(TYPING, field)
        print(field, "ms:", [round(each) for each in times])
        assert times[len(times) // 2] < 100
    await expect(page.locator("#voices li:visible")).to_have_count(1)
    await speak(page, "audio5", "wav", seed=None)
    await expect(page.locator("#history li").first).to_contain_text("audio5")
    await page.reload()
    await expect(page.locator("#history li").first).to_contain_text("audio5")
    kept = "indexedDB.databases().then(all => all.length)"
    assert await page.evaluate(kept) == 1


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("script", "told"),
    [
        (
            "Object.defineProperty(window, 'indexedDB', { value: undefined });",
            "This browser keeps no history",
        ),
        (
            """IDBObjectStore.prototype.add = () => {
                throw new DOMException("full", "QuotaExceededError");
            };""",
            "The browser's storage is full",
        ),
    ],
)
async def test_history_that_cannot_be_kept_lasts_as_long_as_the_page(
    script: str, told: str, open_page: Open, scripted: Service
) -> None:
    page = (await open_page(scripted, script=script)).page
    await speak(page, "audio50", "wav", seed=None)
    await expect(page.locator("#history li")).to_have_count(1)
    await expect(page.locator("#history")).to_contain_text(told)
    _, content = await file_of(page.get_by_role("button", name="Download: audio50"))
    assert len(content) == 44 + 50 * 1920


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
            await expect(failure).to_have_text("The server is busy, and its queue is full.")
            await expect(tab.page.locator("#state")).to_have_text("Nothing was made.")
            await expect(tab.page.locator("#play")).to_be_disabled()
            await expect(tab.page.locator("#status")).to_contain_text("1 of 1 slots busy")
    scripted.wait_until(lambda: scripted.busy() == 0)
    retry = tab.page.locator("#retry")
    await expect(retry).to_have_text(re.compile(r"Retry \(better in [1-4] s\)"))
    await retry.click()
    await expect(tab.page.locator("#state")).to_have_text("Done.")
    await expect(retry).to_be_hidden()


@pytest.mark.heavy
async def test_waiting_request_tells_its_place_and_waits_outside_of_the_real_time_factor(
    open_page: Open, queue: Service
) -> None:
    page = (await open_page(queue)).page
    bodies = [{"text": f"audio1 sleep{seconds}", "format": "raw_pcm"} for seconds in (3, 0.5)]
    async with queue.async_client() as client:
        before = []
        for body in bodies:
            before.append(asyncio.create_task(client.post("/tts/generate", json=body)))
            await asyncio.sleep(0.3)
        await speak(page, "audio50", seed=None)
        state = page.locator("#state")
        await expect(state).to_have_text("Waiting: 1 before you…")
        await expect(state).to_have_text("Waiting: you are next…")
        await expect(state).to_have_text("Done.")
        await asyncio.gather(*before)
    await expect(page.locator("#answer")).to_contain_text("s in the queue")
    factor, first_byte = await figure(page, "Real-time factor"), await figure(page, "First byte")
    assert (first_byte or 0) > 1
    assert (factor or 9) < 0.5


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
    await expect(tab.page.locator("#play")).to_be_enabled()
    name, _ = await file_of(tab.page.locator("#download"))
    assert name.startswith("speech-incomplete.")
    assert await figure(tab.page, "Real-time factor") is None


@pytest.mark.parametrize("format", [pytest.param("fmp4", marks=pytest.mark.heavy), "raw_pcm"])
async def test_response_without_audio_shows_a_message(
    format: str, open_page: Open, scripted: Service
) -> None:
    page = (await open_page(scripted)).page
    await page.fill("#parameter-remove_leading_milliseconds", "5000")
    await speak(page, "audio5", format, seed=None)
    await expect(page.locator("#failure")).to_have_text("The answer has no sound in it.")
    await expect(page.locator("#stop")).to_be_disabled()


async def test_server_error_is_shown_with_its_message(open_page: Open, scripted: Service) -> None:
    tab = await open_page(scripted)
    tab.tolerated = ("status of 400",)
    failure = tab.page.locator("#failure")
    await speak(tab.page, "...", seed=None)
    await expect(failure).to_have_text("There is nothing in this text that can be spoken.")
    await tab.page.fill("#text", "x" * 20_001)
    count = tab.page.locator("#count")
    await expect(count).to_have_text("20,001 of 20,000 characters: 1 too many")
    await expect(count).to_have_class("small over")
    await expect(tab.page.locator("#speak")).to_be_disabled()
    await speak(tab.page, "audio1", seed=None)
    await expect(failure).to_be_empty()


async def test_number_out_of_bounds_is_marked_and_not_sent(
    open_page: Open, scripted: Service
) -> None:
    tab = await open_page(scripted)
    page, failure = tab.page, tab.page.locator("#failure")
    for button, name, value, bounds in (
        ("Speak", "seed", "-1", "a whole number, 0 to 4294967295."),
        ("Speak", "seed", "1.5", "a whole number, 0 to 4294967295."),
        ("Hear austen", "top_p", "0", "a number, above 0 to 1."),
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
        await expect(tab.page.locator("#retry")).to_contain_text("better in")
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
        assert await page.evaluate("localStorage.getItem('chatterbox-tts-key')") is None
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
    assert await page.evaluate("localStorage.getItem('chatterbox-tts-key')") is None
    await page.reload()
    await expect(dialog).to_be_visible()


async def test_revoked_key_is_requested_once_and_choices_are_kept(
    open_page: Open, scripted: Service
) -> None:
    tab = await open_page(scripted)
    tab.tolerated = ("status of 401",)
    page, dialog = tab.page, tab.page.locator("#key-dialog")
    await page.select_option("#format", "mp3")
    await page.fill("#parameter-seed", "7")
    await page.route("**/system-status", revoked)
    await expect(dialog).to_be_visible()
    await page.keyboard.press("Escape")
    for _ in range(3):
        async with page.expect_response("**/ready"):
            await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await expect(page.locator("#status")).to_have_text("Needs the key.")
    await expect(dialog).to_be_hidden()
    await page.click("#speak")
    await expect(dialog).to_be_visible()
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
    await loaded(page)
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


async def test_key_in_the_link_is_taken_and_leaves_the_address(
    open_page: Open, scripted: Service
) -> None:
    tab = await open_page(scripted, key="")
    tab.tolerated = ("status of 401",)
    page = tab.page
    await page.evaluate("key => { location.hash = `key=${key}`; }", API_KEY)
    await loaded(page)
    assert page.url == f"{scripted.url}/"
    await page.goto("about:blank")
    await page.goto(f"{scripted.url}/#key=wrong%2B+1")
    await expect(page.locator("#key-failure")).to_contain_text("The key in this link is wrong")
    assert page.url == f"{scripted.url}/"
    await page.keyboard.press("Escape")
    await expect(page.locator("#voices li")).to_have_count(4)
    await page.go_back()
    assert page.url == "about:blank"


@pytest.mark.heavy
async def test_printed_link_opens_the_page_with_the_key(open_page: Open, tmp_path: Path) -> None:
    service = Service(tmp_path, {"API_KEY": "", "HOST": "127.0.0.1"})
    try:
        for line in ("#key=", "ready: scripted"):
            service.wait_until(lambda line=line: line in service.log_path.read_text(), 30)
        [link] = re.findall(r"Open (\S+)", service.log())
        key = link.partition("#key=")[2]
        assert len(key) >= 32
        tab = await open_page(service, key="")
        await tab.page.goto("about:blank")
        await tab.page.goto(link)
        await loaded(tab.page)
        assert tab.page.url == f"{service.url}/"
        assert not [url for url in tab.requested if key in url.partition("#")[0]]
        assert service.log().count(key) == 1
    finally:
        service.stop()


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
    await expect(page.locator("#parameter-synthesis_temperature")).to_have_value("0.7")
    min_p = page.locator(".parameter", has=page.locator("#parameter-min_p"))
    await expect(min_p).to_contain_text("other does not use it.")
    await expect(min_p.locator("input")).to_be_disabled()
    await expect(page.locator("#language option")).to_have_text(["English", "German"])
    await page.select_option("#language", label="German")
    await page.fill("#text", "other")
    await page.get_by_role("button", name="[laugh]").click()
    await expect(page.locator("#text")).to_have_value("other [laugh]")
    await expect(page.locator("#snippets")).to_contain_text('"language":"de"')
    await page.click("#speak")
    await expect(page.locator("#answer")).to_contain_text("other")


async def test_only_a_code_in_the_name_of_a_voice_is_spoken(
    open_page: Open, scripted: Service
) -> None:
    page = (await open_page(scripted)).page
    has_code = 'async id => (await import("/web/voice_names.js")).hasCode(id)'
    for voice_id in ("giulia.it.wav", "ana.pt-BR.mp3", "mei.cmn.opus"):
        assert await page.evaluate(has_code, voice_id)
    for voice_id in ("austen.wav", "joe-synthetic.flac"):
        assert not await page.evaluate(has_code, voice_id)


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
    await add(page, "my voice.wav")
    await expect(voices).to_contain_text("“my voice” is added and chosen.")
    await expect(page.get_by_role("radio", name="my voice")).to_be_checked()
    uploaded = page.locator("#voices li", has_text="my voice")
    await expect(uploaded.get_by_role("button")).to_have_count(4)
    await expect(uploaded).not_to_contain_text("preloaded")
    preloaded = page.locator("#voices li", has_text="austen")
    await expect(preloaded.get_by_role("button")).to_have_count(2)
    await expect(preloaded).to_contain_text("preloaded")

    async with page.expect_response("**/voices/my%20voice.wav") as recording:
        await page.get_by_role("button", name="Hear the recording of my voice").click()
    assert (await recording.value).ok
    async with page.expect_request("**/tts/generate") as request:
        await page.get_by_role("button", name="Hear my voice").click()
    sent = (await request.value).post_data_json
    assert (sent["voice_id"], sent["text"]) == ("my voice.wav", "This is how I sound.")

    await add(page, "my voice.wav")
    await page.get_by_role("button", name="Replace it").click()
    await expect(voices).to_contain_text("“my voice” is added and chosen.")
    await expect(page.locator("#add-dialog")).to_be_hidden()
    await page.get_by_role("button", name="Delete my voice").click()
    await expect(voices).to_contain_text("“my voice” is deleted.")
    await expect(page.get_by_role("radio", name="Default voice")).to_be_checked()
    undo = page.get_by_role("button", name="Undo: keep my voice")
    await expect(undo).to_be_focused()
    await undo.click()
    await expect(page.get_by_role("radio", name="my voice")).to_be_visible()
    await page.get_by_role("button", name="Delete my voice").click()
    await page.reload()
    with scripted.client() as client:
        await scripted.until(lambda: "my voice.wav" not in client.get("/voices").json())


@pytest.mark.heavy
async def test_deletion_reaches_the_server_after_the_time_to_undo_it(
    open_page: Open, scripted: Service
) -> None:
    page = (await open_page(scripted)).page
    await add(page, "gone.wav")
    await page.get_by_role("button", name="Delete gone").click()
    await expect(page.locator("#voices li")).to_have_count(5)
    await expect(page.locator("#voices li")).to_have_count(4, timeout=12_000)
    await expect(page.get_by_role("radio", name="Default voice")).to_be_focused()
    with scripted.client() as client:
        assert "gone.wav" not in client.get("/voices").json()


async def test_new_voice_of_a_deleted_name_stays(open_page: Open, scripted: Service) -> None:
    tab = await open_page(scripted)
    tab.tolerated = ("status of 409",)
    page = tab.page
    await add(page, "again.wav")
    await page.get_by_role("button", name="Delete again").click()
    await add(page, "again.wav")
    await page.get_by_role("button", name="Replace it").click()
    await expect(page.get_by_role("radio", name="again")).to_be_checked()
    await page.reload()
    await loaded(page)
    with scripted.client() as client:
        assert "again.wav" in client.get("/voices").json()
        client.delete("/voices/again.wav").raise_for_status()


@pytest.mark.heavy
async def test_voice_is_renamed(open_page: Open, scripted: Service) -> None:
    page = (await open_page(scripted)).page
    with scripted.client() as client:
        await add(page, "old.wav")
        await page.get_by_role("button", name="Rename old").click()
        await page.fill("#question-name", "new")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("radio", name="new")).to_be_checked()
        client.delete("/voices/new.wav").raise_for_status()


async def test_voice_deleted_elsewhere_disappears(open_page: Open, scripted: Service) -> None:
    tab = await open_page(scripted)
    tab.tolerated = ("status of 404",)
    page, voices = tab.page, tab.page.locator("#voices")
    await add(page, "asked.wav")
    await expect(page.get_by_role("radio", name="asked")).to_be_checked()
    with scripted.client() as client:
        client.delete("/voices/asked.wav").raise_for_status()
    await page.click("#speak")
    await expect(page.locator("#failure")).to_contain_text("There is no voice 'asked.wav'.")
    await expect(voices.locator("li")).to_have_count(4)
    await expect(page.get_by_role("radio", name="Default voice")).to_be_checked()


async def test_dropped_file_is_trimmed_and_named_before_it_is_sent(
    open_page: Open, scripted: Service
) -> None:
    page = (await open_page(scripted)).page
    content = base64.b64encode(RECORDING).decode()
    assert await page.evaluate(DROP, ["text/plain", "a", ""]) == "left to the browser"
    assert await page.evaluate(DROP, ["Files", "first: take.wav", content]) == "prevented"
    name = page.locator("#add-name")
    await expect(name).to_have_value("first_ take")
    await expect(page.locator("#add-length")).to_have_text("2.0 s of 2.0 s")
    await page.locator("#add-from").fill("1.2")
    await expect(page.locator("#add-failure")).to_have_text(
        "This is 0.8 s long: a voice needs 1 s at least, and 10 s are better."
    )
    await expect(page.locator("#add-send")).to_be_disabled()
    await page.locator("#add-from").fill("0.5")
    await page.click("#add-play")
    await expect(page.locator("#add-play")).to_have_text("■ Stop")
    await name.fill("Zoë 2")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("radio", name="Zoë 2")).to_be_checked()
    sent = scripted.folder / "voices" / "Zoë 2.wav"
    assert sent.stat().st_size == 44 + 1.5 * 24_000 * 2
    with scripted.client() as client:
        client.delete("/voices/Zoë 2.wav").raise_for_status()


async def test_reason_of_a_rejected_voice_is_shown(open_page: Open, scripted: Service) -> None:
    tab = await open_page(scripted)
    tab.tolerated = ("status of 422",)
    page, failure = tab.page, tab.page.locator("#add-failure")
    for name, content, reason in (
        ("a.wav", audio_file(tone(0.2)), "This is 0.2 s long"),
        ("a.wav", audio_file(0 * tone(2)), "There is no sound in this"),
        ("a.wav.txt", b"no sound", "“a.wav.txt” is no recording that can be used: "),
        ("a.wav", b"no sound", "This browser cannot show the recording"),
    ):
        await upload(page, name, content)
        await expect(failure).to_contain_text(reason)
    await page.click("#add-send")
    await expect(failure).to_contain_text("not")
    await expect(failure).not_to_contain_text("cannot show")
    await page.click("#add-again")
    await expect(failure).to_be_empty()


@pytest.mark.heavy
async def test_file_name_is_adapted_to_a_valid_voice_id(open_page: Open, scripted: Service) -> None:
    page = (await open_page(scripted)).page
    for name, voice_id in VALID_VOICE_IDS.items():
        await add(page, name)
        await expect(page.locator("#add-dialog")).to_be_hidden()
        await expect(page.locator("#voices input:checked")).to_have_value(voice_id)
        with scripted.client() as client:
            assert validate_voice_id(voice_id) in client.get("/voices").json()
            client.delete(f"/voices/{voice_id}").raise_for_status()


async def test_voice_is_recorded_from_the_microphone(open_page: Open, scripted: Service) -> None:
    page = (await open_page(scripted, permissions=["microphone"])).page
    await page.click("#add-voice")
    await page.click("#record")
    await expect(page.locator("#add-clock")).to_have_text("2 s")
    await page.click("#record-stop")
    await page.fill("#add-name", "spoken")
    await page.click("#add-send")
    await expect(page.get_by_role("radio", name="spoken")).to_be_checked()
    with scripted.client() as client:
        client.delete("/voices/spoken.wav").raise_for_status()


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("NotAllowedError", "The browser refuses the microphone"),
        ("NotFoundError", "There is no microphone"),
        ("", "Browsers allow the microphone over https and on localhost only"),
    ],
)
async def test_missing_microphone_is_said(
    error: str, reason: str, open_page: Open, scripted: Service
) -> None:
    refuses = f"""navigator.mediaDevices.getUserMedia =
        async () => {{ throw new DOMException("no", "{error}"); }};"""
    absent = "Object.defineProperty(navigator, 'mediaDevices', { value: undefined });"
    page = (await open_page(scripted, script=refuses if error else absent)).page
    await page.click("#add-voice")
    await page.click("#record")
    await expect(page.locator("#add-failure")).to_contain_text(reason)
    await expect(page.locator("#upload")).to_be_attached()


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
    await expect(page.locator("#parameters label").first).to_be_attached()


# --- Parameters and snippets ----------------------------------------------------------------------


async def test_only_changed_parameters_are_sent(open_page: Open, scripted: Service) -> None:
    page = (await open_page(scripted)).page
    await page.fill("#parameter-synthesis_temperature", "1.25")
    await page.fill("#parameter-min_p", "0.05")
    await page.select_option("#parameter-chunk_overlap_method", "zero")
    note = page.locator("#format-note")
    await expect(note).to_contain_text("Heard while it is being made")
    await page.uncheck("#parameter-stream")
    await expect(note).to_have_text("Heard once all of it is made.")
    await expect(page.locator("#changed")).to_have_text("3 changed")
    await expect(page.get_by_role("button", name="Reset all")).to_be_visible()
    changed = {"synthesis_temperature": 1.25, "chunk_overlap_method": "zero", "stream": False}
    assert await sent_by(page) == {"text": "audio1", "format": "mp3"} | changed
    await page.get_by_role("button", name="Reset stream").click()
    await page.get_by_role("button", name="Reset all").click()
    await expect(page.locator("#changed")).to_be_empty()
    await expect(page.get_by_role("button", name="Reset all")).to_be_hidden()
    await expect(page.locator("#parameters-details summary")).to_be_focused()
    assert await sent_by(page) == {"text": "audio1", "format": "mp3"}


async def test_presets_and_sliders_set_parameters(open_page: Open, scripted: Service) -> None:
    page = (await open_page(scripted)).page
    dramatic = page.get_by_role("button", name="Dramatic")
    await dramatic.click()
    await expect(dramatic).to_have_attribute("aria-pressed", "true")
    await expect(page.locator("#text")).to_have_value(re.compile("It has found us"))
    await expect(page.locator("#parameter-voice_exaggeration_factor")).to_have_value("1.1")
    await page.get_by_label("Expressiveness").fill("0.25")
    await page.get_by_label("Steadiness").press("Home")
    await expect(dramatic).to_have_attribute("aria-pressed", "false")
    changed = {
        "voice_exaggeration_factor": 0.25,
        "synthesis_temperature": 1.4,
        "cfg_guidance_weight": 0.3,
    }
    assert await sent_by(page) == {"text": "audio1", "format": "mp3"} | changed
    await page.get_by_role("button", name="Natural").click()
    await expect(page.locator("#text")).to_have_value("audio1")  # not a sample: it stays
    await expect(page.locator("#changed")).to_be_empty()


async def sent_by(page: Page) -> Any:
    async with page.expect_request("**/tts/generate") as request:
        await speak(page, "audio1", "mp3", seed=None)
    await expect(page.locator("#download")).to_be_visible()
    return (await request.value).post_data_json


async def test_snippets_are_equivalent_to_the_request(
    open_page: Open, scripted: Service, tmp_path: Path
) -> None:
    page = (await open_page(scripted)).page
    offered = page.locator("#format option")
    names = await offered.evaluate_all("all => all.map(one => one.value)")
    assert set(names) == {"best", *AUDIO_FORMATS}
    await page.fill("#text", NASTY)
    await page.select_option("#format", "flac")
    assert 'response_format="flac"' in await snippet(page, "OpenAI")
    await page.select_option("#format", "mp3")
    await page.uncheck("#parameter-stream")
    command, tag = await snippet(page, "curl"), await snippet(page, "HTML")
    assert API_KEY not in command + tag
    params = {"text": NASTY, "format": "mp3", "stream": False}
    arguments = arguments_of(command)
    assert json.loads(arguments[arguments.index("--data-raw") + 1]) == params
    assert f"{scripted.url}/tts/generate" in arguments
    assert "api_key=YOUR_API_KEY" in tag
    assert query_in(tag) == params | {"stream": "false", "api_key": "YOUR_API_KEY"}
    await page.check("#reveal")
    assert f"X-API-Key: {API_KEY}" in await snippet(page, "curl")
    assert query_in(await snippet(page, "HTML"))["api_key"] == API_KEY
    await page.fill("#text", "audio50")
    await page.select_option("#format", "wav")
    command = await snippet(page, "curl")
    await asyncio.to_thread(subprocess.run, ["bash", "-c", command], cwd=tmp_path, check=True)
    assert len((tmp_path / "speech.wav").read_bytes()) == 44 + 50 * 1920


@pytest.mark.parametrize(
    ("name", "module"), [("Python", "requests"), pytest.param("OpenAI", "openai")]
)
@pytest.mark.heavy
async def test_snippet_in_python_runs(
    name: str, module: str, open_page: Open, scripted: Service, tmp_path: Path
) -> None:
    pytest.importorskip(module)
    page = (await open_page(scripted)).page
    await page.check("#reveal")
    await page.fill("#text", f"audio50 {NASTY}")
    await page.select_option("#format", "wav")
    await page.uncheck("#parameter-stream")
    program = await snippet(page, name)
    await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], cwd=tmp_path, check=True
    )
    assert len(decode_audio((tmp_path / "speech.wav").read_bytes(), "wav")) >= 50 * 960


async def snippet(page: Page, name: str) -> str:
    await page.get_by_role("tab", name=name, exact=True).click()
    return await page.locator("#snippets code").inner_text()


async def test_missing_snippet_shows_the_reason_and_no_copy_button(
    open_page: Open, scripted: Service
) -> None:
    page = (await open_page(scripted)).page
    snippets = page.locator("#snippets")
    copy = snippets.get_by_role("button", name="Copy")
    await page.select_option("#format", "raw_pcm")
    await page.get_by_role("tab", name="HTML").click()
    await expect(snippets).to_contain_text("no audio tag plays it")
    await expect(copy).to_be_hidden()
    await page.select_option("#format", "mp3")
    await expect(copy).to_be_visible()
    await page.fill("#text", "long " * 15_000)
    await expect(snippets).to_contain_text("too long for a URL")
    await page.fill("#text", "audio5")
    await page.fill("#parameter-seed", "-1")
    await page.keyboard.press("Tab")
    await page.get_by_role("tab", name="HTML").press("ArrowRight")
    await expect(page.get_by_role("tab", name="curl")).to_be_focused()
    await expect(snippets.locator("p")).to_have_text(
        "seed must be a whole number, 0 to 4294967295."
    )
    await expect(copy).to_be_hidden()
    await page.get_by_role("button", name="Reset all").click()
    await expect(copy).to_be_visible()


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
    await expect(page.locator("#parameters label").first).to_be_attached()
    await tab_to(page, "#text")
    await keys.press("Control+A")
    await keys.type(SENTENCE * 3)
    await keys.press("Control+Enter")
    await tab_to(page, "#stop")
    await until(lambda: page.evaluate("audio.currentTime > 0.3"))
    await keys.press("Enter")
    await expect(page.locator("#state")).to_have_text("Stopped.")
    await expect(page.locator("#speak")).to_be_focused()
    await keys.press("Enter")
    await until(lambda: page.evaluate("audio.currentTime > 0.3"))
    await tab_to(page, "#play")
    await keys.press("Space")
    assert await page.evaluate("audio.paused")
    await keys.press("Escape")
    await expect(page.locator("#state")).to_have_text("Stopped.")
    await tab_to(page, "#seek")
    await tab_to(page, "#download")
    await tab_to(page, "#format")
    await keys.press("ArrowDown")
    await tab_to(page, "#voices li input")
    await keys.press("ArrowDown")
    await expect(page.get_by_role("radio", name="austen")).to_be_checked()
    await tab_to(page, "#add-voice")
    await keys.press("Enter")
    await tab_to(page, "#upload")
    await keys.press("Escape")
    await expect(page.locator("#add-voice")).to_be_focused()
    await tab_to(page, "#presets button")
    await tab_to(page, "#sliders input")
    await tab_to(page, "#parameters-details summary")
    await keys.press("Enter")
    await tab_to(page, "#parameter-seed")
    await tab_to(page, "#details > summary")
    await keys.press("Enter")
    await tab_to(page, "#reveal")
    await keys.press("Space")
    await expect(page.locator("#snippets")).to_contain_text(API_KEY)
    await tab_to(page, "#history button")
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


SMALL_TARGETS = """() => {
    const all = document.querySelectorAll("main :is(button, select, a, li label)");
    const isSmall = ({ width, height }) => width > 0 && (height < 44 || width < 40);
    return [...all].filter(one => isSmall(one.getBoundingClientRect())).map(one => one.outerHTML);
}"""

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark phone": {
        "color_scheme": "dark",
        "viewport": {"width": 390, "height": 844},
        "has_touch": True,
    },
}


@pytest.mark.parametrize("look", LOOKS)
async def test_axe_finds_nothing_serious(look: str, open_page: Open, preview: Service) -> None:
    tab = await open_page(preview, key="", **LOOKS[look])
    tab.tolerated = ("status of 404",)
    page = tab.page
    assert await serious_findings(page) == []
    await enter_key(page)
    await loaded(page)
    await speak(page, "Hello there.")
    await expect(page.locator("#state")).to_have_text("Done.")
    await page.get_by_role("radio", name="austen").check()
    assert await serious_findings(page) == []
    width = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert width <= 0
    assert await page.evaluate(SMALL_TARGETS) == []
    await upload(page, "a.wav")
    await expect(page.locator("#add-waveform")).to_be_visible()
    assert await serious_findings(page) == []


async def serious_findings(page: Page) -> list[str]:
    results = await Axe().run(page)
    return [
        f"{found['id']}: {[node['html'] for node in found['nodes']]}"
        for found in results.response["violations"]
        if found["impact"] in ("serious", "critical")
    ]
