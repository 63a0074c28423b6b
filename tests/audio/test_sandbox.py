import asyncio
import http.server
import io
import os
import re
import struct
import subprocess
import sys
import threading
import wave
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from app.audio.decode_limits import DecodeLimits, ExitStatus
from app.audio.sandbox import decode_file, load_decoded
from app.core.errors import UnusableAudio
from app.voices.names import ENDINGS
from tests.support.media import audio_file, tone

CHILD = [sys.executable, "-m", "app.audio.decoder_main", "{}"]


async def decoded(folder: Path, content: bytes, limits=None):
    source, target = folder / "voice.wav", folder / "decoded"
    source.write_bytes(content)
    await decode_file(source, target, limits)
    return load_decoded(target)


async def refusal(folder: Path, content: bytes, limits=None) -> str:
    """The reason; nothing but the source may be left in the folder."""
    with pytest.raises(UnusableAudio) as refused:
        await decoded(folder, content, limits)
    assert os.listdir(folder) == ["voice.wav"]
    return refused.value.message


def pitch(samples, rate) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * rate / len(samples))


# --- What is accepted


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [
        ("wav", "pcm_s16le", 8_000),
        ("wav", "pcm_u8", 16_000),
        ("wav", "pcm_s24le", 44_100),
        ("wav", "pcm_f32le", 96_000),
        ("mp3", "libmp3lame", 44_100),
        ("flac", "flac", 16_000),
        ("ogg", "libopus", 48_000),
        ("ipod", "aac", 44_100),
        ("mov", "alac", 44_100),
        ("webm", "libopus", 48_000),
        ("matroska", "libopus", 48_000),
    ],
)
async def test_every_format_decodes_at_its_own_rate(tmp_path, container, codec, rate):
    content = audio_file(tone(2, rate), rate=rate, container=container, codec=codec)
    samples, decoded_rate = await decoded(tmp_path, content)
    rate = min(rate, 48_000)  # engines use no more
    assert decoded_rate == rate
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(2 * rate, rel=0.03)
    assert pitch(samples, rate) == pytest.approx(220, abs=1)
    middle = samples[rate // 2 : rate * 3 // 2]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.1)


async def test_16_bit_samples_are_exact(tmp_path):
    values = np.random.default_rng(1).integers(-32768, 32768, 20_000, dtype=np.int16)
    file = io.BytesIO()
    with wave.open(file, "wb") as output:
        output.setparams((1, 2, 16_000, 0, "NONE", ""))
        output.writeframes(values.tobytes())
    samples, _ = await decoded(tmp_path, file.getvalue())
    np.testing.assert_array_equal(samples, values / np.float32(32768))


async def test_channels_are_averaged(tmp_path):
    content = audio_file(np.stack([tone(2), tone(2, hz=440)]))
    samples, _ = await decoded(tmp_path, content)
    np.testing.assert_allclose(samples, (tone(2) + tone(2, hz=440)) / 2, atol=1e-4)


async def test_a_planar_codec_with_six_channels_is_averaged(tmp_path):
    content = audio_file(np.stack([tone(2, 48_000)] * 6), rate=48_000, container="mp4", codec="aac")
    samples, rate = await decoded(tmp_path, content)
    assert pitch(samples, rate) == pytest.approx(220, abs=1)


async def test_decodes_the_first_of_several_tracks(tmp_path):
    content = audio_file(tone(2), tone(2, hz=440), container="mp4", codec="aac")
    samples, rate = await decoded(tmp_path, content)
    assert pitch(samples, rate) == pytest.approx(220, abs=1)


@pytest.mark.parametrize("subtitles", [False, True])
async def test_the_sound_of_a_video_is_used(tmp_path, subtitles):
    content = audio_file(tone(2), container="matroska", video=True, subtitles=subtitles)
    samples, rate = await decoded(tmp_path, content)
    assert pitch(samples, rate) == pytest.approx(220, abs=1)


async def test_odd_values_become_plain_ones(tmp_path):
    samples = tone(2)
    samples[:4] = [np.nan, np.inf, 1e30, -7]
    result, _ = await decoded(tmp_path, audio_file(samples, codec="pcm_f32le"))
    np.testing.assert_array_equal(result[:4], [0, 1, 1, -1])


async def test_decodes_mp3_with_an_unusual_tag_at_its_end(tmp_path):
    mp3 = audio_file(tone(2), container="mp3", codec="libmp3lame")
    samples, rate = await decoded(tmp_path, mp3 + bytes(5_000))
    assert len(samples) / rate == pytest.approx(2, rel=0.03)


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
async def test_a_streamed_wav_has_its_true_length(tmp_path, size):
    content = bytearray(audio_file(tone(2)))
    at = content.index(b"data") + 4
    content[4:8] = content[at : at + 4] = struct.pack("<I", size)
    samples, _ = await decoded(tmp_path, bytes(content))
    assert len(samples) == 32_000


# --- What is refused


def with_wav_field(offset: int, value: bytes) -> bytes:
    """Two seconds of wav with other bytes at this offset of its format chunk."""
    content = bytearray(audio_file(tone(2)))
    at = content.index(b"fmt ") + 8 + offset
    content[at : at + len(value)] = value
    return bytes(content)


WAV = audio_file(tone(3))
MP4 = audio_file(tone(3), container="mp4", codec="aac")
FLAC = audio_file(tone(3), container="flac", codec="flac")
WEBM = audio_file(tone(3, 48_000), rate=48_000, container="webm", codec="libopus")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "it is empty", id="empty"),
        pytest.param(b"just a text\n" * 100, "not a whole wav", id="text"),
        pytest.param(os.urandom(10_000), "not a whole wav", id="noise"),
        pytest.param(WAV[: WAV.index(b"data") + 8], "no sound", id="wav header"),
        pytest.param(FLAC[:42], "not a whole", id="flac header"),
        pytest.param(WAV[: len(WAV) // 2], "cut off", id="half a wav"),
        pytest.param(FLAC[: len(FLAC) // 2], "cut off", id="half a flac"),
        pytest.param(WEBM[: len(WEBM) // 2], "cut off", id="half a webm"),
        pytest.param(MP4[: len(MP4) // 2], "not a whole wav", id="half an mp4"),
        pytest.param(audio_file(tone(0.2)), "shorter than 1 s", id="short"),
        pytest.param(audio_file(tone(2, level=5e-4)), "it is silent", id="silent"),
        pytest.param(
            audio_file(np.concatenate([tone(0.9), tone(4, level=1e-3)])),
            "less than 1 s of sound",
            id="mostly silent",
        ),
        pytest.param(with_wav_field(2, b"\xff\xff"), "1 to 8 channels", id="65535 channels"),
        pytest.param(with_wav_field(2, b"\0\0"), "1 to 8 channels", id="no channel"),
        pytest.param(with_wav_field(4, bytes(4)), "not a whole wav", id="rate 0"),
        pytest.param(with_wav_field(4, b"\xff\xff\xff\x0f"), "sample rate", id="268 MHz"),
        pytest.param(audio_file(container="matroska", video=True), "no sound", id="no sound track"),
        pytest.param(
            audio_file(tone(2, 48_000), rate=48_000, container="matroska", codec="ac3"),
            "coded",
            id="other codec",
        ),
        pytest.param(
            audio_file(tone(2), container="aiff", codec="pcm_s16be"), "not a whole wav", id="aiff"
        ),
    ],
)
async def test_rejects_unusable_audio_with_the_reason(tmp_path, content, reason):
    assert reason in await refusal(tmp_path, content)


def test_every_refusal_has_an_error():
    endings = {status for status in ExitStatus if not status.reason}
    assert endings == {ExitStatus.DONE, ExitStatus.DISK_FULL}


async def test_unknown_format_error_lists_all_formats(tmp_path):
    named = re.findall(r"\w+", await refusal(tmp_path, b"just a text\n" * 100))
    assert {ending.removeprefix(".") for ending in ENDINGS} <= set(named)


async def test_a_minute_of_silence_before_the_sound_is_skipped(tmp_path):
    rate = 8_000
    late = np.concatenate([np.zeros(61 * rate), tone(3, rate)])
    samples, _ = await decoded(tmp_path, audio_file(late, rate=rate))
    assert 3.9 < samples.size / rate <= 4


@pytest.mark.fault(40)
async def test_a_bomb_is_stopped_while_it_decodes(tmp_path):
    bomb = bytearray(audio_file(np.zeros(3600 * 8_000), rate=8_000, container="flac", codec="flac"))
    assert len(bomb) < 1_000_000
    half = len(bomb) // 2
    bomb[half:] = bytes(len(bomb) - half)  # to decode as far as here would be "damaged"
    assert "longer than 300 s" in await refusal(tmp_path, bytes(bomb))


async def test_an_earlier_result_is_left_alone(tmp_path):
    samples, _ = await decoded(tmp_path, WAV)
    with pytest.raises(FileExistsError):
        await decoded(tmp_path, b"no audio")
    np.testing.assert_array_equal(load_decoded(tmp_path / "decoded")[0], samples)
    assert sorted(os.listdir(tmp_path)) == ["decoded", "voice.wav"]


async def test_neither_symlink_nor_fifo_is_opened(tmp_path):
    (tmp_path / "real").write_bytes(WAV)
    (tmp_path / "link").symlink_to("real")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="symbolic"):
        await decode_file(tmp_path / "link", tmp_path / "decoded")
    with pytest.raises(OSError, match="not a regular file"):
        await decode_file(tmp_path / "fifo", tmp_path / "decoded")


# --- No other file is opened


class Trap:
    """Valid audio that playlists point at, as a file and over HTTP; knows whether it was read."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "canary.wav"
        self.file.write_bytes(WAV)
        self.hits = 0
        trap = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                trap.hits += 1
                self.send_response(200)
                self.end_headers()
                self.wfile.write(WAV)

            def log_message(self, *args):
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/canary.wav"
        self.set()

    def set(self) -> None:
        os.utime(self.file, (0, self.file.stat().st_mtime))

    def sprung(self) -> bool:
        return self.hits > 0 or self.file.stat().st_atime != 0


@pytest.fixture
def trap(tmp_path):
    trap = Trap(tmp_path)
    server = threading.Thread(target=trap.server.serve_forever, args=[0.01])
    server.start()
    yield trap
    trap.server.shutdown()
    server.join()
    trap.server.server_close()


PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile '{target}'\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{target}\n#EXT-X-ENDLIST\n",
    "dash": (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT3S"><Period><AdaptationSet contentType="audio">'
        '<Representation id="0" mimeType="audio/wav" bandwidth="1">'
        "<BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>"
    ),
    "sdp": (
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {port} RTP/AVP 0\n"
    ),
}


def playlist(kind: str, trap: Trap, over_http: bool) -> bytes:
    target = trap.url if over_http else trap.file
    return PLAYLISTS[kind].format(target=target, port=trap.server.server_port).encode()


@pytest.mark.fault(41)
@pytest.mark.parametrize(
    ("kind", "over_http"), [("concat", False), ("concat", True), ("hls", False), ("hls", True)]
)
def test_the_trap_works_on_a_careless_decoder(tmp_path, trap, kind, over_http):
    source = tmp_path / "voice.wav"
    source.write_bytes(playlist(kind, trap, over_http))
    careless = {
        "safe": "0",
        "protocol_whitelist": "file,http,tcp",
        "extension_picky": "0",
        "allowed_extensions": "ALL",
        "allowed_segment_extensions": "ALL",
    }
    with av.open(str(source), format=kind, options=careless):
        pass
    assert trap.sprung()


@pytest.mark.fault(41)
@pytest.mark.parametrize("over_http", [False, True])
@pytest.mark.parametrize("kind", PLAYLISTS)
async def test_a_playlist_in_disguise_opens_nothing(tmp_path, trap, kind, over_http):
    source = tmp_path / "voice.wav"
    source.write_bytes(playlist(kind, trap, over_http))
    with pytest.raises(UnusableAudio, match="not a whole wav"):
        await decode_file(source, tmp_path / "decoded")
    assert not trap.sprung()


# --- The child


@pytest.mark.fault(42)
async def test_a_decoder_that_crashes_is_a_refusal(tmp_path):
    assert "failed" in await refusal(tmp_path, WAV, DecodeLimits(memory_bytes=64 << 20))


@pytest.fixture
def children(monkeypatch):
    """The children that are started, from when they run their program."""
    started = asyncio.Queue()
    really_start = asyncio.create_subprocess_exec

    async def start(*args, **kwargs):
        child = await really_start(*args, **kwargs)
        started.put_nowait(psutil.Process(child.pid))
        return child

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    return started


@pytest.mark.fault(42)
async def test_a_decoder_that_hangs_is_killed(tmp_path, children):
    task = asyncio.create_task(refusal(tmp_path, WAV, DecodeLimits(wall_s=0.3)))
    child = await children.get()
    child.suspend()
    assert "too long" in await task
    assert not child.is_running()


async def test_cancelling_leaves_neither_child_nor_file(tmp_path, children):
    task = asyncio.create_task(decoded(tmp_path, WAV))
    child = await children.get()
    child.suspend()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not child.is_running()
    assert os.listdir(tmp_path) == ["voice.wav"]


async def test_decoder_gets_no_environment_variables(tmp_path, children, monkeypatch):
    monkeypatch.setenv("API_KEY", "secret")
    task = asyncio.create_task(decoded(tmp_path, WAV))
    seen = (await children.get()).environ()
    await task
    assert list(seen) == ["OPENBLAS_NUM_THREADS"]


def test_full_disk_has_its_own_exit_status(tmp_path):
    (tmp_path / "voice.wav").write_bytes(WAV)
    with open(tmp_path / "voice.wav", "rb") as media, open("/dev/full", "wb") as full:
        ending = subprocess.run(CHILD, stdin=media, stdout=full, timeout=20, check=False)
    assert ending.returncode == ExitStatus.DISK_FULL


def test_importing_the_module_loads_no_parser():
    code = "import sys, app.audio.sandbox; sys.exit('av' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
