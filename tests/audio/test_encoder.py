import gc
import io
import struct
import wave
from collections.abc import Callable
from itertools import pairwise

import av
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.audio.encoder import Encoder, wav_header
from app.audio.formats import ENCODERS
from app.audio.mp3_info import crc16
from app.core.errors import EncoderFailed
from app.pipeline.joiner import to_int16

RATE = 24_000
FORMATS = list(ENCODERS)
FFMPEG_FORMATS = ["mp3", "fmp4", "webm", "opus", "aac", "flac"]
CODEC_FRAME_S = {"mp3": 576 / RATE, "fmp4": 1024 / RATE, "aac": 1024 / RATE}
LONGEST_DELAY = {"mp3": 1105, "aac": 1024}  # in samples; these have no place to tell it

Floats = NDArray[np.float64]


def speech(seconds: float, rate: int = RATE) -> bytes:
    """Return int16 PCM of a gliding voice-like buzz in syllables; no two parts are equal."""
    t = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(120 + 40 * np.sin(2 * np.pi * 0.37 * t)) / rate
    buzz = sum(np.sin(k * phase) / k for k in range(1, 20))
    breath = np.random.default_rng(0).standard_normal(len(t))
    audio = 0.2 * buzz * (0.6 + 0.4 * np.sin(2 * np.pi * 2.9 * t)) + 0.003 * breath
    return to_int16(audio.astype(np.float32))


def encode(encoder: Encoder, pcm: bytes, samples: int | None = None) -> bytes:
    """The finished stream of `pcm`, handed over `samples` samples at a time."""
    step = 2 * samples if samples else max(len(pcm), 1)
    pieces = [encoder.encode(pcm[i : i + step]) for i in range(0, len(pcm), step)]
    return b"".join(pieces) + encoder.finish()


def abandon(encoder: Encoder, pcm: bytes) -> bytes:
    """Encode the start of a stream and do not finish it."""
    return encoder.encode(pcm)


def decode(name: str, encoded: bytes, rate: int = RATE) -> Floats:
    """What a player makes of `encoded`, at `rate` Hz, ±1."""
    if name == "raw_pcm":
        return floats(encoded)
    resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
    with av.open(io.BytesIO(encoded)) as file:
        frames = [part for frame in file.decode(audio=0) for part in resampler.resample(frame)]
    frames += resampler.resample(None)
    return floats(b"".join(frame.to_ndarray().astype("<i2").tobytes() for frame in frames))


def floats(pcm: bytes) -> Floats:
    return np.frombuffer(pcm, "<i2") / 32768


def delay(decoded: Floats, source: Floats) -> int:
    """By how many samples `decoded` lags behind `source`, where the two agree best."""
    size = len(decoded) + len(source)
    spectrum = np.fft.rfft(decoded, size) * np.fft.rfft(source, size).conj()
    lag = int(np.fft.irfft(spectrum, size).argmax())
    return lag if lag < len(decoded) else lag - size


def assert_same_audio(decoded: Floats, source: Floats, lag: int) -> None:
    """Every half second of `source` is in `decoded`, `lag` samples later."""
    shifted = np.pad(decoded[lag:], (0, max(0, len(source) - len(decoded) + lag)))
    for start in range(0, len(source) - RATE // 4, RATE // 2):
        window = slice(start, start + RATE // 2)
        assert np.corrcoef(shifted[: len(source)][window], source[window])[0, 1] > 0.99


def boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """The MP4 boxes in `data`: type and payload."""
    found = []
    while data:
        size, kind = struct.unpack_from(">I4s", data)
        found.append((kind, data[8:size]))
        data = data[size:]
    return found


def fragment_starts(encoded: bytes) -> list[float]:
    """When the fragments of an MP4 or the clusters of a WebM file begin, in seconds."""
    if encoded[4:8] == b"ftyp":
        moofs = [dict(boxes(payload)) for kind, payload in boxes(encoded) if kind == b"moof"]
        times = [dict(boxes(moof[b"traf"]))[b"tfdt"] for moof in moofs]
        return [struct.unpack(">4xQ", time)[0] / RATE for time in times]
    starts = []
    for cluster in encoded.split(bytes.fromhex("1f43b675"))[1:]:
        timestamp = 9 - cluster[0].bit_length()  # behind the cluster's size, a varint
        assert cluster[timestamp] == 0xE7
        length = cluster[timestamp + 1] & 0x7F
        value = cluster[timestamp + 2 : timestamp + 2 + length]
        starts.append(int.from_bytes(value, "big") / 1000)
    return starts


@pytest.mark.parametrize("rate", [24_000, 22_050, 48_000])
@pytest.mark.parametrize("name", FORMATS)
def test_decoded_audio_equals_the_input(name: str, rate: int) -> None:
    pcm = speech(3.21, rate)
    encoded = encode(ENCODERS[name](rate), pcm, samples=1234)
    decoded, source = decode(name, encoded, rate), floats(pcm)
    lag = delay(decoded, source)
    assert_same_audio(decoded, source, lag)
    assert 0 <= lag <= LONGEST_DELAY.get(name, 1)
    surplus_s = (len(decoded) - len(source)) / rate
    assert 0 <= surplus_s <= 3 * CODEC_FRAME_S.get(name, 0) * RATE / min(rate, RATE) + 1 / rate


@pytest.mark.parametrize("samples", [1, 7, 239, 5001])
@pytest.mark.parametrize("name", FORMATS)
def test_the_stream_does_not_depend_on_how_the_audio_is_pushed(name: str, samples: int) -> None:
    pcm = speech(0.5)
    in_pieces = encode(ENCODERS[name](RATE), pcm, samples)
    assert in_pieces == encode(ENCODERS[name](RATE), pcm)


@given(st.lists(st.binary(max_size=50).map(lambda piece: piece + piece)))
def test_pcm_and_wav_pass_any_pieces_on_unchanged(pieces: list[bytes]) -> None:
    raw, wav = ENCODERS["raw_pcm"](RATE), ENCODERS["wav"](RATE)
    assert [raw.encode(piece) for piece in pieces] == pieces
    assert raw.finish() == b""
    stream = b"".join([wav.encode(piece) for piece in pieces]) + wav.finish()
    assert stream == wav_header(RATE, None) + b"".join(pieces)


@pytest.mark.parametrize("name", FORMATS)
def test_the_first_200_ms_decode_without_further_data(name: str) -> None:
    pcm = speech(0.2)
    decoded = decode(name, ENCODERS[name](RATE).encode(pcm))
    assert len(decoded) >= 0.04 * RATE


@pytest.mark.parametrize("name", FORMATS)
def test_an_unfinished_stream_plays_all_but_its_last_moments(name: str) -> None:
    pcm = speech(1.4)
    encoder = ENCODERS[name](RATE)
    encoded = b"".join([encoder.encode(b""), encoder.encode(pcm), encoder.encode(b"")])
    decoded, source = decode(name, encoded), floats(pcm)
    lag = delay(decoded, source)
    heard = len(decoded) - lag
    assert heard >= 1.2 * RATE
    assert_same_audio(decoded, source[: min(heard, len(source))], lag)


@pytest.mark.parametrize("name", ["fmp4", "webm"])
def test_fragments_follow_each_other_within_200_ms(name: str) -> None:
    starts = fragment_starts(encode(ENCODERS[name](RATE), speech(3)))
    assert starts[0] == 0
    assert starts[-1] > 2.8
    assert all(0 < later - earlier <= 0.2 for earlier, later in pairwise(starts))


@pytest.mark.parametrize("name", ["fmp4", "webm"])
def test_timestamps_are_continuous(name: str) -> None:
    encoded = encode(ENCODERS[name](RATE), speech(3), samples=777)
    with av.open(io.BytesIO(encoded)) as file:
        packets = [packet for packet in file.demux(audio=0) if packet.size]
    ends = [float((packet.pts + packet.duration) * packet.time_base) for packet in packets]
    starts = [float(packet.pts * packet.time_base) for packet in packets]
    assert starts[1:] == pytest.approx(ends[:-1], abs=0.0011)  # WebM counts milliseconds


def test_streams_begin_with_complete_initialisation() -> None:
    kinds = [kind for kind, _ in boxes(encode(ENCODERS["fmp4"](RATE), speech(1)))]
    assert kinds == [b"ftyp", b"moov", *[b"moof", b"mdat"] * ((len(kinds) - 2) // 2)]
    webm = ENCODERS["webm"](RATE).encode(speech(0.02))
    assert webm.startswith(bytes.fromhex("1a45dfa3"))  # EBML
    assert b"A_OPUS" in webm
    assert b"OpusHead" in webm
    mp3 = encode(ENCODERS["mp3"](RATE), speech(1))
    assert mp3[:2] == b"\xff\xf3"  # frame sync, MPEG-2 layer III
    assert b"Xing" not in mp3
    assert b"Info" not in mp3


@pytest.mark.parametrize("name", FORMATS)
def test_a_single_sample_is_not_lost(name: str) -> None:
    samples = 100 if name == "opus" else 1  # FFmpeg reads fewer from Ogg only as none
    encoded = encode(ENCODERS[name](RATE), b"\x00\x40" * samples)
    decoded = decode(name, encoded)
    assert np.abs(decoded).max() > 0.1
    assert len(decoded) <= 0.13 * RATE


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("wav", b"RIFF"),
        ("mp3", b""),
        ("fmp4", b"\x00\x00\x00\x1cftyp"),
        ("raw_pcm", b""),
        ("webm", b"\x1aE\xdf\xa3"),
        ("opus", b"OggS"),
        ("aac", b""),
        ("flac", b"fLaC"),
    ],
)
def test_a_stream_without_audio_is_its_header(name: str, start: bytes) -> None:
    encoder = ENCODERS[name](RATE)
    encoded = encoder.encode(b"") + encoder.finish()
    assert encoded.startswith(start)
    assert bool(encoded) == bool(start)


def test_wav_sizes_are_unknown_in_a_stream_and_true_in_a_file() -> None:
    pcm, header = speech(0.5), wav_header(RATE, None)
    assert len(header) == 44
    assert header[4:8] == header[40:44] == b"\xff\xff\xff\xff"
    encoder = ENCODERS["wav"](RATE)
    whole = encoder.finalize_file(encode(encoder, pcm, samples=100))
    assert whole[:44] == wav_header(RATE, len(pcm))
    assert struct.unpack_from("<I", whole, 4)[0] == len(whole) - 8
    with wave.open(io.BytesIO(whole)) as file:
        assert file.getparams()[:4] == (1, 2, RATE, len(pcm) // 2)
        assert file.readframes(len(pcm)) == pcm


def test_flac_length_is_unknown_in_a_stream_and_true_in_a_file() -> None:
    encoder = ENCODERS["flac"](RATE)
    streamed = encode(encoder, speech(1.5), samples=100)
    whole = encoder.finalize_file(streamed)
    assert length_in(streamed) is None
    assert length_in(whole) == 1.5 * RATE
    assert decode("flac", whole).tolist() == decode("flac", streamed).tolist()


def length_in(flac: bytes) -> int | None:
    """In samples, as a player reads it from the header."""
    with av.open(io.BytesIO(flac)) as file:
        return file.streams.audio[0].duration


@pytest.mark.parametrize("samples", [100, RATE // 5, RATE // 2 + 1, 2 * RATE])
@pytest.mark.parametrize("rate", [24_000, 44_100, 48_000])
def test_mp3_file_has_the_length_of_its_input_to_the_sample(rate: int, samples: int) -> None:
    encoder = ENCODERS["mp3"](rate)
    pcm = speech(samples / rate, rate)
    streamed = encode(encoder, pcm, samples=100)
    whole = encoder.finalize_file(streamed)
    assert whole.endswith(streamed)
    assert stated_seconds(whole) == pytest.approx(samples / rate, abs=1e-6)
    assert len(decode("mp3", whole, rate)) == samples
    assert len(decode("mp3", streamed, rate)) > samples + 500
    if samples > rate // 4:
        assert delay(decode("mp3", whole, rate), floats(pcm)) == 0


def test_info_frame_of_an_mp3_file_is_as_lame_writes_it() -> None:
    """The fields that players read: frames, bytes, delay and padding, and the sum of all."""
    encoder = ENCODERS["mp3"](RATE)
    whole = encoder.finalize_file(encode(encoder, speech(0.5), samples=100))
    frame = whole[:288]
    assert frame[13:17] == b"Info"
    flags, frames, size = struct.unpack_from(">III", frame, 17)
    assert (flags, frames, size) == (15, len(whole) // 288 - 1, len(whole))
    assert frame[133:142] == b"LAME3.100"
    gap = int.from_bytes(frame[154:157], "big")
    assert (gap >> 12, frames * 576 - (gap >> 12) - (gap & 0xFFF)) == (576, RATE // 2)
    assert crc16(b"123456789") == 0xBB3D  # of the CRC catalogue, "ARC"
    assert int.from_bytes(frame[167:169], "big") == crc16(frame[:167])


@pytest.mark.parametrize("seconds", [0.2, 1.5, 3.21])
def test_webm_duration_is_unknown_in_a_stream_and_true_in_a_file(seconds: float) -> None:
    encoder = ENCODERS["webm"](RATE)
    streamed = encode(encoder, speech(seconds), samples=100)
    whole = encoder.finalize_file(streamed)
    assert (stated_seconds(streamed), len(whole)) == (None, len(streamed))
    assert stated_seconds(whole) == pytest.approx(seconds, abs=0.001)
    assert decode("webm", whole).tolist() == decode("webm", streamed).tolist()


@pytest.mark.parametrize("seconds", [0.2, 1.5, 20.04])
@pytest.mark.parametrize("name", ["wav", "mp3", "fmp4", "webm", "opus", "flac"])
def test_every_file_states_its_length(name: str, seconds: float) -> None:
    encoder = ENCODERS[name](RATE)
    whole = encoder.finalize_file(encode(encoder, speech(seconds), samples=4800))
    assert stated_seconds(whole) == pytest.approx(seconds, abs=0.1)


def stated_seconds(file: bytes) -> float | None:
    """Return the duration that a player shows before it has read the file."""
    with av.open(io.BytesIO(file)) as media:
        return None if media.duration is None else media.duration / av.time_base


def test_an_ogg_page_is_out_as_soon_as_40_ms_are_in_it() -> None:
    encoder = ENCODERS["opus"](RATE)
    pcm = speech(1)
    waiting = longest = 0
    for start in range(0, len(pcm), RATE // 50):  # 10 ms of it
        waiting = 0 if encoder.encode(pcm[start : start + RATE // 50]) else waiting + 1
        longest = max(longest, waiting)
    assert longest <= 5


@pytest.mark.parametrize(
    ("name", "media_type"),
    {
        "wav": "audio/wav",
        "mp3": "audio/mpeg",
        "fmp4": "audio/mp4",
        "raw_pcm": "audio/pcm;rate=22050;channels=1",
        "webm": "audio/webm",
        "opus": "audio/opus",
        "aac": "audio/aac",
        "flac": "audio/flac",
    }.items(),
)
def test_media_types_files_and_threads(name: str, media_type: str) -> None:
    encoder = ENCODERS[name](22_050)
    assert encoder.media_type == media_type
    assert encoder.cpu_bound == (name in FFMPEG_FORMATS)
    assert name in ("wav", "flac") or encoder.finalize_file(b"stream") == b"stream"


@pytest.mark.parametrize("name", FFMPEG_FORMATS)
def test_an_error_of_ffmpeg_is_an_encoder_failure(name: str) -> None:
    encoder = ENCODERS[name](RATE)
    encode(encoder, speech(0.1))
    with pytest.raises(EncoderFailed):
        encoder.encode(speech(0.1))


@pytest.mark.timed
@pytest.mark.parametrize(
    "name",
    [
        name if name == "mp3" else pytest.param(name, marks=pytest.mark.heavy)
        for name in FFMPEG_FORMATS
    ],
)
@pytest.mark.parametrize("leave", [abandon, encode])
def test_encoders_that_are_dropped_leave_nothing_behind(
    name: str, leave: Callable[[Encoder, bytes], bytes]
) -> None:
    """By reference counts alone: the collector would come late, or never, for native memory."""
    process, pcm = psutil.Process(), speech(0.5)
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):  # until the allocator has what it needs
            leave(ENCODERS[name](RATE), pcm)
        memory, descriptors = process.memory_info().rss, process.num_fds()
        for _ in range(200):
            leave(ENCODERS[name](RATE), pcm)
        assert process.num_fds() == descriptors
        assert process.memory_info().rss - memory < 2_000_000
    finally:
        gc.enable()
